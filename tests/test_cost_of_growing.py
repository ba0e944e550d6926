"""What growing costs: the layers that missing taps need, and memory that stays flat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, vectors, worker_of, write_parquet
from toolbox import CALLS

from pipeline import make_plan, prepare_table
from transforms.extract import extract_shard
from transforms.statistics import collect
from transforms.table import batches, parquet_writer
from transforms.table.commit import commit_table
from transforms.table.directory import Table

STEM, LEFT, RIGHT = ({"path": name} for name in ("stem", "left", "right"))
BATCHES = 10
ALL = (
    BATCHES + 1
)  # calls: the first batch of a run goes through once more, to be checked
POOLS = []  # outlive what they have given


class Sized(Job):
    """A job over one file of so many rows, all of which are one shard."""

    def __init__(self, directory: Path, rows: int) -> None:
        (directory / "data").mkdir(parents=True)
        source = {"reader": "parquet", "path": str(directory / "data")}
        super().__init__(directory, source)
        file = directory / "data" / "a.parquet"
        write_parquet(file, range(rows), vectors(rows), 512)

    def make(
        self,
        name: str,
        taps: list[Any],
        *tables: str,
        during: Callable[[Callable[[], None]], Any] = lambda work: work(),
    ) -> Any:
        """Make a table from others; give what `during` gives for its shards."""
        path = str(self.directory / name)
        config = self.config(
            source={"keep": ["text"]},
            model={"build": "toolbox:counting_model", "batch_rows": 64},
            taps=taps,
            table={"path": path, "rows_per_part": 1_000_000},
        )
        plan = make_plan(config, [str(self.directory / one) for one in tables])
        prepare_table(plan)
        worker = worker_of(path)
        found = during(lambda: [extract_shard(worker, s) for s in plan.shards])
        commit_table(Table(path), 0.0)
        return found


def calls(work: Callable[[], None]) -> dict[str, int]:
    """Count how often each layer is run."""
    CALLS.clear()
    work()
    return dict(CALLS)


def test_layers_run_only_as_far_as_missing_taps_need_them(tmp_path: Path) -> None:
    job = Sized(tmp_path, 64 * BATCHES)
    everything = {"stem": ALL, "left": ALL, "right": ALL}
    assert job.make("fresh", [STEM, LEFT, RIGHT], during=calls) == everything
    assert job.make("left", [LEFT], during=calls) == {"stem": ALL, "left": ALL}
    for taps, expected in (
        ([LEFT, STEM], {"stem": ALL}),
        ([LEFT, RIGHT], {"stem": ALL, "right": ALL}),
        ([LEFT], {}),
    ):
        name = "-".join(tap["path"] for tap in taps)
        assert job.make(f"from-{name}", taps, "left", during=calls) == expected
    assert job.make("less", [RIGHT], "fresh", during=calls) == {}


def peak(work: Callable[[], None]) -> int:
    """Give the most bytes that Arrow holds at a time."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(pa.system_memory_pool())
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        work()
    finally:
        pa.set_memory_pool(usual)
    return int(pool.max_memory())


@pytest.fixture
def _small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_writer, "ROW_GROUP_BYTES", 1 << 14)
    monkeypatch.setattr(collect, "_BYTES_AT_A_TIME", 1 << 14)
    monkeypatch.setattr(batches, "_ROWS_AT_A_TIME", 256)


@pytest.mark.usefixtures("_small_row_groups")
def test_memory_does_not_grow_with_a_part(tmp_path: Path) -> None:
    peaks: dict[str, list[int]] = {}
    for rows in (12_000, 48_000):  # of both some are in the sample
        job = Sized(tmp_path / str(rows), rows)
        job.make("one", [LEFT, STEM])
        for name, taps in (
            ("carried", [LEFT, STEM]),
            ("projected", [LEFT]),
            ("extended", [LEFT, STEM, RIGHT]),
        ):
            peaks.setdefault(name, []).append(job.make(name, taps, "one", during=peak))
    (part,) = (tmp_path / "48000" / "one" / "data").iterdir()
    assert pq.ParquetFile(part).num_row_groups > 40
    whole = pq.read_table(part).nbytes
    assert peaks.pop("carried") == [0, 0]
    for small, large in peaks.values():
        assert large < 1.5 * small
        assert large < whole / 2
