"""The processes: etcd, kube-apiserver and the operator, with everything else left out."""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from localcluster import builds
from localcluster.paths import Layout
from support.ports import free_port

_START_SECONDS = 120.0
_TICK = os.sysconf("SC_CLK_TCK")


class Operator:
    """A running operator, and what it costs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def cpu_seconds(self) -> float:
        """Processor time since its start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    @property
    def peak_mb(self) -> float:
        """Peak of its memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000


@contextlib.contextmanager
def api_server(directory: Path) -> Iterator[Path]:
    """Run etcd and kube-apiserver inside the block. Yield the kubeconfig of a client with all rights."""
    programs = builds.find(Layout.of(os.environ))
    if programs is None:
        sys.exit("no kube-apiserver has been built: PYTHONPATH=e2e python3 -m localcluster build")
    kube, port = str(programs["kube"]), free_port()
    etcd_url, peer_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    etcd = [
        *(
            kube,
            "etcd",
            "--unsafe-no-fsync",
            f"--data-dir={directory / 'etcd'}",
            f"--initial-cluster=default={peer_url}",
        ),
        *(f"--listen-client-urls={etcd_url}", f"--advertise-client-urls={etcd_url}"),
        *(f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"),
    ]
    key, tokens = directory / "service-accounts.key", directory / "tokens.csv"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens.write_text("bench,bench,bench,system:masters\n")
    server = [
        *(kube, "kube-apiserver", f"--etcd-servers={etcd_url}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
        *(f"--cert-dir={directory / 'pki'}", f"--token-auth-file={tokens}", "--authorization-mode=AlwaysAllow"),
        *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
        *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16"),
        "--disable-admission-plugins=ServiceAccount",  # it would wait for accounts, which no controller creates here
    ]
    kubeconfig = directory / "kubeconfig"
    with _process(etcd, directory / "etcd.log"), _process(server, directory / "kube-apiserver.log"):
        certificate = directory / "pki" / "apiserver.crt"
        _wait(certificate.exists, f"kube-apiserver, see {directory}")
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(f"https://127.0.0.1:{port}", certificate)))
        yield kubeconfig


def _kubeconfig(url: str, certificate: Path) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": url, "certificate-authority": str(certificate)}}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }


@contextlib.contextmanager
def operator(directory: Path, kubeconfig: Path, source: Path | None) -> Iterator[Operator]:
    """Run the operator inside the block: the installed one, or that of another source tree."""
    key = directory / "key"
    key.write_bytes(secrets.token_bytes(32))
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "TORCHRUN_OPERATOR_KEY_FILE": str(key),
        "TORCHRUN_OPERATOR_HTTP_HOST": "127.0.0.1",
        "TORCHRUN_OPERATOR_HTTP_PORT": "0",
        **({"PYTHONPATH": str(source)} if source is not None else {}),
    }
    command = [sys.executable, "-m", "torchrun_operator"]
    with _process(command, directory / "operator.log", environment) as process:
        yield Operator(process.pid)


@contextlib.contextmanager
def _process(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not ready after {_START_SECONDS:.0f} s: {what}")
        time.sleep(0.05)
