"""Where the command line finds the cluster: options, files, environment, and the pod that it runs in."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchrun_cli.cluster.kubeconfig import Access, Blob, ExecPlugin, User, find_access
from torchrun_cli.errors import CliError
from torchrun_cli.options import Target


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(**parts: Any) -> dict[str, Any]:
    return {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "https://c:6443/"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
    } | {key.replace("_", "-"): value for key, value in parts.items()}


def written(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def with_user(**user: Any) -> dict[str, Any]:
    return config(users=[{"name": "u", "user": {key.replace("_", "-"): value for key, value in user.items()}}])


def with_cluster(**cluster: Any) -> dict[str, Any]:
    fields = {"server": "https://c:6443"} | {key.replace("_", "-"): value for key, value in cluster.items()}
    return config(clusters=[{"name": "c", "cluster": fields}])


BASE = Access("https://c:6443", "ml", "here", user=User(token="secret"))


CASES = [
    pytest.param(config(), Target(), BASE, id="the current context"),
    pytest.param(
        config(), Target(namespace="other"), Access("https://c:6443", "other", "here", user=User(token="secret")),
        id="another namespace",
    ),
    pytest.param(
        config(contexts=[{"name": "here", "context": {"cluster": "c", "user": "u"}}]), Target(),
        Access("https://c:6443", "default", "here", user=User(token="secret")), id="no namespace",
    ),
    pytest.param(
        config(contexts=[{"name": "there", "context": {"cluster": "c"}}]), Target(context="there"),
        Access("https://c:6443", "default", "there"), id="another context, without a user",
    ),
    pytest.param(
        with_cluster(certificate_authority="pki/ca.crt", tls_server_name="api", proxy_url="http://p:3128"),
        Target(),
        Access(
            "https://c:6443", "ml", "here", ca=Blob(path="DIR/pki/ca.crt"), tls_server_name="api",
            proxy="http://p:3128", user=User(token="secret"),
        ),
        id="a certificate beside the file",
    ),
    pytest.param(
        with_cluster(certificate_authority="ca.crt", certificate_authority_data=data("PEM")), Target(),
        Access("https://c:6443", "ml", "here", ca=Blob(text="PEM"), user=User(token="secret")),
        id="the data win over the file",
    ),
    pytest.param(
        with_cluster(insecure_skip_tls_verify=True), Target(),
        Access("https://c:6443", "ml", "here", insecure=True, user=User(token="secret")), id="insecure",
    ),
    pytest.param(
        with_user(client_certificate="/pki/u.crt", client_key_data=data("KEY")), Target(),
        Access(
            "https://c:6443", "ml", "here",
            user=User(certificate=Blob(path="/pki/u.crt"), key=Blob(text="KEY")),
        ),
        id="a client certificate",
    ),
    pytest.param(
        with_user(tokenFile="token", username="me", password="pass"), Target(),
        Access(
            "https://c:6443", "ml", "here", user=User(token_file="DIR/token", username="me", password="pass")
        ),
        id="a token file",
    ),
    pytest.param(
        with_user(
            exec={
                "apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "args": ["get", 1],
                "env": [{"name": "A", "value": "b"}], "installHint": "pip install login",
                "provideClusterInfo": True,
            }
        ),
        Target(),
        Access(
            "https://c:6443", "ml", "here",
            user=User(
                plugin=ExecPlugin(
                    "client.authentication.k8s.io/v1", "DIR/login", ("get", "1"), (("A", "b"),),
                    "pip install login", provide_cluster_info=True,
                )
            ),
        ),
        id="a plugin",
    ),
    pytest.param(
        with_user(**{"as": "jane", "as_groups": ["a", "b"], "as_user_extra": {"scope": ["x"]}}), Target(),
        Access(
            "https://c:6443", "ml", "here",
            user=User(
                headers=(
                    ("Impersonate-User", "jane"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b"),
                    ("Impersonate-Extra-scope", "x"),
                )
            ),
        ),
        id="as another user",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "target", "access"), CASES)
def test_a_kubeconfig(tmp_path: Path, content: Any, target: Target, access: Access) -> None:
    written(tmp_path / ".kube" / "config", content)
    found = find_access(target, {}, home=tmp_path)
    assert repr(found).replace(str(tmp_path / ".kube"), "DIR") == repr(access)


def test_the_first_file_of_the_list_wins_and_missing_files_do_not_count(tmp_path: Path) -> None:
    one = written(tmp_path / "one", {"contexts": [{"name": "here", "context": {"cluster": "c", "namespace": "one"}}]})
    two = written(tmp_path / "two", config())
    env = {"KUBECONFIG": os.pathsep.join([str(tmp_path / "none"), str(one), str(two)])}
    assert find_access(Target(), env, home=tmp_path) == Access("https://c:6443", "one", "here")


def test_the_option_wins_over_the_environment(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", config()), written(tmp_path / "two", config(current_context="none"))
    assert find_access(Target(kubeconfig=str(one)), {"KUBECONFIG": str(two)}, home=tmp_path) == BASE


@pytest.mark.parametrize(("host", "url"), [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")])
def test_the_service_account_of_a_pod(tmp_path: Path, host: str, url: str) -> None:
    account = tmp_path / "account"
    written(account / "token", "t"), written(account / "namespace", "jobs\n")
    env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    assert find_access(Target(), env, home=tmp_path, account=account) == Access(
        url, "jobs", "in-cluster", ca=Blob(path=str(account / "ca.crt")), user=User(token_file=str(account / "token"))
    )


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        (None, Target(), "no kubeconfig found (DIR): set KUBECONFIG, or use --kubeconfig"),
        (None, Target(kubeconfig="/none"), "cannot read the kubeconfig /none: No such file or directory"),
        ("a: [", Target(), "the kubeconfig DIR is not YAML: "),
        ("- a", Target(), "the kubeconfig DIR is not a mapping"),
        ("", Target(), "the kubeconfig has no current context: use --context (there are: none)"),
        (config(), Target(context="x"), "the kubeconfig has no context 'x'; there are: here"),
        (config(clusters=[]), Target(), "the kubeconfig has no cluster 'c'"),
        (config(users=[]), Target(), "the kubeconfig has no user 'u'"),
        (config(users=[{"user": {}}]), Target(), "the kubeconfig DIR has an entry of users without a name"),
        (with_cluster(server=""), Target(), "the cluster of the context 'here' has no server"),
        (with_cluster(certificate_authority_data="%%%"), Target(), "DIR: certificate-authority-data is not base64: "),
        (with_user(exec={"args": []}), Target(), "DIR: an exec plugin has no command"),
        (
            with_user(auth_provider={"name": "gcp"}), Target(),
            "DIR uses auth-provider, which Kubernetes has removed: use an exec plugin",
        ),
    ],
)  # fmt: skip
def test_wrong_kubeconfigs(tmp_path: Path, content: Any, target: Target, message: str) -> None:
    path = tmp_path / ".kube" / "config"
    if content is not None:
        written(path, content)
    with pytest.raises(CliError) as caught:
        find_access(target, {}, home=tmp_path)
    said = caught.value.message.replace(str(path), "DIR")
    assert (said[: len(message)], caught.value.exit_code) == (message, 2)
    assert message.endswith(": ") or said == message
