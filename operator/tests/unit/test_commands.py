"""What a command does about torchrun."""

import pytest

from torchrun_operator.api.commands import Launch, launch_of

RUN = "/workspace/run.sh"
FOUR = ("--nnodes", "--rdzv_id", "--rdzv_backend", "--rdzv_endpoint")
ALONE = Launch(torchrun=True, options=("--standalone",))
IN_FILE = Launch(torchrun=True, options=("--standalone",), where=f"line 3 of {RUN}")
COMMANDS: dict[str, tuple[tuple[str, ...], Launch]] = {
    "plain": (("torchrun", "train.py"), Launch(torchrun=True)),
    "options of the script": (("torchrun", "train.py", "--standalone", "--rdzv_id=3"), Launch(torchrun=True)),
    "plain, in a shell line": (("bash", "-c", "cd /w && exec torchrun train.py --rdzv_id=3"), Launch(torchrun=True)),
    "a rendezvous of its own": (
        ("bash", "-c", "torchrun --nnodes=2 --rdzv_id=a --rdzv_backend=c10d --rdzv_endpoint=x:1 train.py"),
        Launch(torchrun=True, options=FOUR),
    ),
    "over several lines": (
        ("sh", "-c", 'set -e\n# don\'t ask\nexec torchrun \\\n --nnodes $N \\\n  --rdzv-endpoint "$HOST:1" \\\n  t.py'),
        Launch(torchrun=True, options=("--nnodes", "--rdzv-endpoint"), where="line 4 of the command"),
    ),
    "alone": (("bash", "-lc", "torchrun --standalone t.py 2>&1 | tee log"), ALONE),
    "the module, with another backend": (
        ("bash", "-c", "python -m torch.distributed.run --rdzv-backend etcd-v2 t.py"),
        Launch(torchrun=True, options=("--rdzv-backend",)),
    ),
    "options that lead nowhere else": (
        ("bash", "-c", "torchrun --nnodes=2 --rdzv_backend=c10d --nproc_per_node=8 t.py"),
        Launch(torchrun=True),
    ),
    "variables instead of options": (
        ("bash", "-c", "export PET_RDZV_ENDPOINT=x:1; torchrun t.py"),
        Launch(torchrun=True, options=("PET_RDZV_ENDPOINT",)),
    ),
    "in a subshell, in the background": (
        ("bash", "-c", "(GPUS=1 /opt/conda/bin/torchrun --rdzv-id=$(date) t.py > out) & wait"),
        Launch(torchrun=True, options=("--rdzv-id",)),
    ),
    "a script of spec.files": (("bash", RUN), IN_FILE),
    "a script of spec.files, in a shell line": (("sh", "-c", f"sleep 1; {RUN} && true"), IN_FILE),
    "a quote without an end": (("bash", "-c", "torchrun --standalone t.py; echo 'ready"), ALONE),
    "torchrun only in a text": (("bash", "-c", "echo 'now torchrun --standalone'; ./go"), Launch()),
    "another launcher": (("sh", "-c", "apt update && accelerate launch t.py"), Launch(launcher="accelerate launch")),
    "Python": (("python3", "-u", "t.py", "--lr", "1"), Launch(python="python3 t.py")),
    "Python, in a shell line": (("sh", "-c", "cd /w && python get.py; python t.py"), Launch(python="python t.py")),
    "Python without a script": (("python3", "-c", "import train"), Launch()),
    "a script in the image": (("bash", "/opt/run.sh"), Launch()),
    "the command of the image": ((), Launch()),
}  # fmt: skip


@pytest.mark.parametrize(("command", "expected"), COMMANDS.values(), ids=COMMANDS)
def test_launch_of(command: tuple[str, ...], expected: Launch) -> None:
    files = {RUN: "#!/bin/bash\ncd /w\ntorchrun --standalone t.py\n", "/workspace/t.py": "torchrun --standalone"}
    assert launch_of(command, files, "c10d") == expected
