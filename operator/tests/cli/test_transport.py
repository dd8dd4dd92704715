"""HTTP with a server on the loopback interface: kept connections, streams, proxies, and programs for credentials."""

import contextlib
import json
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from torchrun_cli.cluster.credentials import run_plugin
from torchrun_cli.cluster.kubeconfig import Access, Blob, ExecPlugin, User
from torchrun_cli.cluster.proxies import Proxy, find_proxy
from torchrun_cli.cluster.transport import Answer, HttpTransport, UnreachableError
from torchrun_cli.errors import CliError

Connect = Callable[..., HttpTransport]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        seen.append((self.client_address[1], self.path, self.headers.get_all("Authorization")))
        if self.path.endswith("/stream"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for word in (b"one\n", b"two\n"):
                self.wfile.write(f"{len(word):x}\r\n".encode() + word + b"\r\n")
            if "cut" in self.path:
                self.close_connection = True
                return
            self.wfile.write(b"0\r\n\r\n")
            return
        body = b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = "/last" in self.path  # without a word about it

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None: ...


seen: list[tuple[int, str, list[str] | None]] = []


@pytest.fixture
def server() -> Iterator[str]:
    seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads = True
        thread = Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes transports, which are closed after the test."""
    with contextlib.ExitStack() as made:

        def make(access: Access, env: dict[str, str] | None = None) -> HttpTransport:
            return made.enter_context(contextlib.closing(HttpTransport(access, env or {})))

        yield make


def taken(answer: Answer) -> bytes:
    with contextlib.closing(answer):
        return b"".join(answer.chunks())


def test_a_connection_serves_many_requests(server: str, connect: Connect) -> None:
    transport = connect(Access(f"{server}/base", "ml", user=User(token="t")))
    for path in ("/a", "/stream", "/b"):
        taken(transport.send("GET", path))
    assert len({port for port, _, _ in seen}) == 1
    assert [(path, words) for _, path, words in seen] == [
        (f"/base{path}", ["Bearer t"]) for path in ("/a", "/stream", "/b")
    ]


def test_a_closed_connection_is_replaced(server: str, connect: Connect) -> None:
    transport = connect(Access(server, "ml"))
    taken(transport.send("GET", "/last"))
    assert taken(transport.send("GET", "/b")) == b"{}"
    assert [path for _, path, _ in seen] == ["/last", "/b"]


def test_a_post_never_goes_over_a_kept_connection(server: str, connect: Connect) -> None:
    transport = connect(Access(server, "ml"))
    taken(transport.send("GET", "/a"))
    taken(transport.send("POST", "/b", body=b"{}"))
    assert len({port for port, _, _ in seen}) == 2


def test_a_stream_that_is_cut_is_an_error(server: str, connect: Connect) -> None:
    transport = connect(Access(server, "ml"))
    found = []
    with contextlib.closing(transport.send("GET", "/cut/stream", seconds=None)) as answer:
        chunks = answer.chunks()
        found += [next(chunks), next(chunks)]
        with pytest.raises(UnreachableError, match="the connection to the API server broke"):
            next(chunks)
    assert b"".join(found) == b"one\ntwo\n"


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(UnreachableError) as caught:
        HttpTransport(Access("http://127.0.0.1:1", "ml"), {}).send("GET", "/a")
    assert caught.value.message == "cannot reach the API server http://127.0.0.1:1: Connection refused"


@pytest.mark.parametrize("server", ["api.example.com", "ftp://a", ""])
def test_servers_that_are_no_urls(server: str) -> None:
    with pytest.raises(CliError) as caught:
        HttpTransport(Access(server, "ml", "here"), {})
    assert (caught.value.message, caught.value.exit_code) == (
        f"the server of the context 'here' is no URL: {server!r}",
        2,
    )


def test_a_token_file_is_read_for_each_request(server: str, connect: Connect, tmp_path: Path) -> None:
    token = tmp_path / "token"
    transport = connect(Access(server, "ml", user=User(token_file=str(token))))
    for text in ("a\n", "b\n"):
        token.write_text(text)
        taken(transport.send("GET", "/a"))
    assert [words for _, _, words in seen] == [["Bearer a"], ["Bearer b"]]
    token.unlink()
    with pytest.raises(CliError, match="cannot read the token file"):
        transport.send("GET", "/a")


SPECIAL = {"NO_PROXY": "example.org, .svc,10.0.0.0/8,192.168.1.1,*.corp"}


@pytest.mark.parametrize(
    ("server", "configured", "env", "proxy"),
    [
        ("https://api:6443", None, {}, None),
        ("https://api:6443", None, {"HTTPS_PROXY": "http://p:3128"}, Proxy("p", 3128, {})),
        ("https://api:6443", None, {"https_proxy": "p"}, Proxy("p", 80, {})),
        ("http://api:6443", None, {"HTTPS_PROXY": "http://p:3128"}, None),
        ("http://api:6443", None, {"HTTP_PROXY": "http://p:3128"}, Proxy("p", 3128, {})),
        (
            "https://api",
            "http://me:a%40b@p:8080",
            {"HTTPS_PROXY": "http://q", "NO_PROXY": "*"},
            Proxy("p", 8080, {"Proxy-Authorization": "Basic bWU6YUBi"}),
        ),
        ("https://127.0.0.1:1", None, {"HTTPS_PROXY": "http://p"}, None),
        ("https://localhost:1", None, {"HTTPS_PROXY": "http://p"}, None),
        ("https://example.org", None, {"HTTPS_PROXY": "http://p", **SPECIAL}, None),
        ("https://a.example.org", None, {"HTTPS_PROXY": "http://p", **SPECIAL}, None),
        ("https://anexample.org", None, {"HTTPS_PROXY": "http://p", **SPECIAL}, Proxy("p", 80, {})),
        ("https://api.svc", None, {"HTTPS_PROXY": "http://p", **SPECIAL}, None),
        ("https://api.corp", None, {"HTTPS_PROXY": "http://p", **SPECIAL}, None),
        ("https://10.1.2.3", None, {"HTTPS_PROXY": "http://p", **SPECIAL}, None),
        ("https://192.168.1.2", None, {"HTTPS_PROXY": "http://p", **SPECIAL}, Proxy("p", 80, {})),
    ],
)
def test_proxies(server: str, configured: str | None, env: dict[str, str], proxy: Proxy | None) -> None:
    assert find_proxy(server, configured, env) == proxy


def test_other_kinds_of_proxies() -> None:
    with pytest.raises(CliError) as caught:
        find_proxy("https://api", "socks5://p", {})
    assert caught.value.message == "proxy-url of the kubeconfig is 'socks5://p': only http:// proxies are supported"


PLUGIN = ExecPlugin("client.authentication.k8s.io/v1", "", env=(("EXTRA", "x"),), provide_cluster_info=True)
ACCESS = Access("https://api", "ml", ca=Blob(text="PEM"), tls_server_name="n")


def plugin(tmp_path: Path, script: str) -> ExecPlugin:
    program = tmp_path / "login"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return replace(PLUGIN, command=str(program))


def test_a_program_prints_credentials(tmp_path: Path) -> None:
    script = f"""echo "$KUBERNETES_EXEC_INFO" > {tmp_path}/info; echo '{{"status": {{"token": "'$EXTRA'"}}}}'"""
    assert run_plugin(plugin(tmp_path, script), ACCESS, {"PATH": "/bin:/usr/bin"}) == {"token": "x"}
    info = json.loads((tmp_path / "info").read_text())
    assert info == {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {
            "interactive": info["spec"]["interactive"],
            "cluster": {
                "server": "https://api",
                "insecure-skip-tls-verify": False,
                "certificate-authority-data": "UEVN",
                "tls-server-name": "n",
            },
        },
    }


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "PLUGIN, which gets the credentials, failed with exit code 3"),
        ("echo hello", "PLUGIN did not print an ExecCredential with a status"),
        ("echo '[]'", "PLUGIN did not print an ExecCredential with a status"),
        (
            """echo '{"status": {"clientKeyData": "k"}}'""",
            "PLUGIN printed neither a token nor a client certificate with its key",
        ),
    ],
)
def test_programs_that_fail(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        run_plugin(plugin(tmp_path, script), ACCESS, {"PATH": "/bin:/usr/bin"})
    assert caught.value.message.replace(str(tmp_path / "login"), "PLUGIN") == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"command": "/none/login", "install_hint": "pip install login\n"},
            "cannot run /none/login, which gets the credentials: No such file or directory\npip install login",
        ),
        (
            {"command": "x", "api_version": "v2"},
            "the exec plugin x has apiVersion 'v2': write client.authentication.k8s.io/v1",
        ),
    ],
)
def test_programs_that_cannot_run(change: dict[str, str], message: str) -> None:
    with pytest.raises(CliError) as caught:
        run_plugin(replace(PLUGIN, **change), ACCESS, {})  # type: ignore[arg-type]
    assert caught.value.message == message


def test_a_refused_token_is_asked_for_again(server: str, connect: Connect, tmp_path: Path) -> None:
    script = f"""n=$(cat {tmp_path}/n 2>/dev/null || echo 0); n=$((n+1)); echo $n > {tmp_path}/n
echo '{{"status": {{"token": "t'$n'"}}}}'"""
    access = Access(server, "ml", user=User(plugin=plugin(tmp_path, script)))
    transport = connect(access, {"PATH": "/bin:/usr/bin"})
    taken(transport.send("GET", "/a"))
    taken(transport.send("GET", "/b"))
    assert transport.renew()
    taken(transport.send("GET", "/c"))
    assert [words for _, _, words in seen] == [["Bearer t1"], ["Bearer t1"], ["Bearer t2"]]


@pytest.mark.parametrize(
    "user", [User(certificate=Blob(text="no PEM"), key=Blob(text="")), User(certificate=Blob(path="/none"))]
)
def test_wrong_certificates(user: User) -> None:
    with pytest.raises(CliError, match="the certificates of the context 'here' are wrong: "):
        HttpTransport(Access("https://127.0.0.1:1", "ml", "here", user=user), {}).send("GET", "/a")
