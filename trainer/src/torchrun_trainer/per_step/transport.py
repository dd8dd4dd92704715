"""Transport: how a newcomer gets the state of a peer."""

from __future__ import annotations

import io
import os
import threading
from datetime import timedelta
from typing import Any

import torch

from torchrun_trainer.launch.checks import LaunchError


def imported() -> Any:  # noqa: ANN401
    """Import torchft. Raises LaunchError if it is not installed."""
    os.environ.setdefault("RUST_LOG", "error")  # otherwise several lines per step
    try:
        import torchft  # type: ignore[import-untyped]  # noqa: PLC0415 (slow, and only some images have it)
    except ImportError as error:
        raise LaunchError(
            f"recovery step by step needs torchft, which this image lacks ({error}): "
            "pip install 'torchrun-trainer[torchft]'"
        ) from error
    return torchft


def transport(address: str, timeout: timedelta) -> Any:  # noqa: ANN401
    """Return torchft's transport by HTTP, which serves at this address and serves copies.

    torchft names the host, which other pods cannot look up; it streams the live tensors, and only types of its own
    list. Here the state is one block of bytes, made when the step begins, with all that torch.save can save.
    """
    from torchft.checkpointing.http_transport import HTTPTransport  # type: ignore[import-untyped]  # noqa: PLC0415

    class Transport(HTTPTransport):  # type: ignore[misc]
        def shutdown(self, wait: bool = True) -> None:
            def close() -> None:
                self._server.shutdown()
                self._server.server_close()

            ending = threading.Thread(target=close, daemon=True)  # torchft's own leaves the server alive
            ending.start()
            if wait:
                ending.join()
            self._state_dict = self._chunks = None

        def metadata(self) -> str:
            host = f"[{address}]" if ":" in address else address
            return f"http://{host}:{self._server.socket.getsockname()[1]}/checkpoint/"

        def send_checkpoint(self, dst_ranks: list[int], step: int, state_dict: object, timeout: timedelta) -> None:
            buffer = io.BytesIO()
            torch.save(state_dict, buffer)
            block = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
            super().send_checkpoint(dst_ranks, step, {"state": block}, timeout)

        def recv_checkpoint(self, src_rank: int, metadata: str, step: int, timeout: timedelta) -> object:
            block = super().recv_checkpoint(src_rank, metadata, step, timeout)["state"]
            # The peer runs the same script: its state may hold whatever that script saves.
            return torch.load(io.BytesIO(block.numpy().tobytes()), map_location="cpu", weights_only=False)

    return Transport(timeout=timeout, num_chunks=0)
