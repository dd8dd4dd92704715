"""A real API server: etcd and kube-apiserver as processes on the loopback interface during the tests.

It knows two users: a tester with all rights, and the service account of the operator with those of the chart.
"""

import contextlib
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import builds
from localcluster.paths import Layout
from localcluster.shell import ClusterError
from support.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = ACCOUNT = "torchrun-operator"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
_START_SECONDS = 60.0
_COLLECTIONS = {
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}


@dataclass(frozen=True)
class ApiServer:
    """Access to the API server, by default with all rights. There are no controllers."""

    url: str
    token: str
    certificate: Path
    kubeconfig: Path
    audit: Path
    """The requests of the operator, one JSON document per line."""

    def as_operator(self) -> "ApiServer":
        """Return the same with the rights of the operator."""
        return replace(self, token="operator", kubeconfig=self.kubeconfig.with_name("operator.kubeconfig"))

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
    etcd_url, peer_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with contextlib.ExitStack() as running:
        etcd = _etcd_command(kube, directory, etcd_url, peer_url)
        running.enter_context(_process(etcd, directory / "etcd.log"))
        port = free_port()
        server = _server_of(directory, port)
        command = _api_server_command(kube, directory, etcd_url, port)
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
def chart(api_server: ApiServer) -> list[dict[str, Any]]:
    """Return the objects of the chart with its default values, for the release and namespace `torchrun-operator`."""
    version = api_server.request("GET", "/version")[1]["gitVersion"]
    command = [
        *(_programs()["helm"], "template", ACCOUNT, str(ROOT / "charts" / "torchrun-operator")),
        *("--namespace", NAMESPACE, "--kube-version", version),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="session")
def torchrunjobs(api_server: ApiServer, chart: list[dict[str, Any]]) -> ApiServer:
    """Return the API server with the resource TorchrunJob, the roles and the admission policy of the chart."""
    for manifest in chart:
        if manifest["kind"] in _COLLECTIONS:
            status, answer = api_server.request("POST", _COLLECTIONS[manifest["kind"]], manifest)
            assert status == 201, answer["message"]
    operator = api_server.as_operator()
    _wait(lambda: operator.request("GET", "/apis/torchrun.dev/v1alpha1/torchrunjobs")[0] == 200, "torchrunjobs")
    stranger = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stranger"}}
    path = "/api/v1/namespaces/default/configmaps"
    _wait(lambda: operator.request("POST", path, stranger, dryRun="All")[0] == 403, "the admission policy")
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
    url = f"https://127.0.0.1:{port}"
    certificate, kubeconfig = directory / "pki" / "apiserver.crt", directory / "kubeconfig"
    server = ApiServer(url, "tester", certificate, kubeconfig, directory / "audit.log")
    for one in (server, server.as_operator()):
        one.kubeconfig.write_text(_kubeconfig(one))
    return server


def _kubeconfig(server: ApiServer) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": server.url, "certificate-authority": str(server.certificate)}}
            ],
            "users": [{"name": "test", "user": {"token": server.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
            "current-context": "test",
        }
    )


def _api_server_command(kube: str, directory: Path, etcd_url: str, port: int) -> list[str]:
    key, tokens, policy = directory / "service-accounts.key", directory / "tokens.csv", directory / "audit.yaml"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    groups = f"system:serviceaccounts,system:serviceaccounts:{NAMESPACE}"
    tokens.write_text(f'tester,tester,tester,system:masters\noperator,{OPERATOR},operator,"{groups}"\n')
    rules = [{"level": "Metadata", "users": [OPERATOR], "omitStages": ["RequestReceived"]}, {"level": "None"}]
    policy.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    return [
        *(kube, "kube-apiserver", f"--etcd-servers={etcd_url}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
        # It creates its own certificate there, for 127.0.0.1.
        f"--cert-dir={directory / 'pki'}",
        *(f"--token-auth-file={tokens}", "--authorization-mode=RBAC"),
        *(f"--audit-policy-file={policy}", f"--audit-log-path={directory / 'audit.log'}"),
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
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
