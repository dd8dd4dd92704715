"""Runs Helm and renders the chart. Needs helm on PATH: `make test-chart` puts it there."""

import json
import os
import shutil
import subprocess

import pytest
import yaml

from chart_defaults import CHART, NAMESPACE, RELEASE, Helm, Objects, Render, Values, title


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    program = shutil.which("helm")
    if program is None:
        pytest.fail(
            "helm is not on PATH; `PYTHONPATH=e2e python3 -m localcluster bin` prints a directory that holds it"
        )
    home = tmp_path_factory.mktemp("helm")
    environment = {
        **os.environ,
        "HELM_CACHE_HOME": str(home),
        "HELM_CONFIG_HOME": str(home),
        "HELM_DATA_HOME": str(home),
    }

    def run(*arguments: str, values: Values | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *arguments, "--values", "-"],
            input=json.dumps(values or {}),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def render(helm: Helm) -> Render:
    def objects(values: Values | None = None, release: str = RELEASE) -> Objects:
        arguments = ("template", release, str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.31.0")
        done = helm(*arguments, values=values)
        assert done.returncode == 0, done.stderr
        return {title(each): each for each in yaml.safe_load_all(done.stdout) if each}

    return objects


@pytest.fixture(scope="module")
def default(render: Render) -> Objects:
    return render()
