"""Plan, follow, finish and submit tables of up to a million shards, nothing computed.

The store is made up: documents are real, commit records and parts are what a listing
and a read would show, and every request is counted. Each measurement is a process of
its own, so that its peak of memory is its own.

    python benchmarks/scale.py
    python benchmarks/scale.py --only submit -- --runner=PrismRunner
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fsspec
import numpy as np

from transforms.table.names import part_name, statistics_name

PAGE = 1000  # names in one answer to a listing, of S3 and of GCS
WIDTH = 768  # float32 values in a row, as those of a ViT-B
PART_ROWS = 1000
MILLION = 1_000_000


class Store(fsspec.AbstractFileSystem):
    """A table's directory: documents on disk, commit records and parts made up.

    Attributes:
      directory: of the documents.
      shards: how many commit records there are.
      hidden: how many listings of records show none yet.
      requests: how many a store would have got, by kind.
    """

    protocol = "madeup"
    directory = Path()
    shards = 0
    hidden = 0
    fingerprint = ""
    requests: ClassVar[Counter[str]] = Counter()

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        """List as an object store does, page by page."""
        names = [p.name for p in self._local(path).glob("*") if p.is_file()]
        if path.endswith("/commits") and self.hidden:
            Store.hidden -= 1
        elif path.endswith("/commits"):
            names += (f"{i:05d}.json" for i in range(self.shards))
        for folder, named in (
            ("/table/data", part_name),
            ("/statistics", statistics_name),
        ):
            if path.endswith(folder):
                paths = (named(i, _sha256(i)) for i in range(self.shards))
                names += (found.rpartition("/")[2] for found in paths)
        self.requests["list"] += 1 + len(names) // PAGE
        return [{"name": f"{path}/{n}", "size": 1, "type": "file"} for n in names]

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        """Read a document, or make up a commit record."""
        self.requests["read"] += 1
        folder, name = os.path.split(path)
        if folder.endswith("/statistics") and self.shards:
            return _statistics()
        if not folder.endswith("/commits"):
            return self._local(path).read_bytes()
        index = int(name.partition(".")[0])
        if index >= self.shards:  # not made up: written by a worker, or absent
            return self._local(path).read_bytes()
        sha256 = _sha256(index)
        record = {
            "shard": index,
            "fingerprint": self.fingerprint,
            "claim": "",
            "versions": {},
            "planned_rows": PART_ROWS,
            "part": {
                "path": part_name(index, sha256),
                "rows": PART_ROWS,
                "bytes": 4 * WIDTH * PART_ROWS,
                "sha256": sha256,
            },
            "errors": None,
            "statistics": {
                "columns": {
                    "path": statistics_name(index, sha256),
                    "rows": 1,
                    "bytes": len(_statistics()),
                    "sha256": sha256,
                },
                "sample": None,
                "sample_below": 2**64,
            },
            "rest_lost": False,
            "piece_rows": None,
            "non_finite": {},
            "device_rows": 256,
            "seconds": {"read": 1.5, "compute": 3.25, "write": 0.25, "total": 5.0},
        }
        return json.dumps(record, indent=2).encode()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Tell of a document."""
        self.requests["head"] += 1
        size = self._local(path).stat().st_size
        return {"name": path, "size": size, "type": "file"}

    def pipe_file(
        self, path: str, value: bytes, mode: str = "overwrite", **_: Any
    ) -> None:
        """Write a document."""
        self.requests["write"] += 1
        target = self._local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb" if mode == "create" else "wb") as stream:
            stream.write(value)

    def put_file(self, lpath: str, rpath: str, *_: Any, **__: Any) -> None:
        """Upload a part."""
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def rm_file(self, path: str) -> None:
        """Remove a document."""
        self.requests["delete"] += 1
        self._local(path).unlink()

    def _local(self, path: str) -> Path:
        return self.directory / self._strip_protocol(path)


