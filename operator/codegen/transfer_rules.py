"""The rules on inputs and outputs, in CEL."""

from rule import Rule, strings

from torchrun_operator.api import remedies
from torchrun_operator.api.names import INPUT_SCHEMES, OUTPUT_SCHEMES, RESERVED_DIRECTORIES, TRAINER_CONTAINER

_CLEAN = "self.matches('^(/[^/:]+)+$') && !self.split('/').exists(part, part == '.' || part == '..')"
_SCHEME = "self.contains('://') && self.split('://')[0] in"
_MOUNTED = (
    "self.snapshots.mountPath == o.path || o.path.startsWith(self.snapshots.mountPath + '/')",
    "m.mountPath == o.path || o.path.startsWith(m.mountPath + '/')",
)

TRANSFER_RULES: tuple[Rule, ...] = (
    Rule("spec.inputs[].url", f"{_SCHEME} {strings(INPUT_SCHEMES)}", remedies.INPUT_URL),
    Rule("spec.inputs[].path", _CLEAN, remedies.INPUT_PATH),
    Rule(
        "spec.inputs[].path",
        f"!self.matches('^/({'|'.join(RESERVED_DIRECTORIES)})(/|$)')",
        remedies.INPUT_PATH_RESERVED,
        reason="FieldValueForbidden",
    ),
    Rule(
        "spec.inputs",
        "self.all(i, self.exists_one(other, other.path == i.path))",
        "two inputs have the same path; change one of them",
    ),
    Rule(
        "spec.outputs[].url",
        f"{_SCHEME} {strings(OUTPUT_SCHEMES)} && self.split('://')[1].matches('^/?[^/]')",
        remedies.OUTPUT_URL,
    ),
    Rule("spec.outputs[].path", _CLEAN, remedies.OUTPUT_PATH),
    Rule(
        "spec.outputs[]",
        "!has(self.seconds) || (has(self.when) && self.when == 'Periodic')",
        remedies.OUTPUT_SECONDS,
        field=".seconds",
    ),
    Rule(
        "spec.outputs",
        "self.all(o, self.exists_one(other, other.url == o.url))",
        "two outputs have the same url; change one of them",
    ),
    Rule(
        "spec",
        f"!has(self.outputs) || self.outputs.all(o, (has(self.snapshots) && ({_MOUNTED[0]})) "
        f"|| self.template.spec.containers.exists(c, c.name == '{TRAINER_CONTAINER}' && has(c.volumeMounts) "
        f"&& c.volumeMounts.exists(m, {_MOUNTED[1]})))",
        remedies.OUTPUT_NOT_MOUNTED,
        field=".outputs",
    ),
)
