"""The operator and the trainer library agree on the errors that only follow from the failure of another rank."""

import pytest

from torchrun_operator.core.facts.words import PEER_GONE, Words, earliest
from torchrun_trainer.launch import errorfile


def test_both_have_the_same_patterns() -> None:
    assert errorfile._ECHOES.pattern.split("|") == list(PEER_GONE)


@pytest.mark.parametrize(
    ("message", "echo"),
    [
        ("RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.78.1.4]:31337", True),
        ("RuntimeError: [gloo/transport/tcp/pair.cc:547] writev [10.78.1.4]:9: Connection reset by peer", True),
        ("RuntimeError: [gloo/transport/tcp/pair.cc:144] connect [10.78.1.4]:9: Connection refused", True),
        ("torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error", True),
        ("torch.distributed.DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed", True),
        ("BrokenPipeError: [Errno 32] Broken pipe", True),
        ("torch.OutOfMemoryError: CUDA out of memory", False),
        ("ValueError: loss is nan", False),
    ],
)
def test_both_know_an_echo(message: str, echo: bool) -> None:
    silent = Words(exit_code=-9)
    assert bool(errorfile._ECHOES.search(message)) is echo
    assert earliest([("pod-0", Words(message)), ("pod-1", silent)]) == (
        ("pod-1", silent) if echo else ("pod-0", Words(message))
    )
