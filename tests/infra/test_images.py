"""The images are built from their Dockerfile, and run: as pool, launcher and template.

Without a Docker engine: buildah executes every step in a chroot. What cannot be fetched
is made here under its own name: Debian with Python, Beam's boot program from its Go
module, and a stand-in for the launcher of Flex Templates.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from engines import HOME, flink, is_open, make_digits, need
from schemas import ROOT
from toolbox import wait_until

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("images"),
]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
POOL = 50000  # boot has no other
# of this machine, for pip in the images
PASSED_ON = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"]


class Buildah:
    """Builds and runs images, with a store of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.command = [
            *("buildah", "--root", str(directory / "root")),
            *("--runroot", str(directory / "run"), "--storage-driver", "overlay"),
        ]

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [*self.command, *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.strip()

    def build(self, context: Path, file: Path, tag: str, target: str = "") -> None:
        options = ["--isolation", "chroot", "--layers", "--pull-never"]
        options += ["--target", target] if target else []
        self("bud", *options, "--file", file, "--tag", tag, context)

    def start(
        self, image: str, work: Path, *command: str, said: Path
    ) -> subprocess.Popen[bytes]:
        """Start a program in a new container, as the image's user, `work` at /app."""
        container = self("from", "--pull-never", image)
        with said.open("wb") as log:
            return subprocess.Popen(
                [
                    *(*self.command, "run", "--isolation", "chroot"),
                    *("--volume", f"{work}:/app", container, "--", *command),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, image: str, work: Path, *command: str) -> str:
        """Run a program to its end; what it said."""
        said = self.directory / "said.log"
        code = self.start(image, work, *command, said=said).wait(600)
        assert code == 0, said.read_text()
        return said.read_text()

    def close(self) -> None:
        self("rm", "--all")
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    for program in ("buildah", "debootstrap"):
        need(program, there=shutil.which(program) is not None)
    need("Beam's boot program", there=(HOME / "bin" / "boot").exists())
    if os.getuid() != 0:
        pytest.skip("debootstrap needs root")
    directory = tmp_path_factory.mktemp("buildah")
    made = Buildah(directory)
    with contextlib.closing(made):
        _bases(made, directory)
        yield made


def _bases(buildah: Buildah, directory: Path) -> None:
    arguments = dict(
        line.removeprefix("ARG ").split("=", 1)
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("ARG ")
    )
    python = directory / "python"
    subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            "bookworm",
            python,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for file in filter(os.path.exists, PASSED_ON):
        shutil.copy(file, python / file.lstrip("/"))
    boot = directory / "beam" / "opt" / "apache" / "beam"
    boot.mkdir(parents=True)
    shutil.copy(HOME / "bin" / "boot", boot)
    launcher = directory / "launcher" / "opt" / "google" / "dataflow"
    launcher.mkdir(parents=True)
    (launcher / "python_template_launcher").write_text("a stand-in\n")
    names = {
        "python": f"docker.io/library/python:{arguments['PYTHON']}-slim-bookworm",
        "beam": f"docker.io/apache/beam_python{arguments['PYTHON']}_sdk"
        f":{arguments['BEAM']}",
        "launcher": "gcr.io/dataflow-templates-base/python311-template-launcher-base"
        f":{arguments['LAUNCHER']}",
    }
    for name, tag in names.items():
        file = directory / f"{name}.Dockerfile"
        file.write_text(f"FROM scratch\nCOPY {name} /\n")
        buildah.build(directory, file, tag)
        shutil.rmtree(directory / name)


@pytest.fixture(scope="module")
def worker(buildah: Buildah) -> str:
    buildah.build(ROOT, DOCKERFILE, "featuretap:worker", "worker")
    return "localhost/featuretap:worker"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("example") / "digits")


@pytest.fixture
def work(digits: Path, tmp_path: Path) -> Path:
    """The digits example, for everybody to write to."""
    directory = shutil.copytree(digits, tmp_path / "digits")
    for path in [directory, *directory.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o777)
    return directory


def test_the_worker_image_runs_jobs_alone_and_not_as_root(
    buildah: Buildah, worker: str, work: Path
) -> None:
    script = "id -u; pip check; featuretap run digits.toml"
    said = buildah.run(worker, work, "sh", "-ec", script)
    assert said.startswith("1000\n")
    assert "No broken requirements found." in said
    assert "1797 rows in 8 parts" in said
    assert pq.read_table(work / "out" / "features").num_rows == 1797


def test_flink_runs_on_pools_and_launchers_from_the_image(
    buildah: Buildah, worker: str, work: Path, tmp_path: Path
) -> None:
    """The pool is the image's own command; the job, that of infra/compose."""
    assert not is_open(POOL)
    image = json.loads(buildah("inspect", "--type", "image", worker))["OCIv1"]["config"]
    said = tmp_path / "pool.log"
    start = [*image["Entrypoint"], *image["Cmd"]]
    pool = buildah.start(worker, work, *start, said=said)
    try:
        wait_until(lambda: is_open(POOL) or pool.poll() is not None)
        assert pool.poll() is None, said.read_text()
        with flink(tmp_path / "engine", pool=POOL) as engine:
            command = ("featuretap", "run", "digits.toml", "--", *engine.arguments)
            launcher = buildah.run(worker, work, *command)
    finally:
        os.killpg(pool.pid, signal.SIGKILL)
        pool.wait()
    assert "1797 rows in 8 parts" in launcher
    assert pq.read_table(work / "out" / "features").num_rows == 1797


def test_the_dataflow_image_starts_the_launcher_of_the_template(
    buildah: Buildah, worker: str, work: Path
) -> None:
    """With a runner that is here; tests/infra/test_template.py submits to Dataflow."""
    buildah.build(ROOT, DOCKERFILE, "featuretap:dataflow", "dataflow")
    script = (
        'test "$(id -u)" = 0; test -f /opt/google/dataflow/python_template_launcher;'
        ' python "$FLEX_TEMPLATE_PYTHON_PY_FILE" --config=digits.toml --limit=300'
        " --table=out/trial --runner=FnApiRunner"
    )
    said = buildah.run("localhost/featuretap:dataflow", work, "sh", "-ec", script)
    assert "300 rows in 2 parts" in said
