"""A real API server: etcd and kube-apiserver as processes on the loopback interface during the tests."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import builds
from localcluster.paths import Layout
from localcluster.shell import ClusterError

ROOT = Path(__file__).resolve().parents[3]
_START_SECONDS = 60.0


@dataclass(frozen=True)
class ApiServer:
    """Access to the API server. The token gives all rights. There are no controllers."""

    url: str
    token: str
    certificate: Path
    kubeconfig: Path

    def request(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, dict[str, Any]]:
        """Send JSON (PATCH: a merge patch). Return the HTTP status and the answer, also of errors."""
        url = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(
            url,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, context=self._tls(), timeout=30) as answer:
                return answer.status, _document(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _document(error.read())

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


def _document(text: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"message": text.decode()}
    return found


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Start etcd and kube-apiserver, and stop them after the last test."""
    kube = _programs()["kube"]
    directory = tmp_path_factory.mktemp("api-server")
    etcd_url, peer_url = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    with contextlib.ExitStack() as running:
        etcd = _etcd_command(kube, directory, etcd_url, peer_url)
        running.enter_context(_process(etcd, directory / "etcd.log"))
        port = _free_port()
        server = _server_of(directory, port)
        command = _api_server_command(kube, directory, etcd_url, port, server.token)
        process = running.enter_context(_process(command, directory / "kube-apiserver.log"))
        _wait(lambda: _ready(server, process), f"kube-apiserver, see {directory}")
        yield server


@pytest.fixture(scope="session")
def kubectl(api_server: ApiServer) -> Callable[..., str]:
    """Return a function that runs kubectl and returns its output, including errors."""
    program = _programs()["kubectl"]

    def run(*arguments: str) -> str:
        command = [program, f"--kubeconfig={api_server.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def torchrunjobs(api_server: ApiServer) -> ApiServer:
    """Return the API server with the TorchrunJob resource installed."""
    crd = yaml.safe_load((ROOT / "crds" / "torchrun.dev_torchrunjobs.yaml").read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    status, answer = api_server.request("POST", path, crd)
    assert status == 201, answer["message"]
    _wait(lambda: api_server.request("GET", "/apis/torchrun.dev/v1alpha1/torchrunjobs")[0] == 200, "torchrunjobs")
    return api_server


def _programs() -> builds.Programs:
    """Find the programs of the local cluster. Tests that need them are skipped if they are not built."""
    try:
        programs = builds.find(Layout.of(os.environ))
    except ClusterError as error:
        pytest.skip(str(error))
    if programs is None:
        pytest.skip("no kube-apiserver has been built: PYTHONPATH=e2e python3 -m localcluster build")
    return programs


def _etcd_command(kube: str, directory: Path, client_url: str, peer_url: str) -> list[str]:
    return [
        *(kube, "etcd", "--unsafe-no-fsync", f"--data-dir={directory / 'etcd'}"),
        *(f"--listen-client-urls={client_url}", f"--advertise-client-urls={client_url}"),
        *(f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"),
        f"--initial-cluster=default={peer_url}",
    ]


def _server_of(directory: Path, port: int) -> ApiServer:
    token, url = "integration", f"https://127.0.0.1:{port}"
    certificate, kubeconfig = directory / "pki" / "apiserver.crt", directory / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(certificate)}}],
                "users": [{"name": "test", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
                "current-context": "test",
            }
        )
    )
    return ApiServer(url, token, certificate, kubeconfig)


def _api_server_command(kube: str, directory: Path, etcd_url: str, port: int, token: str) -> list[str]:
    key, tokens = directory / "service-accounts.key", directory / "tokens.csv"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens.write_text(f"{token},tester,tester,system:masters\n")
    return [
        *(kube, "kube-apiserver", f"--etcd-servers={etcd_url}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
        # It creates its own certificate there, for 127.0.0.1.
        f"--cert-dir={directory / 'pki'}",
        *(f"--token-auth-file={tokens}", "--authorization-mode=AlwaysAllow"),
        *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
        *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16"),
        # It would wait for service accounts, which no controller creates here.
        "--disable-admission-plugins=ServiceAccount",
    ]


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def _ready(server: ApiServer, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "kube-apiserver ended"
    try:
        return server.certificate.exists() and server.request("GET", "/readyz")[0] == 200
    except OSError:
        return False


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while not condition():
        assert time.monotonic() < end, f"not ready after {_START_SECONDS:.0f} s: {what}"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
