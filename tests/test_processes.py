"""Several local processes: the same table, no shard promised, no GPU shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jobs import job_document, outcome
from toolbox import wait_until
from typer.testing import CliRunner

from pipeline import local_workers, make_plan, run_plan
from pipeline.cli import app
from pipeline.config_file import parse_config
from transforms.programs.local_worker import Job
from transforms.shard import Piece, Shard
from transforms.stop import stopping

TESTS = str(Path(__file__).parent)


def run_job(
    path: Path, workers: int = 2, *, model: str = "dict_model", **source: Any
) -> dict[str, Any]:
    document = job_document(path)
    document["source"] |= source
    document["model"]["build"] = f"toolbox:{model}"
    return run_plan(make_plan(parse_config(document)), workers=workers)


def unlucky(monkeypatch: pytest.MonkeyPatch, path: Path, times: int, how: str) -> str:
    monkeypatch.setenv("TEST_TRIES", str(path))
    monkeypatch.setenv("TEST_FAILURES", str(times))
    monkeypatch.setenv("TEST_FAILURE", how)
    return "toolbox:UnluckyReader"


def test_processes_make_the_same_table(
    tmp_path: Path, whole: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table"
    assert run_job(table)["rows"] == 40
    assert outcome(table) == whole
    assert capfd.readouterr().out == ""


def test_a_worker_that_lags_holds_up_one_shard(tmp_path: Path) -> None:
    table = tmp_path / "table"
    reader = {"reader": "toolbox:LaggingReader", "table": str(table), "others": 7}
    assert run_job(table, sizes=[16] * 8, **reader)["parts"] == 8


def test_few_shards_are_spread_over_the_workers() -> None:
    shards = [Shard(i, (Piece("f", "f", i, 1),)) for i in range(10)]
    pool = local_workers._Pool(Job("t", "seal", 3), 2, iter(shards))
    sent: list[list[int]] = [[], [], []]
    for got in sent:
        pipe = SimpleNamespace(send=lambda shard, got=got: got.append(shard.index))
        child: Any = SimpleNamespace(pipe=pipe)
        pool.workers.append(local_workers._Worker(child))
    pool.workers[0].room = 8
    assert not pool._hand_out()
    assert [len(got) for got in sent] == [1, 0, 0]  # the others may be ready soon
    pool.workers[1].room = 8
    assert not pool._hand_out()
    assert [len(got) for got in sent] == [1, 1, 0]
    pool.workers[2].room = 8
    assert pool._hand_out()
    assert sorted(len(got) for got in sent) == [3, 3, 4]


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["killed", "forked", "storage"])
def test_what_fails_twice_is_done_in_the_end(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = tmp_path / "tries"
    reader = unlucky(monkeypatch, tries, 2, how)
    assert run_job(tmp_path / "table", reader=reader, sizes=[16, 16, 16])["rows"] == 48
    assert len(tries.read_text().split()) == 3
    if how != "storage":
        assert len(set(tries.read_text().split())) == 3


@pytest.mark.heavy
def test_storage_that_always_fails_ends_the_run_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table"
    reader = unlucky(monkeypatch, tmp_path / "tries", 1000, "storage")
    message = r"shard 1 \(16 rows from row 0 of 1\) failed: OSError: the store is busy"
    with pytest.raises(RuntimeError, match=message):
        run_job(table, reader=reader, sizes=[16, 16, 16])
    commits = {path.name for path in table.glob("_featuretap/commits/*")}
    assert "00000.json" in commits
    assert "00001.json" not in commits


def test_code_that_ends_the_process_fails_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = unlucky(monkeypatch, tmp_path / "tries", 1000, "exit")
    with pytest.raises(RuntimeError, match=r"shard 1 .* SystemExit: a library"):
        run_job(tmp_path / "table", reader=reader, sizes=[16, 16, 16])


def test_a_worker_that_cannot_work_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody else holds one of two GPUs."""
    monkeypatch.setenv("TEST_PLACES", str(tmp_path / "places"))
    made = run_job(tmp_path / "table", model="single_model", sizes=[16] * 6)
    assert made["parts"] == 6


def test_a_worker_that_cannot_start_is_not_started_for_ever(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match="ended with exit code 3 before it could start"
    ):
        run_job(tmp_path / "table", model="fatal_model")


