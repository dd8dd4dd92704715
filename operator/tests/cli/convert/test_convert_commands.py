"""Command lines of torchrun: which options are taken out, and what of the text stays as it is."""

import pytest

from torchrun_cli.convert import commands
from torchrun_operator.api.torchrun import reserved_options

TEXTS = {
    "static": (
        "torchrun --nnodes 2 --nproc_per_node 8 --node_rank 1 --master_addr h --master_port 29500 train.py --lr 1",
        "torchrun train.py --lr 1",
        {"--nnodes": "2", "--nproc-per-node": "8", "--node-rank": "1", "--master-addr": "h", "--master-port": "29500"},
    ),
    "elastic": (
        "torchrun --nnodes=1:4 --rdzv_id=a --rdzv_backend=c10d --rdzv_endpoint=h:1 --rdzv_conf=a=1,b=2 train.py",
        "torchrun train.py",
        {"--nnodes": "1:4", "--rdzv-id": "a", "--rdzv-backend": "c10d", "--rdzv-endpoint": "h:1",
         "--rdzv-conf": "a=1,b=2"},
    ),
    "other options stay": (
        "torchrun --tee 3 --nnodes 2 --log-dir=/l -m train --nnodes 7",
        "torchrun --tee 3 --log-dir=/l -m train --nnodes 7",
        {"--nnodes": "2"},
    ),
    "continued lines": (
        "set -e\ntorchrun --nnodes 2 \\\n    --role x \\\n    --rdzv-id y \\\n    a.py --a \\\n    --nnodes 3\necho\n",
        "set -e\ntorchrun --role x \\\n    a.py --a \\\n    --nnodes 3\necho\n",
        {"--nnodes": "2", "--rdzv-id": "y"},
    ),
    "module": (
        "cd /x; python3 -m torch.distributed.run --standalone --max-restarts=3 a.py",
        "cd /x; python3 -m torch.distributed.run a.py",
        {"--standalone": "", "--max-restarts": "3"},
    ),
    "launch module": (
        "/opt/py/bin/python -m torch.distributed.launch --use_env --nproc_per_node=2 a.py",
        "/opt/py/bin/python -m torch.distributed.launch --use_env a.py",
        {"--nproc-per-node": "2"},
    ),
    "path": ("/opt/conda/bin/torchrun --nnodes 2 a.py", "/opt/conda/bin/torchrun a.py", {"--nnodes": "2"}),
    "abbreviations": (
        "torchrun --nproc 2 --rdzv_end h:1 --standal a.py",
        "torchrun a.py",
        {"--nproc-per-node": "2", "--rdzv-endpoint": "h:1", "--standalone": ""},
    ),
    "ambiguous abbreviation": ("torchrun --rdzv h a.py", "torchrun --rdzv h a.py", {}),
    "variables and quotes": (
        'torchrun --nnodes="$N" --master_addr "$(hostname -i)" --node_rank ${RANK:-0} "$SCRIPT" --a',
        'torchrun "$SCRIPT" --a',
        {"--nnodes": "$N", "--master-addr": "$(hostname -i)", "--node-rank": "${RANK:-0}"},
    ),
    "comment": ("# torchrun --nnodes 2 a.py\ntorchrun a.py\n", "# torchrun --nnodes 2 a.py\ntorchrun a.py\n", {}),
    "two commands": (
        "torchrun --nnodes 2 a.py && torchrun --nnodes 3 b.py | tee log",
        "torchrun a.py && torchrun b.py | tee log",
        {"--nnodes": "3"},
    ),
    "no option": ("exec torchrun train.py", "exec torchrun train.py", {}),
    "another program": ("pip install torchrun-x; my-torchrun --n", "pip install torchrun-x; my-torchrun --n", {}),
    "end after an option": ("torchrun --nnodes", "torchrun", {"--nnodes": ""}),
    "environment before it": ("OMP=1 torchrun --nnodes 2 a.py", "OMP=1 torchrun a.py", {"--nnodes": "2"}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "left", "taken"), TEXTS.values(), ids=TEXTS)
