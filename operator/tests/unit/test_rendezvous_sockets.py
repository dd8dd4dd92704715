"""The connections to the store as the kernel reports them."""

import socket

from torchrun_rendezvous.sockets import PROBES, unanswered_seconds


def test_for_how_long_the_other_end_has_acknowledged_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port = server.getsockname()[1]
        assert unanswered_seconds(port) == {}
        with (
            socket.create_connection(("127.0.0.1", port)),
            socket.create_connection(("127.0.0.1", other.getsockname()[1])),
            server.accept()[0] as accepted,
            other.accept()[0] as unconcerned,
        ):
            [(address, seconds)] = (unanswered_seconds(port) or {}).items()
            assert address == "127.0.0.1"
            assert 0 <= seconds < 1.5
            probes = [accepted.getsockopt(level, option) for level, option, _ in PROBES]
            assert probes == [value for _, _, value in PROBES]
            assert not unconcerned.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            accepted.sendall(b"still the store's")
        assert unanswered_seconds(port) == {}
    assert unanswered_seconds(port, "/nowhere") is None
