"""The rendezvous program as one file: any supported Python can read it, and it is small enough for a ConfigMap."""

import ast
import io
import zipfile

import pytest

from torchrun_operator.programs import zipapp

ARCHIVE = zipfile.ZipFile(io.BytesIO(zipapp("torchrun_rendezvous")))


@pytest.mark.parametrize("name", ARCHIVE.namelist())
def test_it_runs_on_the_oldest_python_that_images_have(name: str) -> None:
    ast.parse(ARCHIVE.read(name), feature_version=(3, 10))


def test_every_module_is_small() -> None:
    lines = {name: len(ARCHIVE.read(name).splitlines()) for name in ARCHIVE.namelist()}
    assert {name: count for name, count in lines.items() if count > 250} == {}


def test_a_config_map_takes_it() -> None:
    assert len(zipapp("torchrun_rendezvous")) < 64 << 10