def _sha256(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


@cache
def _statistics() -> bytes:
    """What the rows of each part are like."""
    import pyarrow as pa

    from transforms.statistics.column import ColumnStatistics
    from transforms.statistics.stored import to_table
    from transforms.table.directory import to_parquet

    values = np.random.default_rng(0).normal(size=PART_ROWS * WIDTH).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(values, WIDTH).cast(
        pa.list_(pa.float32())
    )
    found = ColumnStatistics("embedding", WIDTH)
    hashes = np.arange(PART_ROWS, dtype=np.uint64)
    found.add(lists, pa.array([f"k{i}" for i in range(PART_ROWS)]), hashes)
    return to_parquet(to_table([found]))


class Rows:
    """A reader of one file with as many rows as asked for."""

    default_key: ClassVar[str | None] = None

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def files(self) -> Sequence[Any]:
        """The one file."""
        from transforms.sources.source import File

        return [File("rows", "rows", self.rows, "1", (self.rows,))]

    def describe(self) -> Mapping[str, Any]:
        """One feature."""
        from transforms.dtypes import Feature

        return {"x": Feature("float32", (8,))}

    def read(self, pieces: Sequence[Any], _: Any, batch_rows: int | None) -> Any:
        """Random numbers; only `measure_shard` gets here."""
        import tensorflow as tf

        from transforms.shard import position

        at = [position(i, r) for i, p in enumerate(pieces) for r in range(p.rows)]
        x = np.random.default_rng(at[0]).normal(size=(len(at), 8)).astype(np.float32)
        rows = tf.data.Dataset.from_tensor_slices((np.array(at), {"x": x}))
        return rows if batch_rows is None else rows.batch(batch_rows)


def make_model() -> Any:
    """Build a model with a feature of `WIDTH` values."""
    import keras

    x = keras.Input((8,), name="x")
    return keras.Model(x, keras.layers.Dense(WIDTH, name="embedding")(x))


def document(table: str, rows: int, rows_per_part: int | None) -> dict[str, Any]:
    return {
        "source": {"reader": "scale:Rows", "rows": rows},
        "model": {"build": "scale:make_model"},
        "taps": [{"path": "embedding"}],
        "table": {"path": table, "rows_per_part": rows_per_part},
    }


def planned(shards: int) -> str:
    """Store a plan of so many shards, none of which is committed; give its URI."""
    from pipeline import make_plan, prepare_table
    from pipeline.config_file import parse_config

    Store.shards = 0
    table = f"madeup://{shards}/table"
    plan = make_plan(parse_config(document(table, shards * PART_ROWS, PART_ROWS)))
    prepare_table(plan)
    Store.fingerprint = plan.fingerprint
    return table


def measure_sizes(_: int, __: Sequence[str]) -> dict[str, Any]:
    """Plan tables of 10^6 to 10^10 rows with parts of the default size."""
    from pipeline import make_plan
    from pipeline.config_file import parse_config
    from transforms.table.directory import to_parquet

    found = {}
    for power in range(6, 11):
        with measured() as report:
            plan = make_plan(parse_config(document("madeup://table", 10**power, None)))
        found[f"10^{power} rows"] = {
            "shards": len(plan.shards),
            "rows_per_part": plan.shards[0].rows,
            "plan_bytes": len(to_parquet(plan.shards.table)),
            "seconds": report["seconds"],
        }
    return found


def measure_plan(shards: int, _: Sequence[str]) -> dict[str, Any]:
    """Make and store a plan, and find what is left of it."""
    from transforms.table.plan_file import pending_shards

    planned(10)
    with measured() as making:
        table = planned(shards)
    with measured() as finding:
        assert sum(1 for _ in pending_shards(table)) == shards
    stored = Store.directory / f"{shards}/table/_featuretap/plan.parquet"
    plan_bytes = stored.stat().st_size
    return {"make": making, "find_pending": finding, "plan_bytes": plan_bytes}


def measure_status(shards: int, _: Sequence[str]) -> dict[str, Any]:
    """Tell the progress of a table whose shards are all committed but not finished."""
    from pipeline import table_status

    table = planned(shards)
    Store.shards = shards
    with measured() as report:
        status = table_status(table)
    assert (status.committed, status.finished) == (shards, False)
    return report


def measure_finish(shards: int, _: Sequence[str]) -> dict[str, Any]:
    """Check all commit records, write manifest and `_SUCCESS`."""
    from transforms.table.commit import commit_table
    from transforms.table.directory import Table

    table = planned(shards)
    Store.shards = shards
    with measured() as report:
        summary = commit_table(Table(table), 0.0)
    assert (summary["parts"], summary["rows"]) == (shards, shards * PART_ROWS)
    manifest = Store.directory / f"{shards}/table/_featuretap/manifest.parquet"
    return {**report, "manifest_bytes": manifest.stat().st_size}


def measure_shard(_: int, __: Sequence[str]) -> dict[str, Any]:
    """Compute a few shards for real: how many requests each of them makes."""
    from pipeline import make_plan, run_plan
    from pipeline.config_file import parse_config

    few, more = 10, 30
    requests = []
    for n in (few, more):
        rows = n * PART_ROWS
        table = f"madeup://shard-{n}/table"
        plan = make_plan(parse_config(document(table, rows, PART_ROWS)))
        with measured() as report:
            run_plan(plan)
        requests.append(Counter(report["requests"]))
    each = requests[1] - requests[0]
    return {"requests": {kind: n / (more - few) for kind, n in each.items()}}


def measure_submit(shards: int, beam_args: Sequence[str]) -> dict[str, Any]:
    """Send every shard through a runner, to a worker that finds it committed.

    The first listing of records shows none, as if they came after it: so each shard
    goes to a worker, which looks for its record, and the last step takes them all.
    """
    from pipeline.runners import make_pipeline, pipeline_options
    from transforms.beam import CommitTable, ExtractShards

    sizes = {}
    for n in (10, shards):
        table = planned(n)
        Store.shards, Store.hidden = n, 1
        pipeline = make_pipeline(pipeline_options(beam_args))
        _ = pipeline | ExtractShards(table) | CommitTable(table)
        sizes[n] = len(pipeline.to_runner_api().SerializeToString())
        with measured() as report:
            pipeline.run().wait_until_finish()
        success = Store.directory / f"{n}/table/_SUCCESS"
        assert json.loads(success.read_text())["parts"] == n
    return {**report, "pipeline_bytes": sizes}


def measure_stragglers(_: int, __: Sequence[str]) -> dict[str, Any]:
    """Simulate workers that take the next shard, against a split made beforehand.

    A hundred workers, and shards whose times vary by a factor of two either way now and
    then; one worker is three times slower. How much longer than if nobody ever waited,
    and how long the first that is done waits for the last, in mean shards.
    """
    return {
        f"{each} shards a worker": {
            "next_shard": _ends(each, beforehand=False),
            "split_beforehand": _ends(each, beforehand=True),
        }
        for each in (10, 100)
    }


def _ends(each: int, *, beforehand: bool) -> dict[str, float]:
    workers = 100
    shards = np.random.default_rng(0).lognormal(0, 0.35, workers * each)
    speed = np.ones(workers)
    speed[0] = 1 / 3
    if beforehand:
        ends = shards.reshape(workers, each).sum(1) / speed
    else:
        free = [(0.0, worker) for worker in range(workers)]
        for seconds in shards:
            end, worker = heapq.heappop(free)
            heapq.heappush(free, (end + seconds / speed[worker], worker))
        ends = np.array([end for end, _ in free])
    return {
        "over_ideal": round(float(ends.max() * speed.sum() / shards.sum()), 3),
        "first_waits_shards": round(float(ends.max() - ends.min()), 2),
    }


MEASURES: dict[str, Callable[[int, Sequence[str]], dict[str, Any]]] = {
    "sizes": measure_sizes,
    "plan": measure_plan,
    "status": measure_status,
    "finish": measure_finish,
    "shard": measure_shard,
    "submit": measure_submit,
    "stragglers": measure_stragglers,
}


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Fill a report of a block: seconds, requests, and how far the peak has moved."""
    report: dict[str, Any] = {}
    Store.requests.clear()
    peak, began = peak_bytes(), time.perf_counter()
    yield report
    report["seconds"] = round(time.perf_counter() - began, 1)
    report["requests"] = dict(Store.requests)
    report["more_memory_bytes"] = peak_bytes() - peak


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure, each in a process of its own; print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=MILLION)
    parser.add_argument("--only", choices=MEASURES)
    parser.add_argument("beam_args", nargs="*", metavar="-- BEAM ARGS")
    arguments = parser.parse_args()
    if arguments.only:
        fsspec.register_implementation("madeup", Store)
        sys.modules["scale"] = sys.modules["__main__"]
        with tempfile.TemporaryDirectory() as directory:
            Store.directory = Path(directory)
            measure = MEASURES[arguments.only]
            print(json.dumps(measure(arguments.shards, arguments.beam_args)))
        return
    report = {}
    for name in MEASURES:
        command = [sys.executable, __file__, "--only", name]
        command += ["--shards", str(arguments.shards), "--", *arguments.beam_args]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        report[name] = json.loads(done.stdout)
    print(json.dumps({"shards": arguments.shards, **report}, indent=2))


if __name__ == "__main__":
    main()
