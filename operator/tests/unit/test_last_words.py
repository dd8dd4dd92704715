"""The last words of real programs: what each of them wrote when it ended by an error, and the message that it becomes.

The logs in `words` are of Python 3.11, torch 2.15, glibc 2.36, Node.js 20, Go 1.26, Rust 1.95, Java 17, Perl 5.36
and bash 5.2. Only paths are changed.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchrun_operator.core.facts.words import Words, of_log, of_termination

LOGS = Path(__file__).parent / "words"


def stamped(text: str) -> str:
    """Return the text as the log of a container, with a millisecond from one line to the next."""
    lines = text.removesuffix("\n").split("\n")
    return "".join(f"2026-01-31T12:00:{i / 1000:012.9f}Z {line}\n" for i, line in enumerate(lines))


def spoken(name: str) -> str:
    """Return what a program wrote, as the operator reads it."""
    return (LOGS / f"{name}.log").read_bytes().decode(errors="replace")


def error(message: str, **found: int | None) -> Words:
    """Return an error that was found."""
    return Words(message, **found)  # type: ignore[arg-type]


def line(message: str, **found: int | None) -> Words:
    """Return the last line of a program that left no error."""
    return Words(message, guessed=True, **found)  # type: ignore[arg-type]


WORDS = {
    "agent-nproc": error("ValueError: Unsupported nproc_per_node value: gpus"),
    "agent-usage": line("run.py: error: ambiguous option: --nproc could match --nproc-per-node, --nproc_per_node"),
    "abort": line("Fatal Python error: Aborted"),
    "argparse-required": line("train.py: error: the following arguments are required: --data"),
    "argparse-unknown": line("train.py: error: unrecognized arguments: --sed=1"),
    "assertion": error("AssertionError"),
    "atexit-after": error("ValueError: the mask is empty"),
    "backspaces": error("ValueError: sample 5 has no label"),
    "bar-rich": error("ValueError: sample 9 has no label"),
    "bar-tqdm-nested": error("FloatingPointError: gradient overflow in epoch 1"),
    "bar-tqdm": error("ValueError: loss is NaN at step 50"),
    "bar": error("ValueError: loss is NaN at step 7: lower the learning rate"),
    "binary-after": error("ValueError: not a tokenizer file"),
    "binary-only": line("reading weights"),
    "c-assert": error("python3.11: lib.cpp:10: void asserted(): Assertion `ranks > 0' failed."),
    "called-process": error(
        "subprocess.CalledProcessError: Command '['sh', '-c', 'echo gone >&2; exit 4']' returned "
        "non-zero exit status 4."
    ),
    "chain-during": error("ValueError: config.yaml lacks optimizer.lr"),
    "chain-from": error("ValueError: config.yaml lacks optimizer.lr"),
    "chain-logging": error("ValueError: config.yaml lacks optimizer.lr"),
    "chain-none": error("ValueError: config.yaml lacks optimizer.lr"),
    "chain-three": error("SystemError: cannot start"),
    "child": error("OSError: cannot read /data/1"),
    "colours-logging": error("FileNotFoundError: [Errno 2] No such file or directory: '/data/train.bin'"),
    "colours-pygments": error("RuntimeError: no GPU with 80 GiB"),
    "colours-rich": error("KeyError: 'optimizer'"),
    "crlf": error("ValueError: written on Windows"),
    "custom": error("f.<locals>.Local: no tokens left"),
    "dash-not-found": line("sh: 1: trainn: not found"),
    "double-free": error("double free or corruption (top)"),
    "empty-words": error("ValueError"),
    "exception-then-terminate": error("ValueError: the mask is empty"),
    "exception": error("RuntimeError: the learning rate is a banana"),
    "executor": error("ValueError: file 7 is not JSON"),
    "exit-3": line("shard 1: checksum mismatch"),
    "exit-code": line("nothing to train on in /data"),
    "exit-message-flushed": line("config.yaml: batch_size must be a multiple of 8"),
    "exit-message": line("config.yaml: batch_size must be a multiple of 8"),
    "exit-paragraph": line("config.yaml has two errors: - lr is missing - seed is no number"),
    "free": error("free(): invalid pointer"),
    "go-deadlock": line("fatal error: all goroutines are asleep - deadlock!"),
    "go-log": line("2026/11/29 14:48:31 bucket data-1 does not exist"),
    "go-panic": error("panic: runtime error: index out of range [5] with length 3"),
    "group-nested": error(
        "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions): OSError: shard 1 is "
        "missing; OSError: shard 2 is missing"
    ),
    "group": error(
        "ExceptionGroup: downloads failed (2 sub-exceptions): OSError: shard 1 is missing; ValueError: shard 2 is empty"
    ),
    "hydra-like": error("ValueError: lr must be positive"),
    "ignored-after": error("ValueError: the mask is empty"),
    "indentation": error(
        "IndentationError: expected an indented block after function definition on line 1 (/workspace/train.py, line 2)"
    ),
    "interrupted": error("KeyboardInterrupt"),
    "java-cause": error('Exception in thread "main" java.lang.RuntimeException: bad manifest'),
    "java": error('Exception in thread "main" java.lang.IllegalStateException: no partition for key 7'),
    "loader-chain": error("LookupError: sample 3 has no label (in DataLoader worker process 0)"),
    "loader-key": error("KeyError: 'label' (in DataLoader worker process 0)"),
    "loader-killed": error("RuntimeError: DataLoader worker (pid(s) 19416) exited unexpectedly"),
    "loader": error("OSError: image 3 is truncated: /data/img3.jpg (in DataLoader worker process 0)"),
    "logging-each-line": error("PermissionError: [Errno 13] Permission denied: '/snapshots/step-100'"),
    "logging-json": error("ValueError: invalid literal for int() with base 10: 'ten'"),
    "logging": error("KeyError: 'lr'"),
    "loguru": error("ValueError: the vocabulary is empty"),
    "memory": error("MemoryError"),
    "no-cuda": error(
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA "
        "GPU and installed a driver from http://www.nvidia.com/Download/index.aspx"
    ),
    "no-file": line("/usr/bin/python3: can't open file '/workspace/training.py': [Errno 2] No such file or directory"),
    "no-module-m": line(
        "/usr/bin/python3: Error while finding module specification for 'train.main' "
        "(ModuleNotFoundError: No module named 'train')"
    ),
    "no-module": error("ModuleNotFoundError: No module named 'flash_attn'"),
    "no-words": error("ValueError"),
    "node-code": line("Error: ENOENT: no such file or directory, open '/data/manifest.json'"),
    "node-module": line("Error: Cannot find module '/workspace/missing.js'"),
    "node-rejection": line("TypeError: url is undefined"),
    "node": line("Error: manifest.json has no shards"),
    "noise-after": error("ValueError: the loss is negative"),
    "notes": error("ValueError: bad shape"),
    "perl": line("no shards in /data at x.pl line 1."),
    "pool": error("ValueError: file 7 is not JSON"),
    "recursion": error("RecursionError: maximum recursion depth exceeded"),
    "retries": error("TimeoutError: gave up after 3 attempts"),
    "rust-backtrace": error(
        "thread 'main' (9630) panicked at main.rs:1:67: index out of bounds: the len is 1 but the index is 5"
    ),
    "rust": error(
        "thread 'main' (9569) panicked at main.rs:1:78: called `Result::unwrap()` on an `Err` "
        'value: "shard 3 is missing"'
    ),
    "segfault": error("Fatal Python error: Segmentation fault"),
    "shapes": error("RuntimeError: mm: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
    "shared-library": error(
        "./prog: error while loading shared libraries: libdata.so: cannot open shared object file: "
        "No such file or directory"
    ),
    "shell-cp": line("cp: cannot stat '/data/a': No such file or directory"),
    "shell-not-found": line("bash: line 1: trainn: command not found"),
    "shell-segfault": line("bash: line 1: 4562 Segmentation fault /usr/bin/python3 train.py"),
    "shell-unset": line("bash: line 1: DATA_URL: unbound variable"),
    "signalled": error("Fatal Python error: Bus error"),
    "spawned": error("ValueError: shard 0 is empty (in Process 0)"),
    "state-dict": error(
        "RuntimeError: Error(s) in loading state_dict for Linear: size mismatch for weight: "
        "copying a param with shape torch.Size([2, 3]) from checkpoint, the shape in current model "
        "is torch.Size([2, 2])."
    ),
    "syntax-imported": error("SyntaxError: expected ':' (/workspace/model.py, line 1)"),
    "syntax": error("SyntaxError: invalid syntax (/workspace/train.py, line 4)"),
    "task": error("OSError: socket lost"),
    "terminate-plain": error(
        "terminate called after throwing an instance of 'std::runtime_error' what(): ring buffer is closed"
    ),
    "terminate-thread": error(
        "terminate called after throwing an instance of 'std::runtime_error' what(): NCCL thread lost its socket"
    ),
    "terminate": error(
        "terminate called after throwing an instance of 'std::runtime_error' what(): ring buffer is closed"
    ),
    "thread-and-main": error("RuntimeError: no more batches"),
    "thread": error("OSError: the disk of /data is full"),
    "torchrun-redirects": error("", local_rank=1, exit_code=1),
    "torchrun-tee": error("ValueError: the labels of rank 1 are gone", rank=1, local_rank=1, exit_code=1),
    "torchrun": error("ValueError: the labels of rank 1 are gone", rank=1, local_rank=1, exit_code=1),
    "torchrun-argparse": line(
        "train.py: error: the following arguments are required: --data", local_rank=0, exit_code=2
    ),
    "torchrun-chain": error("ValueError: config.yaml lacks optimizer.lr", rank=1, local_rank=1, exit_code=1),
    "torchrun-exit": line("rank 1 has no data", local_rank=1, exit_code=1),
    "torchrun-killed": error("", local_rank=1, exit_code=-9),
    "torchrun-loader": error(
        "OSError: image 3 is truncated: /data/img3.jpg (in DataLoader worker process 0)",
        rank=0,
        local_rank=0,
        exit_code=1,
    ),
    "torchrun-no-file": line(
        "/opt/venv/bin/python: can't open file '/workspace/training.py': [Errno 2] No such file or directory",
        local_rank=1,
        exit_code=2,
    ),
    "torchrun-os-exit": line("license expired", local_rank=1, exit_code=3),
    "torchrun-recorded": error("ValueError: recorded words", local_rank=1, exit_code=1),
    "torchrun-segfault": error("Fatal Python error: Segmentation fault", local_rank=1, exit_code=-11),
    "torchrun-sigterm-words": error("ValueError: rank 1 lost its shard", local_rank=1, exit_code=1),
    "torchrun-syntax": error("SyntaxError: invalid syntax (/workspace/train.py, line 1)", local_rank=0, exit_code=1),
    "torchrun-tee-exit": line("rank 1 has no data", local_rank=1, exit_code=1),
    "torchrun-template": error("ValueError: the labels of rank 1 are gone", local_rank=1, exit_code=1),
    "unicode": error("ValueError: Größe ≠ 3 für «模型» 🔥"),
    "warning-after": line("no checkpoint below /snapshots"),
}


@pytest.mark.parametrize(("name", "expected"), WORDS.items(), ids=WORDS)
def test_the_words(name: str, expected: Words) -> None:
    found = of_log(stamped(spoken(name)), ended=not name.startswith("torchrun"), workers=2)
    assert found is not None
    assert replace(found, traceback="", time=None) == expected
    assert len(found.traceback) <= 2000


def test_each_log_has_its_words() -> None:
    assert sorted(WORDS) == sorted(path.stem for path in LOGS.glob("*.log"))


MARK = "Traceback (most recent call last):"
PIECES = st.sampled_from(
    [
        MARK,
        f"Original {MARK}",
        f"  + Exception Group {MARK}",
        f"{MARK}\\n  File",
        "  | ValueError: a",
        '  File "a.py", line 1',
        "ValueError: a",
        "ValueError:",
        "During handling of the above exception, another exception occurred:",
        "",
        "ValueError: Caught ValueError in DataLoader worker process 0.",
        "-- Process 0 terminated with the following error:",
        "[rank0]: ",
        "[default0]:[rank1]: ",
        "\r 10%|#| 1/10",
        "\x1b[31m",
        "12:00:01 ERROR ",
        "Exception ignored in: a",
        "SyntaxError: a",
        "Connection closed by peer",
        "panic: a",
        "Fatal Python error: Aborted",
        "\tat a",
        "\x00\ufffd",
        "E0131 12:00:01.9 7 torch/distributed/elastic/api.py:984] failed (exitcode: 1) local_rank: 0 (pid: 2)",
        "W0131 12:00:01.8 7 torch/distributed/elastic/api.py:1028] Sending process 22 closing signal SIGTERM",
    ]
)
LINES = st.lists(st.lists(PIECES | st.text(max_size=20), max_size=3).map("".join), max_size=60)


@settings(max_examples=300, deadline=None)
@given(LINES, st.booleans())
@example(
    [MARK, "ValueError: a", "", "During handling of the above exception, another exception occurred:"] * 1000, True
)
@example([MARK, "ValueError: a", f"Original {MARK}", "ValueError: b"] * 1000, True)
@example(["x" * 1_000_000, "[rank0]: " * 100_000, "\r 1%" * 200_000, "1:" * 3000 + MARK, "1:" * 3000], True)
def test_no_log_breaks_the_reading(lines: list[str], ended: bool) -> None:
    found = of_log(stamped("\n".join(lines)), ended=ended)
    if found is not None:
        assert len(found.message) <= 500
        assert len(found.traceback) <= 2000
        assert "\n" not in found.message
    of_termination("\n".join(lines))


@pytest.mark.parametrize(
    "after",
    ["step 1\n" * 1500, "x" * 1_000_000, "\r 10%|#| 1/10" * 20_000, "\x00\ufffd\n" * 100],
    ids=["1,500 lines", "a long line", "a progress bar", "binary"],
)
@pytest.mark.parametrize("name", ["exception", "bar", "chain-from", "logging-each-line", "spawned", "colours-rich"])
def test_what_follows_hides_no_error(name: str, after: str) -> None:
    found = of_log(stamped(spoken(name) + after), ended=True)
    assert found is not None
    assert replace(found, traceback="", time=None) == WORDS[name]


LOOP = "".join(f"step {i} loss 0.{i}\n" for i in range(300))
TWO_PIPES = {
    "the last words come first": ("loading\nno data in /data\n" + LOOP, "no data in /data"),
    "the last words come in between": (LOOP + "no data in /data\n" + LOOP, "no data in /data"),
    "the last words come last": (LOOP + "no data in /data\n", "no data in /data"),
    "there are none": (LOOP, "step 299 loss 0.299"),
    "a long line": ("x" * 10_000 + " no data in /data\n", "x" * 483 + " no data in /data"),
    "a few steps": ("loading\nstep 1\nstep 2\n", "step 2"),
}


@pytest.mark.parametrize(("text", "message"), TWO_PIPES.values(), ids=TWO_PIPES)
def test_the_output_of_a_loop_hides_no_last_words(text: str, message: str) -> None:
    found = of_log(stamped(text), ended=True)
    assert found is not None
    assert found.message == message


@pytest.mark.parametrize(
    "prefix",
    [
        "[rank3]: ",
        "[default0]:",
        "[default1]:[rank3]: ",
        "(Worker pid=12) ",
        "2026-01-31 12:00:0{}.123 | ERROR | train - ",
        "3: ",
        "\x1b[36mnode-0 |\x1b[0m ",
        "[1,3]<stderr>:",
        "W0131 12:00:0{}.123456 9 train.py:7] ",
    ],
)
@pytest.mark.parametrize("name", ["exception", "chain-from", "chain-three", "spawned", "state-dict", "loader"])
def test_what_precedes_each_line_hides_no_error(name: str, prefix: str) -> None:
    lines = [prefix.format(i % 10) + text for i, text in enumerate(spoken(name).splitlines())]
    found = of_log(stamped("\n".join(lines)), ended=True)
    assert found is not None
    assert found.message == WORDS[name].message
