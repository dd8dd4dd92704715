"""The proxy of a server: from the kubeconfig, or from HTTPS_PROXY and NO_PROXY."""

import base64
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from torchrun_cli.errors import CliError, Exit


class Proxy(NamedTuple):
    """An HTTP proxy."""

    host: str
    port: int
    headers: dict[str, str]


def find_proxy(server: str, configured: str | None, env: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for this URL of a server. Raises CliError if its own URL is of a kind that is not supported."""
    parts = urlsplit(server)
    host = parts.hostname or ""
    if configured:
        return _parse(configured, "proxy-url of the kubeconfig")
    names = ("HTTPS_PROXY", "https_proxy") if parts.scheme == "https" else ("HTTP_PROXY", "http_proxy")
    name = next((name for name in names if env.get(name)), None)
    if name is None or _is_exempt(host, env.get("NO_PROXY") or env.get("no_proxy") or ""):
        return None
    return _parse(env[name], name)


def _parse(url: str, source: str) -> Proxy:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise CliError(f"{source} is {url!r}: only http:// proxies are supported", Exit.USAGE)
    headers = {}
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(parts.hostname, parts.port or 80, headers)


def _is_exempt(host: str, exceptions: str) -> bool:
    """Whether a list of exceptions has the host: by its name, a domain above it, its address, or a network."""
    if host in ("localhost", "::1") or host.startswith("127."):
        return True
    for entry in (each.strip() for each in exceptions.split(",")):
        if entry == "*" or (entry and _matches(host, entry)):
            return True
    return False


def _matches(host: str, entry: str) -> bool:
    from ipaddress import ip_address, ip_network  # noqa: PLC0415 few computers have a proxy

    try:
        address = ip_address(host)
    except ValueError:
        domain = entry.lower().rsplit(":", 1)[0].removeprefix("*").removeprefix(".")
        return host.lower() == domain or host.lower().endswith(f".{domain}")
    try:
        return address in ip_network(entry, strict=False)
    except ValueError:
        return False
