"""Names of owned objects, and the validity of the longest ones."""

import re

import pytest

from torchrun_operator.api import names

LONGEST = "n" * names.MAX_JOB_NAME_LENGTH


def test_names() -> None:
    assert {
        "service": names.service_name("digits"),
        "rendezvous": names.rendezvous_name("digits"),
        "files": names.files_name("digits"),
        "snapshots": names.snapshots_name("digits"),
        "node": names.node_name("digits", 3),
        "node again": names.other_node_name("digits", 3, 2),
    } == {
        "service": "digits",
        "rendezvous": "digits-rdzv",
        "files": "digits-files",
        "snapshots": "digits-snapshots",
        "node": "digits-3",
        "node again": "digits-3-r2",
    }


@pytest.mark.parametrize(
    "name",
    [
        names.service_name(LONGEST),
        names.rendezvous_name(LONGEST),
        names.node_name(LONGEST, names.MAX_NODES - 1),
        names.other_node_name(LONGEST, names.MAX_NODES - 1, 99),
    ],
)
def test_longest_names_are_labels(name: str) -> None:
    assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)


def test_selector() -> None:
    assert names.node_selector("digits") == "torchrun.dev/job-name=digits,torchrun.dev/role=node"


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("PET_NNODES", True),
        ("PET_RDZV_ANYTHING", True),
        ("TORCHRUN_PROGRESS_URL", True),
        ("RANK", True),
        ("POD_IP", True),
        ("PET_LOG_DIR", False),
        ("NCCL_DEBUG", False),
        ("RANKING", False),
    ],
)
def test_reserved_env(name: str, reserved: bool) -> None:
    assert names.is_reserved_env(name) is reserved
