"""Start clusters on loopback: Flink, Spark, Prism and Dask; stop all of them again.

`make test-engines` installs what they need, under ENGINES_HOME or .venv/engines.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from ports import free_port
from toolbox import wait_until

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOME = Path(os.environ.get("ENGINES_HOME", ROOT / ".venv" / "engines"))
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # the pool runs `python`
    "PYTHONPATH": os.pathsep.join(
        map(str, [ROOT, ROOT / "tests", ROOT / "tests" / "faults", HERE])
    ),
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
OPENS = [
    f"--add-opens=java.base/{name}=ALL-UNNAMED"
    for name in (
        "java.lang",
        "java.lang.invoke",
        "java.lang.reflect",
        "java.io",
        "java.net",
        "java.nio",
        "java.text",
        "java.time",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "java.util.concurrent.locks",
        "sun.nio.ch",
    )
]
FLINK_CONF = """\
jobmanager.rpc.address: localhost
jobmanager.bind-host: 127.0.0.1
jobmanager.rpc.port: {rpc}
jobmanager.memory.heap.size: 256m
jobmanager.memory.off-heap.size: 128m
jobmanager.memory.jvm-metaspace.size: 256m
jobmanager.memory.jvm-overhead.min: 192m
jobmanager.memory.jvm-overhead.max: 192m
rest.port: {rest}
rest.address: localhost
rest.bind-address: 127.0.0.1
cluster.evenly-spread-out-slots: true
taskmanager.bind-host: 127.0.0.1
taskmanager.host: localhost
taskmanager.numberOfTaskSlots: 2
taskmanager.cpu.cores: 1.0
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 64m
taskmanager.memory.managed.size: 64m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.framework.heap.size: 64m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
heartbeat.timeout: 10000
heartbeat.interval: 2000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 5
restart-strategy.fixed-delay.delay: 4s
"""


@dataclass
class Engine:
    """A started engine.

    Attributes:
      arguments: for Beam, that use it.
      workers: for `run --workers`, where the engine is featuretap's own.
      processes: of it, by name.
      one_job: it takes no second job while one is at work.
      metrics: it tells Beam's.
    """

    arguments: list[str] = field(default_factory=list)
    workers: int | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    one_job: bool = False
    metrics: bool = True


class Cluster:
    """Processes that end together, each with a log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: object, **environment: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                list(map(str, command)),
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**ENVIRONMENT, **_temporary(), **environment},
                start_new_session=True,
            )

    def until(self, name: str, holds: Callable[[], bool], seconds: float = 90) -> None:
        """Wait for what a process must bring about."""

        def log() -> str:
            text = (self.directory / f"{name}.log").read_text(errors="replace")
            return f"{name} has ended or is not ready:\n{text[-3000:]}"

        def ready() -> bool:
            assert self.processes[name].poll() is None, log()
            return holds()

        wait_until(ready, log, seconds)

    def until_port(self, name: str, port: int) -> None:
        self.until(name, lambda: is_open(port))

    def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def _temporary() -> dict[str, str]:
    """Tell programs, and Java, which knows no TMPDIR, the tests' own place."""
    place = tempfile.gettempdir()
    java = f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} -Djava.io.tmpdir={place}"
    return {"TMPDIR": place, "JAVA_TOOL_OPTIONS": java}


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def need(what: str, *, there: bool) -> None:
    """Skip, or fail if the engines have been installed for these tests."""
    if there:
        return
    if os.environ.get("REQUIRE_ENGINES"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing (make test-engines installs it)")


def need_java(engine: str) -> Path:
    need("java", there=shutil.which("java") is not None)
    jars = HOME / engine / "jars"
    need(f"the jars of {engine}", there=jars.is_dir())
    return jars


@contextlib.contextmanager
def in_memory(_: Path) -> Iterator[Engine]:
    yield Engine()


@contextlib.contextmanager
def processes(_: Path) -> Iterator[Engine]:
    yield Engine(workers=2)


@contextlib.contextmanager
def prism(_: Path, *, runner: str = "PrismRunner") -> Iterator[Engine]:
    binary = HOME / "bin" / "prism"
    need("prism", there=binary.exists())
    yield Engine([f"--runner={runner}", f"--prism_location={binary}"])


@contextlib.contextmanager
def dask(directory: Path) -> Iterator[Engine]:
    need("dask", there=(BIN / "dask").exists())
    cluster, port = Cluster(directory), free_port()
    with contextlib.closing(cluster):
        address = f"tcp://127.0.0.1:{port}"
        scheduler = ("scheduler", "--host", "127.0.0.1", "--port", port)
        cluster.start("scheduler", BIN / "dask", *scheduler, "--no-dashboard")
        cluster.until_port("scheduler", port)
        for name in ("worker-1", "worker-2"):
            options = ("--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
            cluster.start(name, BIN / "dask", "worker", address, *options)
        arguments = ["--runner=DaskRunner", f"--dask_client_address={address}"]
        yield Engine(arguments)


@contextlib.contextmanager
def flink(
    directory: Path, *, environment: str = "EXTERNAL", pool: int | None = None
) -> Iterator[Engine]:
    """Start it, with two TaskManagers.

    Or one, where `pool` is the port of a pool of workers that is there already: Beam's
    own serves one.
    """
    jars = need_java("flink")
    cluster = Cluster(directory)
    rest, rpc, job = (free_port() for _ in range(3))
    conf = directory / "conf"
    conf.mkdir()
    (conf / "flink-conf.yaml").write_text(FLINK_CONF.format(rest=rest, rpc=rpc))
    java = ("java", *OPENS, "-Xmx300m", "-cp", f"{jars}/*")
    at = ("--configDir", conf)
    entry = "org.apache.flink.runtime"
    with contextlib.closing(cluster):
        session = f"{entry}.entrypoint.StandaloneSessionClusterEntrypoint"
        cluster.start("jobmanager", *java, session, *at)
        names = ["taskmanager-1"] if pool else ["taskmanager-1", "taskmanager-2"]
        expected = f'"taskmanagers":{len(names)}'.encode()
        for name in names:
            runner = f"{entry}.taskexecutor.TaskManagerRunner"
            cluster.start(name, *java, runner, *at)
        cluster.start(
            "job-server",
            *java,
            "org.apache.beam.runners.flink.FlinkJobServerDriver",
            *("--job-host", "localhost", "--job-port", job),
            *("--artifact-port", 0, "--expansion-port", 0),
            *("--flink-master", f"localhost:{rest}"),
        )
        arguments = [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{job}",
            "--parallelism=2",
            f"--environment_type={environment}",
        ]
        if environment == "EXTERNAL":
            pool = pool or start_pool(cluster)
            arguments.append(f"--environment_config=localhost:{pool}")
        else:
            arguments.append(f"--environment_config={process_config(cluster)}")

        def registered() -> bool:
            with contextlib.suppress(OSError):
                overview = f"http://localhost:{rest}/overview"
                with urllib.request.urlopen(overview) as answer:
                    return expected in answer.read()
            return False

        cluster.until("jobmanager", registered)
        cluster.until_port("job-server", job)
        yield Engine(arguments, processes=cluster.processes)


@contextlib.contextmanager
def spark(directory: Path) -> Iterator[Engine]:
    jars = need_java("spark")
    cluster = Cluster(directory)
    master, job = free_port(), free_port()
    url = f"spark://localhost:{master}"
    home = {"SPARK_HOME": str(jars.parent), "SPARK_SCALA_VERSION": "2.12"}
    java = ("java", *OPENS, "-Xmx512m", "-cp", f"{jars}/*")
    with contextlib.closing(cluster):
        cluster.start(
            "master",
            *java,
            "org.apache.spark.deploy.master.Master",
            *("--host", "localhost", "--port", master, "--webui-port", free_port()),
            **home,
        )
        cluster.until_port("master", master)
        for name in ("worker-1", "worker-2"):
            cluster.start(
                name,
                *java,
                "org.apache.spark.deploy.worker.Worker",
                *("--host", "localhost", "--cores", 1, "--memory", "1g"),
                *("--webui-port", free_port(), "--work-dir", directory / name, url),
                **home,
            )
        cluster.start(
            "job-server",
            *java[:-2],
            "-Dspark.driver.host=localhost",
            "-Dspark.driver.bindAddress=127.0.0.1",
            "-Dspark.executor.memory=512m",
            *java[-2:],
            "org.apache.beam.runners.spark.SparkJobServerDriver",
            *("--job-host", "localhost", "--job-port", job),
            *("--artifact-port", 0, "--expansion-port", 0),
            *("--spark-master-url", url),
            **home,
        )
        pool = start_pool(cluster)
        cluster.until_port("job-server", job)
        yield Engine(
            [
                "--runner=PortableRunner",
                f"--job_endpoint=localhost:{job}",
                "--environment_type=EXTERNAL",
                f"--environment_config=localhost:{pool}",
            ],
            one_job=True,
        )


def make_digits(directory: Path) -> Path:
    """The digits example with its data and model, made by its own scripts."""
    made = shutil.ignore_patterns("data", "out", "*.keras", "__pycache__")
    shutil.copytree(ROOT / "examples" / "digits", directory, ignore=made)
    for script in ("digits_dataset.py", "digits_model.py"):
        command = [sys.executable, script]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory


def start_pool(cluster: Cluster) -> int:
    port = free_port()
    cluster.start("pool", sys.executable, HERE / "pool.py", port)
    cluster.until_port("pool", port)
    return port


def process_config(cluster: Cluster) -> str:
    """A command that starts a worker, for environments of type PROCESS."""
    script = cluster.directory / "worker.sh"
    script.write_text(
        "#!/bin/sh\n"
        f"export PATH={ENVIRONMENT['PATH']} PYTHONPATH={ENVIRONMENT['PYTHONPATH']}\n"
        f'exec {sys.executable} {HERE / "boot.py"} "$@"\n'
    )
    script.chmod(0o755)
    return f'{{"command": "{script}"}}'


ENGINES = {
    "FnApiRunner": in_memory,
    "--workers": processes,
    "DirectRunner": partial(prism, runner="DirectRunner"),
    "Prism": prism,
    "Flink, EXTERNAL": flink,
    "Flink, PROCESS": partial(flink, environment="PROCESS"),
    "Spark": spark,
    "Dask": dask,
}
