"""Each file of infra/ fits the schema of whoever reads it, and the other files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import schemas
from engines import HERE as ENGINES
from engines import need
from schemas import ROOT

pytestmark = pytest.mark.heavy
INFRA = ROOT / "infra"
MANIFESTS = sorted([*INFRA.glob("flink/*.yaml"), *INFRA.glob("spark/*.yaml")])
COMPOSE = INFRA / "compose" / "compose.yaml"
TERRAFORM = INFRA / "dataflow" / "main.tf"
METADATA = INFRA / "dataflow" / "metadata.json"
DOCKERFILE = INFRA / "docker" / "Dockerfile"
SCRIPTS = sorted(INFRA.rglob("*.sh"))


@pytest.fixture(scope="module", autouse=True)
def _schemas() -> None:
    need("the schemas of infra/", there=schemas.SCHEMAS.is_dir())


def documents(text: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(text.replace("${IMAGE}", "an-image")))


def compose(text: str, path: Path) -> list[str]:
    path.write_text(text)
    schema = ("--builtin-schema", "vendor.compose-spec")
    return schemas.program("check-jsonschema", *schema, str(path))


def dockerfile(text: str, path: Path) -> list[str]:
    path.write_text(text)
    return schemas.program("hadolint", str(path))


def shell(text: str, path: Path) -> list[str]:
    path.write_text(text)
    return schemas.program("shellcheck", str(path))


def kubernetes(text: str, _: Path) -> list[str]:
    return [fault for one in documents(text) for fault in schemas.kubernetes(one)]


def terraform(text: str, _: Path) -> list[str]:
    return schemas.terraform(text)


def metadata(text: str, _: Path) -> list[str]:
    return schemas.template(json.loads(text))


CHECKS: dict[Path, Callable[[str, Path], list[str]]] = {
    **dict.fromkeys(MANIFESTS, kubernetes),
    COMPOSE: compose,
    TERRAFORM: terraform,
    METADATA: metadata,
    DOCKERFILE: dockerfile,
    **dict.fromkeys(SCRIPTS, shell),
}
FAULTS = [
    (INFRA / "flink" / "cluster.yaml", "startupProbe", "startProbe"),
    (INFRA / "flink" / "cluster.yaml", "v1_19", "v9_99"),
    (INFRA / "flink" / "cluster.yaml", 'numberOfTaskSlots: "2"', "slots: [2]"),
    (INFRA / "flink" / "launcher.yaml", "backoffLimit: 0", "backoffLimit: none"),
    (INFRA / "spark" / "cluster.yaml", "serviceName", "servicename"),
    (COMPOSE, "network_mode", "networkmode"),
    (TERRAFORM, "matches_prefix", "match_prefix"),
    (TERRAFORM, "account_id   =", "account      ="),
    (TERRAFORM, '"google_compute_network"', '"google_network"'),
    (TERRAFORM, "var.region\n", "var.zone\n"),
    (METADATA, "helpText", "help"),
    (METADATA, "[^ ]+", "[^ "),
    (DOCKERFILE, "WORKDIR /source", "WORKDIR source"),
    (INFRA / "dataflow" / "run.sh", '"$PROJECT"', "$PROJECT"),
]


def name(value: Any) -> str:
    return str(value.relative_to(INFRA)) if isinstance(value, Path) else str(value)


@pytest.mark.parametrize("path", CHECKS, ids=name)
def test_files_fit_their_schemas(path: Path, tmp_path: Path) -> None:
    assert CHECKS[path](path.read_text(), tmp_path / path.name) == []


@pytest.mark.parametrize(("path", "right", "wrong"), FAULTS, ids=name)
def test_a_fault_is_seen(path: Path, right: str, wrong: str, tmp_path: Path) -> None:
    text = path.read_text()
    assert right in text
    assert CHECKS[path](text.replace(right, wrong), tmp_path / path.name)


def test_every_file_is_checked() -> None:
    files = {path for path in INFRA.rglob("*") if path.is_file()}
    kinds = {".md", ".py", ".dockerignore"}
    rest = {path for path in files - set(CHECKS) if path.suffix not in kinds}
    assert {name(path) for path in rest if "__pycache__" not in path.parts} == set()


def test_versions_are_those_of_the_tests() -> None:
    """What is deployed is what `make test-engines` runs."""
    space = "{http://maven.apache.org/POM/4.0.0}"

    def pinned(engine: str, artifact: str) -> str:
        root = ElementTree.fromstring((ENGINES / f"{engine}.xml").read_text())
        tags = {e.tag.removeprefix(space) for e in root}
        assert "dependencies" in tags
        for one in root.iter():
            texts = {e.tag.removeprefix(space): e.text for e in one}
            if texts.get("artifactId") == artifact:
                return str(texts["version"])
        raise AssertionError(artifact)

    text = "\n".join(path.read_text() for path in [*MANIFESTS, COMPOSE])
    servers = re.findall(r"apache/beam_(\S+)_job_server:(\S+)", text)
    assert set(servers) == {
        ("flink1.19", pinned("flink", "beam-runners-flink-1.19")),
        ("spark3", pinned("spark", "beam-runners-spark-3")),
    }
    flinks = re.findall(r"image: flink:([\d.]+)-", text)
    sparks = re.findall(r"apache/spark:([\d.]+)-scala2.12", text)
    assert {one.rpartition(".")[0] for one in flinks} == {"1.19"}
    assert set(sparks) == {pinned("spark", "spark-core_2.12")}
    beam = re.search(r"^ARG BEAM=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert beam
    pins = (ROOT / "constraints.txt").read_text()
    assert f"apache-beam=={beam[1]}\n" in pins


def test_readmes_name_files_that_are_there() -> None:
    for readme in INFRA.rglob("README.md"):
        text = readme.read_text()
        for path in re.findall(r"\binfra/[\w./-]*[\w/]", text):
            assert (ROOT / path).exists(), f"{readme} names {path}"
    index = (INFRA / "README.md").read_text()
    for folder in INFRA.iterdir():
        if folder.is_dir():
            assert f"({folder.name}/README.md)" in index
            assert (folder / "README.md").exists()


FAKE = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "$CALLS"
"""
SETTING = {
    "PROJECT": "a-project",
    "REGION": "europe-west4",
    "BUCKET": "a-bucket",
    "SERVICE_ACCOUNT": "worker@a-project.iam.gserviceaccount.com",
    "SUBNETWORK": "https://www.googleapis.com/compute/v1/…/subnetworks/featuretap",
}


