"""Finds the cluster as kubectl does: options, the files of KUBECONFIG, ~/.kube/config, or the pod that it runs in."""

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LISTS: Final = ("clusters", "users", "contexts")


@dataclass(frozen=True)
class Blob:
    """A certificate or a key: a file, or the text itself. Neither: there is none."""

    path: str | None = None
    text: str | None = None

    def __bool__(self) -> bool:
        return self.path is not None or self.text is not None


@dataclass(frozen=True)
class ExecPlugin:
    """A program that prints credentials."""

    api_version: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False


@dataclass(frozen=True)
class User:
    """How the user proves who they are. The first one that is set counts."""

    certificate: Blob = Blob()
    key: Blob = Blob()
    token_file: str | None = None
    token: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    plugin: ExecPlugin | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Headers that name another user to act as."""


@dataclass(frozen=True)
class Access:
    """The cluster, the user and the namespace that a command uses."""

    server: str
    namespace: str
    context: str = ""
    ca: Blob = Blob()
    insecure: bool = False
    tls_server_name: str | None = None
    proxy: str | None = None
    user: User = User()


def find_access(
    target: Target, env: Mapping[str, str] = os.environ, home: Path | None = None, account: Path = _ACCOUNT
) -> Access:
    """Return the access that the options, the environment and the files describe.

    ``home`` is the directory of ``.kube``, and ``account`` that of the service account of a pod. Raises CliError if
    no cluster is configured, or if a file or a context of it is wrong.
    """
    paths = _paths(target, env, home or Path.home())
    loaded = [(path, _load(path)) for path in paths if target.kubeconfig or path.exists()]
    if not loaded:
        if target.context is None and env.get("KUBERNETES_SERVICE_HOST") and (account / "token").exists():
            return _in_cluster(target, env, account)
        looked = ", ".join(map(str, paths))
        raise CliError(f"no kubeconfig found ({looked}): set KUBECONFIG, or use --kubeconfig", Exit.USAGE)
    return _select(_merge(loaded), target)


def _paths(target: Target, env: Mapping[str, str], home: Path) -> list[Path]:
    if target.kubeconfig is not None:
        return [Path(target.kubeconfig).expanduser()]
    listed = [Path(name).expanduser() for name in env.get("KUBECONFIG", "").split(os.pathsep) if name]
    return listed or [home / ".kube" / "config"]


def _load(path: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 only a command that talks to a cluster needs it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
    try:
        found = yaml.load(path.read_bytes(), Loader=loader)  # noqa: S506 a safe loader
    except OSError as error:
        raise CliError(f"cannot read the kubeconfig {path}: {error.strerror}", Exit.USAGE) from error
    except yaml.YAMLError as error:
        raise CliError(f"the kubeconfig {path} is not YAML: {error}", Exit.USAGE) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CliError(f"the kubeconfig {path} is not a mapping", Exit.USAGE)
    return found


@dataclass
class _Merged:
    """The entries of all files by name. The first file that has an entry wins."""

    current: str = ""
    entries: dict[str, dict[str, tuple[Path, dict[str, Any]]]] = field(default_factory=dict)

    def entry(self, kind: str, name: str) -> tuple[Path, dict[str, Any]]:
        """Return an entry and its file. Raises CliError if there is none."""
        known = self.entries.get(kind, {})
        if name not in known:
            there = f"; there are: {', '.join(sorted(known))}" if known else ""
            raise CliError(f"the kubeconfig has no {kind.removesuffix('s')} {name!r}{there}", Exit.USAGE)
        return known[name]


def _merge(loaded: Iterable[tuple[Path, dict[str, Any]]]) -> _Merged:
    merged = _Merged()
    for path, config in loaded:
        current = config.get("current-context")
        merged.current = merged.current or (current if isinstance(current, str) else "")
        for kind in _LISTS:
            for entry in config.get(kind) or ():
                if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                    raise CliError(f"the kubeconfig {path} has an entry of {kind} without a name", Exit.USAGE)
                body = entry.get(kind.removesuffix("s")) or {}
                merged.entries.setdefault(kind, {}).setdefault(entry["name"], (path, body))
    return merged


def _select(merged: _Merged, target: Target) -> Access:
    name = target.context or merged.current
    if not name:
        there = ", ".join(sorted(merged.entries.get("contexts", {}))) or "none"
        raise CliError(f"the kubeconfig has no current context: use --context (there are: {there})", Exit.USAGE)
    _, context = merged.entry("contexts", name)
    cluster_file, cluster = merged.entry("clusters", _text(context, "cluster") or "")
    if not _text(cluster, "server"):
        raise CliError(f"the cluster of the context {name!r} has no server", Exit.USAGE)
    user_name = _text(context, "user")
    user_file, user = merged.entry("users", user_name) if user_name else (cluster_file, {})
    return Access(
        server=(_text(cluster, "server") or "").rstrip("/"),
        namespace=target.namespace or _text(context, "namespace") or "default",
        context=name,
        ca=_blob(cluster, "certificate-authority", cluster_file),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=_text(cluster, "tls-server-name"),
        proxy=_text(cluster, "proxy-url"),
        user=_user(user, user_file),
    )


def _user(user: dict[str, Any], path: Path) -> User:
    if "auth-provider" in user and "exec" not in user:
        raise CliError(f"{path} uses auth-provider, which Kubernetes has removed: use an exec plugin", Exit.USAGE)
    token_file = _text(user, "tokenFile")
    return User(
        certificate=_blob(user, "client-certificate", path),
        key=_blob(user, "client-key", path),
        token_file=str(path.parent / token_file) if token_file else None,
        token=_text(user, "token"),
        username=_text(user, "username"),
        password=_text(user, "password"),
        plugin=_plugin(user["exec"], path) if user.get("exec") else None,
        headers=tuple(_impersonation(user)),
    )


def _plugin(plugin: dict[str, Any], path: Path) -> ExecPlugin:
    command = _text(plugin, "command")
    if not command:
        raise CliError(f"{path}: an exec plugin has no command", Exit.USAGE)
    # As kubectl: a bare name is looked up on PATH, any other relative path starts at the file.
    if os.sep in command:
        command = str(path.parent / command)
    return ExecPlugin(
        api_version=_text(plugin, "apiVersion") or "",
        command=command,
        args=tuple(str(word) for word in plugin.get("args") or ()),
        env=tuple((str(each.get("name")), str(each.get("value"))) for each in plugin.get("env") or ()),
        install_hint=_text(plugin, "installHint") or "",
        provide_cluster_info=bool(plugin.get("provideClusterInfo")),
    )


def _impersonation(user: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if user.get("as"):
        yield "Impersonate-User", str(user["as"])
    if user.get("as-uid"):
        yield "Impersonate-Uid", str(user["as-uid"])
    for group in user.get("as-groups") or ():
        yield "Impersonate-Group", str(group)
    for key, values in (user.get("as-user-extra") or {}).items():
        for value in values:
            yield f"Impersonate-Extra-{key}", str(value)


def _blob(entry: dict[str, Any], key: str, path: Path) -> Blob:
    """Return a certificate or a key. The data wins over the file, as in kubectl."""
    data = entry.get(f"{key}-data")
    if data:
        try:
            return Blob(text=base64.b64decode("".join(data.split()), validate=True).decode())
        except (binascii.Error, UnicodeDecodeError, AttributeError) as error:
            raise CliError(f"{path}: {key}-data is not base64: {error}", Exit.USAGE) from error
    name = _text(entry, key)
    return Blob(path=str(path.parent / name)) if name else Blob()


def _text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return None if value is None or value == "" else str(value)


def _in_cluster(target: Target, env: Mapping[str, str], account: Path) -> Access:
    host, port = env["KUBERNETES_SERVICE_HOST"], env.get("KUBERNETES_SERVICE_PORT", "443")
    namespace = account / "namespace"
    own = namespace.read_text().strip() if namespace.exists() else "default"
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=target.namespace or own,
        context="in-cluster",
        ca=Blob(path=str(account / "ca.crt")),
        user=User(token_file=str(account / "token")),
    )
