"""How the local cluster builds programs and images, and when it rebuilds them."""

import base64
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from localcluster import (
    archives,
    builds,
    dockerfile,
    files,
    images,
    stores,
)
from localcluster.paths import Layout
from localcluster.shell import ClusterError


@pytest.mark.parametrize(
    ("go_mod", "package"),
    [
        ("module a\n\ngo 1.25.0\n", "."),
        ("module a\n\ngo 1.25.0\n\ntool example.com/b/cmd/c\n", "example.com/b/cmd/c"),
    ],
)
def test_tool_package(go_mod: str, package: str) -> None:
    assert builds.tool_package(go_mod) == package


def test_kubernetes_version_comes_from_go_mod() -> None:
    kube = builds.program("kube")
    version = builds.required_version((kube.module / "go.mod").read_text(), "k8s.io/kubernetes")
    assert f"gitVersion={version}" in kube.ldflags
    assert builds.kubernetes_ldflags("v1.2.3").split("-X ")[1:] == [
        "k8s.io/component-base/version.gitVersion=v1.2.3 ",
        "k8s.io/component-base/version.gitMajor=1 ",
        "k8s.io/component-base/version.gitMinor=2 ",
        "k8s.io/component-base/version.gitTreeState=clean",
    ]
    with pytest.raises(ClusterError, match="does not require"):
        builds.required_version("module a\n", "k8s.io/kubernetes")


def test_key_of_a_program_changes_with_what_it_is_built_from(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module a\n")
    (tmp_path / "main.go").write_text("package main\n")
    program = builds.Program("a", tmp_path, ".", "-s")
    keys = {program.key("go1.25"), program.key("go1.26"), builds.Program("a", tmp_path, ".", "-w").key("go1.25")}
    (tmp_path / "main.go").write_text("package main // changed\n")
    keys.add(program.key("go1.25"))
    (tmp_path / "README").write_text("not built from this\n")
    keys.add(program.key("go1.25"))
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\nCOPY x y z/ /to/\n", ["x", "y", "z/"]),
        ("# COPY no /\nCOPY --chown=1:2 \\\n  x \\\n  # between\n  y /to\n", ["x", "y"]),
        ("COPY --from=stage /a /b\nADD https://example.com/a b.tar /\n", ["b.tar"]),
        ('copy ["with space", "/to"]\n', ["with space"]),
        ("RUN --mount=type=bind,source=src,target=/src --mount=type=cache,target=/c make\n", ["src"]),
        ("RUN --mount=target=/src make && cp a b\nRUN --mount=type=bind,from=s,target=/x make\n", ["."]),
        ("RUN copy a b\nENV COPY=1\n", []),
    ],
)
def test_what_a_dockerfile_takes_from_its_context(text: str, expected: list[str]) -> None:
    assert dockerfile.sources(text) == expected


def test_stage_copies_what_is_named_and_no_junk(tmp_path: Path) -> None:
    context = tmp_path / "context"
    for name in (
        "src/a.py",
        "src/__pycache__/a.pyc",
        "src/deep/b.py",
        "docs/c.md",
        "x1.toml",
        "x2.toml",
        ".dockerignore",
    ):
        files.write(context / name, name)
    (context / "src/link").symlink_to("a.py")
    dockerfile.stage(context, ["src", "./x*.toml"], tmp_path / "staged")
    staged = sorted(str(path.relative_to(tmp_path / "staged")) for path in (tmp_path / "staged").rglob("*"))
    assert staged == [".dockerignore", "src", "src/a.py", "src/deep", "src/deep/b.py", "src/link", "x1.toml", "x2.toml"]
    assert (tmp_path / "staged/src/link").is_symlink()
    assert len({path.lstat().st_mtime for path in (tmp_path / "staged").rglob("*")}) == 1


def test_key_of_a_tree(tmp_path: Path) -> None:
    files.write(tmp_path / "a/b", "text")
    seen = {files.key_of(files.tree_parts(tmp_path))}
    os.utime(tmp_path / "a/b", (1, 1))
    assert files.key_of(files.tree_parts(tmp_path)) in seen
    (tmp_path / "a/b").chmod(0o755)
    seen.add(files.key_of(files.tree_parts(tmp_path)))
    (tmp_path / "a/b").rename(tmp_path / "a/c")
    seen.add(files.key_of(files.tree_parts(tmp_path)))
    (tmp_path / "a/d").symlink_to("c")
    seen.add(files.key_of(files.tree_parts(tmp_path)))
    assert len(seen) == 4
    assert files.key_of(["ab", "c"]) != files.key_of(["a", "bc"])