def called(script: str, *arguments: str, tmp_path: Path) -> list[str]:
    """Run a script with stand-ins for docker and gcloud; what they were called with."""
    for program in ("docker", "gcloud"):
        path = tmp_path / program
        path.write_text(FAKE)
        path.chmod(0o755)
    calls = tmp_path / "calls"
    calls.unlink(missing_ok=True)
    subprocess.run(
        [INFRA / "dataflow" / script, *arguments],
        check=True,
        env={
            **SETTING,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "CALLS": str(calls),
        },
    )
    return calls.read_text().splitlines()


def test_scripts_give_the_template_parameters_that_it_has(tmp_path: Path) -> None:
    more = ["machine_type=g2-standard-8", "limit=1000"]
    config = "gs://a-bucket/job.toml"
    (call,) = called("run.sh", config, *more, tmp_path=tmp_path)
    given = re.search(r"--parameters \^~\^(\S+)", call)
    assert given
    parameters = dict(one.split("=", 1) for one in given[1].split("~"))
    known = {one["name"]: one for one in json.loads(METADATA.read_text())["parameters"]}
    for parameter, value in parameters.items():
        assert any(re.search(r, value) for r in known[parameter]["regexes"])
    needed = {name for name, one in known.items() if not one.get("isOptional")}
    assert needed <= set(parameters)
    assert parameters["sdk_container_image"] in "\n".join(
        called("build.sh", tmp_path=tmp_path)
    )
    # without a config
    with pytest.raises(subprocess.CalledProcessError):
        called("run.sh", tmp_path=tmp_path)


def test_the_launcher_of_the_template_takes_every_parameter() -> None:
    """A parameter is either the launcher's own, or one of Beam's."""
    help_text = subprocess.run(
        [sys.executable, INFRA / "dataflow" / "launch.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    own = set(re.findall(r"--(\w+)", help_text)) - {"help"}
    from apache_beam.options.pipeline_options import PipelineOptions

    beam = set(PipelineOptions([]).get_all_options())
    parameters = json.loads(METADATA.read_text())["parameters"]
    names = {one["name"] for one in parameters}
    assert own <= names
    assert names - own <= beam