def test_stopping_leaves_the_rest_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    table = tmp_path / "table"
    stopping.set()
    try:
        assert run_job(table) == {}
    finally:
        stopping.clear()
    assert not (table / "_SUCCESS").exists()
    assert run_job(table)["rows"] == 40
    assert outcome(table) == whole


def test_workers_and_a_runner_exclude_each_other(tmp_path: Path) -> None:
    arguments = ["run", "job.toml", "--workers", "2", "--", "--runner=FlinkRunner"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "either --workers or arguments for Beam" in done.stderr


@pytest.mark.heavy
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_launcher(end: signal.Signals, tmp_path: Path) -> None:
    """Killed, or stopped at once by a second Ctrl-C."""
    table, config = tmp_path / "table", tmp_path / "job.toml"
    sizes, reader = [16] * 4, "toolbox:LaggingReader"
    config.write_text(
        f"""
        [source]
        reader = "{reader}"
        sizes = {sizes}
        table = "{table}"
        others = 9
        [model]
        build = "toolbox:dict_model"
        [[taps]]
        path = "stem"
        [table]
        path = "{table}"
        rows_per_part = 16
        """
    )
    launcher = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", str(config), "--workers", "2"],
        env={**os.environ, "PYTHONPATH": TESTS},
        stderr=subprocess.PIPE,
        text=True,
    )
    commits = table / "_featuretap" / "commits"
    wait_until(lambda: len([*commits.glob("*")]) == 3)
    notes = table / "_featuretap" / "attempts"
    wait_until(lambda: len([*notes.glob("*.json")]) == 1)
    (note,) = notes.glob("*.json")
    worker = json.loads(note.read_text())["pid"]
    assert is_alive(worker)
    launcher.send_signal(end)
    if end == signal.SIGINT:
        assert launcher.stderr
        while "once more to stop" not in launcher.stderr.readline():
            assert launcher.poll() is None
        launcher.send_signal(end)
    _, said = launcher.communicate()
    wait_until(lambda: not is_alive(worker))
    assert not note.exists()  # that was nobody's fault
    if end == signal.SIGINT:
        assert launcher.returncode == 130
        assert "3 of 4 shards are committed" in said


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


LEASE = """
import sys
from types import SimpleNamespace as Fake
from transforms import device

device._PATIENCE_SECONDS = 0
device.borrow(sys.argv[2] or None)
visible = []
config = Fake(
    list_physical_devices=lambda kind=None: ["gpu a", "gpu b"],
    set_visible_devices=lambda devices, kind: visible.extend(devices),
    get_visible_devices=lambda kind: visible,
    experimental=Fake(set_memory_growth=lambda gpu, grow: None),
    threading=Fake(set_intra_op_parallelism_threads=lambda threads: None),
)
sys.modules["tensorflow"] = Fake(config=config)  # its import takes seconds
try:
    device.configure(compute=sys.argv[1] == "compute")
    print(visible, device.shards_in_flight(), flush=True)
except RuntimeError as error:
    print(error, flush=True)
if sys.stdin.readline():
    device.release()
    print("released", flush=True)
    sys.stdin.readline()
"""


def test_no_gpu_is_shared(tmp_path: Path) -> None:
    """With devices that are made up: what is true is the processes and their locks."""
    running: list[subprocess.Popen[str]] = []

    def start(what: str = "compute", visible: str = "", borrowed: str = "") -> str:
        process = subprocess.Popen(
            [sys.executable, "-c", LEASE, what, borrowed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TMPDIR": str(tmp_path),
                "CUDA_VISIBLE_DEVICES": visible,
            },
        )
        running.append(process)
        assert process.stdout
        return process.stdout.readline().strip()

    assert start("plan").startswith("[] ")
    assert start(borrowed="1") == "['gpu b'] 2"  # with another one free
    assert start() == "['gpu a'] 2"
    assert start() == "['gpu b'] 2"
    assert start(borrowed="1") == "['gpu b'] 2"  # in its parent's place
    assert "must have a GPU of its own, other processes hold all 2" in start()
    assert start(visible="1,7") == "['gpu b'] 2"
    running[2].kill()
    running[2].wait()
    assert start() == "['gpu a'] 2"
    assert running[3].stdin
    assert running[3].stdout
    running[3].stdin.write("release\n")
    running[3].stdin.flush()
    assert running[3].stdout.readline() == "released\n"
    assert start() == "['gpu b'] 2"
    for process in running:
        process.kill()
        process.communicate()