def test_build_environment_is_passed_by_name() -> None:
    environment = {
        "HTTPS_PROXY": "p",
        "no_proxy": "n",
        "PIP_INDEX_URL": "i",
        "PIP_TARGET": "t",
        "SSL_CERT_FILE": "/c",
        "UV_INDEX_URL": "",
        "UV_PROJECT_ENVIRONMENT": "v",
        "AWS_SECRET_ACCESS_KEY": "s",
    }
    passed = {"HTTPS_PROXY": "p", "PIP_INDEX_URL": "i", "SSL_CERT_FILE": "/c", "no_proxy": "n"}
    assert images.passed_environment(environment) == passed


@pytest.mark.parametrize(
    ("name", "environment", "expected"),
    [
        ("trainer", {}, {"EXTRAS": ""}),
        ("trainer", {"EXTRAS": "s3 wandb"}, {"EXTRAS": "s3 wandb"}),
        ("operator", {"EXTRAS": "s3"}, {}),
        ("transfer", {"EXTRAS": "s3"}, {}),
    ],
)
def test_only_the_image_of_the_trainer_has_extras(
    name: str, environment: dict[str, str], expected: dict[str, str]
) -> None:
    assert images.build_arguments(name, environment) == expected


def test_build_volumes_hold_the_paths_that_variables_name(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    environment = {"PIP_CERT": str(bundle), "SSL_CERT_FILE": "/etc/ssl/certs/x.crt", "PIP_FIND_LINKS": "/nowhere"}
    volumes = images.build_volumes(environment)
    assert f"--volume={bundle}:{bundle}:ro" in volumes
    assert not [volume for volume in volumes if "x.crt" in volume or "nowhere" in volume]


def test_apt_options_keep_what_reaches_the_archives() -> None:
    dump = 'APT "";\nAcquire::http::Proxy "http://p:1";\nAcquire::Retries "3";\nAcquire::https::CaInfo "/ca";\n'
    expected = ['--aptopt=Acquire::http::Proxy "http://p:1";', '--aptopt=Acquire::https::CaInfo "/ca";']
    assert images.apt_options(dump) == expected


def test_stores_are_named_by_what_they_hold() -> None:
    one, two = images.Image("a:1", "k1", "s1"), images.Image("b:1", "k2", "s2")
    changed = images.Image("b:1", "k3", "s3")
    assert stores.store_key([one, two]) == stores.store_key([two, one])
    assert len({stores.store_key(held) for held in ([one], [one, two], [one, changed])}) == 3


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({}, None),
        ({"bare": {"pause": "1"}}, "bare"),
        ({"bare": {"pause": "1"}, "old": {"pause": "1", "trainer": "0", "operator": "0"}}, "old"),
        ({"old": {"pause": "1", "trainer": "0"}, "new": {"pause": "1", "trainer": "1", "operator": "0"}}, "new"),
        ({"other": {"pause": "1", "trainer": "1", "more": "1"}}, None),
    ],
)
def test_a_store_begins_with_the_nearest(held: dict[str, dict[str, str]], expected: str | None) -> None:
    wanted = {"pause": "1", "trainer": "1", "operator": "1"}
    found = stores.nearest(wanted, {Path(name): images for name, images in held.items()})
    assert found == (Path(expected) if expected else None)


def test_chain_ids_are_containerds() -> None:
    one, two = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    both = f"sha256:{hashlib.sha256(f'{one} {two}'.encode()).hexdigest()}"
    assert archives.chain_ids([one, two]) == [one, both]
    assert archives.lacking([one, two], []) == {one, two}
    assert archives.lacking([one, two], [one]) == {two}
    assert archives.lacking([one, two], [one, both]) == set()
    assert archives.lacking([one, two], [both]) == {one, two}


