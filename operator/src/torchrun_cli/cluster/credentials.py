"""The credentials of requests: headers, client certificates, and programs that print either of them."""

import base64
import json
import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torchrun_cli.cluster.kubeconfig import Access, Blob, ExecPlugin
from torchrun_cli.errors import CliError, Exit

_PREFIX: Final = "client.authentication.k8s.io/"


class Credentials:
    """The headers and the TLS settings of an access. A plugin runs when they are first used, and after a refusal."""

    def __init__(self, access: Access, env: Mapping[str, str] = os.environ) -> None:
        self._access = access
        self._env = env
        self._said: dict[str, str] | None = None

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of a request. Raises CliError if a token cannot be read."""
        user, found = self._access.user, list(self._access.user.headers)
        if user.token_file is not None:
            found.append(("Authorization", f"Bearer {_read(user.token_file)}"))
        elif user.token is not None:
            found.append(("Authorization", f"Bearer {user.token}"))
        elif user.username is not None:
            pair = base64.b64encode(f"{user.username}:{user.password or ''}".encode()).decode()
            found.append(("Authorization", f"Basic {pair}"))
        elif user.plugin is not None and "token" in self._from_plugin():
            found.append(("Authorization", f"Bearer {self._from_plugin()['token']}"))
        return found

    def tls(self) -> ssl.SSLContext:
        """Return the TLS settings. Raises CliError if a certificate or a key is wrong."""
        access = self._access
        try:
            context = ssl.create_default_context(cafile=access.ca.path, cadata=access.ca.text)
            if access.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            certificate, key = self._pair()
            if certificate:
                _load_pair(context, certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise CliError(f"the certificates of the context {access.context!r} are wrong: {error}") from error
        return context

    def renewed(self) -> bool:
        """Forget what the plugin printed. Return whether there is a plugin or a file that may have something newer."""
        self._said = None
        return self._access.user.plugin is not None or self._access.user.token_file is not None

    def _pair(self) -> tuple[Blob, Blob]:
        user = self._access.user
        if user.certificate or user.plugin is None:
            return user.certificate, user.key
        said = self._from_plugin()
        return Blob(text=said.get("clientCertificateData")), Blob(text=said.get("clientKeyData"))

    def _from_plugin(self) -> dict[str, str]:
        plugin = self._access.user.plugin
        assert plugin is not None
        if self._said is None:
            self._said = run_plugin(plugin, self._access, self._env)
        return self._said


def run_plugin(plugin: ExecPlugin, access: Access, env: Mapping[str, str]) -> dict[str, str]:
    """Run a plugin and return the status that it prints. Raises CliError with what the plugin says."""
    import subprocess  # noqa: PLC0415 few users have a plugin

    info = json.dumps(_exec_info(plugin, access))
    # The plugin may ask for a password on the terminal, so it keeps stdin and stderr.
    try:
        done = subprocess.run(
            [plugin.command, *plugin.args],
            env={**env, **dict(plugin.env), "KUBERNETES_EXEC_INFO": info},
            stdout=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        hint = f"\n{plugin.install_hint.strip()}" if plugin.install_hint else ""
        raise CliError(f"cannot run {plugin.command}, which gets the credentials: {error.strerror}{hint}") from error
    if done.returncode != 0:
        raise CliError(f"{plugin.command}, which gets the credentials, failed with exit code {done.returncode}")
    try:
        status = json.loads(done.stdout)["status"]
        said = {key: str(value) for key, value in status.items() if value}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"{plugin.command} did not print an ExecCredential with a status") from error
    if "token" not in said and not {"clientCertificateData", "clientKeyData"} <= said.keys():
        raise CliError(f"{plugin.command} printed neither a token nor a client certificate with its key")
    return said


def _exec_info(plugin: ExecPlugin, access: Access) -> dict[str, Any]:
    if not plugin.api_version.startswith(_PREFIX):
        raise CliError(
            f"the exec plugin {plugin.command} has apiVersion {plugin.api_version!r}: write {_PREFIX}v1", Exit.USAGE
        )
    spec: dict[str, Any] = {"interactive": sys.stdin is not None and sys.stdin.isatty()}
    if plugin.provide_cluster_info:
        authority = access.ca.text or (Path(access.ca.path).read_text() if access.ca.path else "")
        cluster: dict[str, Any] = {"server": access.server, "insecure-skip-tls-verify": access.insecure}
        if authority:
            cluster["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
        if access.tls_server_name:
            cluster["tls-server-name"] = access.tls_server_name
        spec["cluster"] = cluster
    return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}


def _load_pair(context: ssl.SSLContext, certificate: Blob, key: Blob) -> None:
    """Load a client certificate. OpenSSL reads files only, so data lies in a private file for a moment."""
    import tempfile  # noqa: PLC0415 it is slow to import

    with tempfile.TemporaryDirectory(prefix="kubectl-torchrun-") as directory:
        paths = []
        for name, blob in (("tls.crt", certificate), ("tls.key", key)):
            path = blob.path
            if blob.text is not None:
                path = os.path.join(directory, name)  # noqa: PTH118 the other paths are strings too
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
                    file.write(blob.text)
            paths.append(path)
        assert paths[0] is not None
        context.load_cert_chain(paths[0], paths[1])


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise CliError(f"cannot read the token file {path}: {error.strerror}", Exit.USAGE) from error
