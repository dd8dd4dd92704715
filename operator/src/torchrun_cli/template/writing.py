"""Writes objects as YAML that every parser reads alike: long texts as blocks, doubtful words in quotes."""

import json
import re

import yaml


class Dumper(yaml.SafeDumper):
    """A dumper without anchors, which are hard to read. It quotes texts that another parser reads as something else."""

    def ignore_aliases(self, data: object) -> bool:
        """Never use anchors."""
        return True


# Other parsers read these as numbers; PyYAML alone would write them without quotes.
Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z"),
    list("-+.0123456789"),
)
Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?0o[0-7_]+\Z"), list("-+0"))
# Words that YAML 1.1 has for true and false in one letter.
Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]\Z"), list("yYnN"))


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, _text)


def to_yaml(value: object) -> str:
    """Return a value as a YAML document; keys keep their order."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)


def to_json(value: object) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