def test_repacked_archive_holds_only_wanted_layers(tmp_path: Path) -> None:
    layers = {f"sha256:{hashlib.sha256(data).hexdigest()}": data for data in (b"first", b"second layer")}
    config = json.dumps({"rootfs": {"diff_ids": list(layers)}}).encode()
    docker = io.BytesIO()
    with tarfile.open(fileobj=docker, mode="w") as archive:
        contents = {f"{digest[7:]}.tar": data for digest, data in layers.items()}
        contents |= {f"{hashlib.sha256(config).hexdigest()}.json": config, "manifest.json": b"[]"}
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    docker.seek(0)
    second = list(layers)[1]
    archives.repack(docker, "docker.io/library/a:1", {second}, tmp_path / "oci.tar")

    with tarfile.open(tmp_path / "oci.tar") as archive:
        found = {member.name: file.read() for member in archive if (file := archive.extractfile(member))}
    described = json.loads(found["index.json"])["manifests"][0]
    assert described["annotations"] == {"io.containerd.image.name": "docker.io/library/a:1"}
    manifest_name = f"blobs/sha256/{described['digest'][7:]}"
    manifest = json.loads(found[manifest_name])
    assert [(layer["digest"], layer["size"]) for layer in manifest["layers"]] == [
        (digest, len(data)) for digest, data in layers.items()
    ]
    config_name = f"blobs/sha256/{manifest['config']['digest'][7:]}"
    assert found[config_name] == config
    assert set(found) == {"oci-layout", "index.json", manifest_name, config_name, f"blobs/sha256/{second[7:]}"}


def test_link_copy_shares_files_but_no_database(tmp_path: Path) -> None:
    source = tmp_path / "store"
    database = "io.containerd.metadata.v1.bolt/meta.db"
    blob = "io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/usr/lib/a.db"
    for name in (database, blob, "io.containerd.grpc.v1.introspection/uuid"):
        files.write(source / name, name)
    stores.link_copy(source, tmp_path / "copy")
    assert (tmp_path / "copy" / blob).samefile(source / blob)
    assert not (tmp_path / "copy" / database).samefile(source / database)
    assert (tmp_path / "copy" / database).read_text() == database
    assert not (tmp_path / "copy/io.containerd.grpc.v1.introspection").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "store"]


def test_a_described_image_has_no_layer(tmp_path: Path) -> None:
    sizes = {f"sha256:{number * 64}": int(number) for number in "12"}
    config = json.dumps({"rootfs": {"diff_ids": list(sizes)}}).encode()
    archives.describe(config, sizes, "docker.io/library/a:1", tmp_path / "oci.tar")
    with tarfile.open(tmp_path / "oci.tar") as archive:
        found = {member.name: file.read() for member in archive if (file := archive.extractfile(member))}
    described = json.loads(found["index.json"])["manifests"][0]
    manifest_name = f"blobs/sha256/{described['digest'][7:]}"
    manifest = json.loads(found[manifest_name])
    assert {layer["digest"]: layer["size"] for layer in manifest["layers"]} == sizes
    assert set(found) == {"oci-layout", "index.json", manifest_name, f"blobs/sha256/{manifest['config']['digest'][7:]}"}


def test_the_layers_of_a_built_image_are_directories_of_its_storage(tmp_path: Path) -> None:
    storage = tmp_path / "images/storage"
    config = json.dumps({"rootfs": {"diff_ids": ["sha256:aa", "sha256:bb"]}})
    name = "=" + base64.b64encode(b"sha256:12").decode()
    for path, content in {
        "overlay-layers/layers.json": [
            {"id": "upper", "parent": "lower", "diff-digest": "sha256:bb"},
            {"id": "lower", "diff-digest": "sha256:aa"},
        ],
        "overlay-images/images.json": [
            {"id": "34", "names": ["localhost/trainer:old"], "layer": "lower"},
            {"id": "12", "names": ["localhost/trainer:new"], "layer": "upper"},
            {"id": "56", "layer": "lower"},
        ],
        "overlay-images/12/manifest": {
            "layers": [{"digest": "sha256:aa", "size": 5}, {"digest": "sha256:bb", "size": 6}]
        },
    }.items():
        files.write(storage / path, json.dumps(content))
    files.write(storage / f"overlay-images/12/{name}", config)
    layout = Layout(checkout=tmp_path, cache=tmp_path, state_home=tmp_path)
    image = images.Image("docker.io/library/trainer:dev", "new", "localhost/trainer:new")
    assert images.Builder(layout).layers(image) == [
        images.Layer("sha256:aa", storage / "overlay/lower/diff"),
        images.Layer("sha256:bb", storage / "overlay/upper/diff"),
    ]
    images.Builder(layout).describe(image, tmp_path / "oci.tar")
    with tarfile.open(tmp_path / "oci.tar") as archive:
        contents = [file.read() for member in archive if (file := archive.extractfile(member))]
    assert config.encode() in contents