def test_options_are_taken_out_of_shell_texts(text: str, left: str, taken: dict[str, str]) -> None:
    launch = commands.strip_text(text)
    assert (launch.text, launch.options) == (left, taken)


def test_how_often_torchrun_starts() -> None:
    text = "torchrun a.py\n# torchrun b.py\nif true; then torchrun c.py; fi\n"
    assert commands.strip_text(text).torchruns == 2


WORDS = {
    "options": (["torchrun", "--nnodes", "2", "--tee=3", "train.py", "--nnodes", "4"],
                ["torchrun", "--tee=3", "train.py", "--nnodes", "4"], {"--nnodes": "2"}),
    "module": (["python", "-m", "torch.distributed.run", "--standalone", "-m", "train"],
               ["python", "-m", "torch.distributed.run", "-m", "train"], {"--standalone": ""}),
    "other program": (["python", "--nnodes", "2"], ["python", "--nnodes", "2"], {}),
    "nothing": ([], [], {}),
}  # fmt: skip


@pytest.mark.parametrize(("words", "left", "taken"), WORDS.values(), ids=WORDS)
def test_options_are_taken_out_of_commands(words: list[str], left: list[str], taken: dict[str, str]) -> None:
    assert commands.strip_words(words) == (left, taken)


def test_every_option_that_the_operator_rejects_is_taken_out() -> None:
    known = [option for option in commands.OPTIONS if [*reserved_options(["torchrun", option, "value", "a.py"])]]
    assert known == [*commands.OPTIONS]
    assert len(known) == 13


SCRIPTS = {
    "script": ("python3 -u train.py --a 1", "torchrun train.py --a 1"),
    "in a line": ("cd /x && /usr/bin/python train.py", "cd /x && torchrun train.py"),
    "module": ("python -m pkg.train --x", "torchrun -m pkg.train --x"),
    "two scripts": ("python a.py; python b.py", "python a.py; python b.py"),
    "barrier and script": ("python barrier.py && python train.py", "python barrier.py && torchrun train.py"),
    "pip": ("python -m pip install x && python train.py", "python -m pip install x && torchrun train.py"),
    "inline code": ("python -c 'print(1)'", "python -c 'print(1)'"),
    "comment": ("# python a.py\npython b.py\n", "# python a.py\ntorchrun b.py\n"),
}


@pytest.mark.parametrize(("text", "after"), SCRIPTS.values(), ids=SCRIPTS)
def test_torchrun_takes_the_place_of_python(text: str, after: str) -> None:
    assert commands.python_to_torchrun(text) == after


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (["python3", "-u", "a.py", "-v"], ["torchrun", "a.py", "-v"]),
        (["/opt/bin/python3.11", "-m", "pkg"], ["torchrun", "-m", "pkg"]),
        (["python", "-c", "1"], ["python", "-c", "1"]),
        (["./train"], ["./train"]),
        ([], []),
    ],
)
def test_torchrun_takes_the_place_of_python_in_commands(words: list[str], after: list[str]) -> None:
    assert commands.words_to_torchrun(words) == after


@pytest.mark.parametrize(
    ("path", "content", "command", "is_shell"),
    [
        ("/a.sh", "x", [], True),
        ("/a", "#!/usr/bin/env bash\nx", [], True),
        ("/a", "x", ["bash", "/a"], True),
        ("/a", "x", ["python", "/a"], False),
        ("/a.py", "#!/usr/bin/python\n", ["bash", "/b"], False),
    ],
)
def test_shell_scripts_are_recognized(path: str, content: str, command: list[str], is_shell: bool) -> None:
    assert commands.is_shell_file(path, content, command) is is_shell


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("accelerate launch --num_machines 2 a.py", "accelerate launch"),
        ("pip install deepspeed\ndeepspeed --hostfile h a.py", "deepspeed"),
        ("mpirun -np 2 a", "mpirun"),
        ("python deepspeed_train.py", ""),
    ],
)
def test_launchers_are_recognized(text: str, name: str) -> None:
    assert commands.launcher([text]) == name
