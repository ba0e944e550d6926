"""Read, preprocess, infer and write one shard; ExtractShards does so for a plan.

`extract_shard` is the whole flow of a worker. It can run anywhere, any number of times,
by several workers at once: the first commit record of a shard counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics

from transforms import storage
from transforms.activations import CompiledTaps, compile_taps
from transforms.infer import infer
from transforms.model import cached_model
from transforms.preprocess import make_steps, trace_steps
from transforms.read import Batch, Failure, InputPipeline
from transforms.schema import (
    Column,
    arrow_schema,
    constant_timestamp,
    passed_features,
    to_array,
)
from transforms.shard import BadRow, Commit, Shard, StoredFile
from transforms.sources import Feature, make_source
from transforms.spec import Config
from transforms.table import Table
from transforms.taps import Tap
from transforms.write import PartWriter, check_part, file_sha256

ERROR_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("shard", pa.int64()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("stage", pa.string()),
        ("exception", pa.string()),
        ("message", pa.string()),
    ]
)
# Where TensorFlow puts names and places of its own around what went wrong.
_NOISE = re.compile(
    r"(?s:^Graph execution error:.*File \"[^\"]*\", line \d+, in [^\n]*\n)"
    r"|\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]( name:)?"
    r"|Error in user-defined function passed to .*? iterator: [\w:]*:"
)
_MESSAGE_LENGTH = 1000
_DAMAGE = ("DataLossError", "EOFError")
_workers: dict[str, Worker] = {}
_lock = threading.Lock()


@dataclass(slots=True)
class Worker:
    """All that a process needs for the shards of one table; made once.

    Attributes:
      table: the table being made.
      fingerprint: of its plan.
      shards: how many the plan has.
      pipeline: from stored rows to model inputs.
      compiled: from model inputs to columns.
      columns: of the table.
      schema: of every part.
      timestamp: constant event timestamp, None if there is none.
      proven: whether a row has ever come through here; until then, rows that all fail
        alike speak of the config and not of the data.
    """

    table: Table
    fingerprint: str
    shards: int
    pipeline: InputPipeline
    compiled: CompiledTaps
    columns: list[Column]
    schema: pa.Schema
    timestamp: Any
    proven: bool = False


def worker_for(table: Table) -> Worker:
    """Give this process's worker for a planned table, made on first use.

    Raises:
      RuntimeError: this machine would not compute what the plan says.
    """
    plan = table.read_json("config.json")
    key = f"{table.uri} {plan['fingerprint']}"
    with _lock:
        if key not in _workers:
            _workers.clear()
            _workers[key] = _make_worker(table, plan)
        return _workers[key]


def extract_shard(worker: Worker, shard: Shard) -> Commit:
    """Compute and commit a shard, unless that has been done.

    Returns:
      The commit record that counts, of this call or an earlier one.

    Raises:
      RuntimeError: every row of a first batch failed in the same way.
      OSError, tf.errors.OpError: storage or device failed; try again.
    """
    committed = worker.table.read_commit(shard.index)
    if committed is not None:
        return committed
    began = time.perf_counter()
    clock = Clock()
    quarantine = Quarantine(worker, shard)
    with _scratch(worker.table) as directory:
        path = directory / "part.parquet"
        with PartWriter(path, worker.schema, worker.columns) as writer:
            batches = worker.pipeline.batches(shard, quarantine.add)
            for batch in clock.timed("read", batches):
                computed = infer(worker.compiled, batch, quarantine.add)
                for rows, values in clock.timed("compute", computed):
                    encoded = _encode(worker, shard, rows, values, quarantine)
                    quarantine.passed(encoded.num_rows)
                    with clock.during("write"):
                        writer.write(encoded)
            with clock.during("write"):
                writer.finish()
        quarantine.close()
        check_part(path, worker.schema, quarantine.sound)
        commit = Commit(
            shard=shard.index,
            fingerprint=worker.fingerprint,
            planned_rows=quarantine.planned_rows(),
            part=_store_part(worker, shard, path, quarantine.sound),
            errors=_store_errors(worker, shard, directory, quarantine.rows),
            seconds=clock.seconds(time.perf_counter() - began),
        )
    if worker.table.create_commit(commit):
        return commit
    first = worker.table.read_commit(shard.index)
    assert first is not None
    return first


class ExtractShards(beam.PTransform):
    """Extract the shards of a planned table that have no commit record yet.

    Takes a pipeline, gives a PCollection of `Commit`. Its own state is a URI; workers
    read the plan from the table's directory.
    """

    def __init__(self, table: str) -> None:
        super().__init__()
        self._table = table

    def expand(self, pipeline: Any) -> Any:
        """Read the plan on a worker, spread its shards, extract them."""
        return (
            pipeline
            | "Table" >> beam.Create([self._table])  # uri
            | "PendingShards" >> beam.FlatMap(pending_shards)  # Shard
            | "Spread" >> beam.Reshuffle()  # Shard
            | "ExtractShard" >> beam.ParDo(_ExtractShard(self._table))  # Commit
        )


def pending_shards(table_uri: str) -> Iterator[Shard]:
    """Yield the planned shards that are not committed, in order."""
    table = Table(table_uri)
    committed = set(table.committed())
    for shard in table.shards():
        if shard.index not in committed:
            yield shard


class _ExtractShard(beam.DoFn):
    def __init__(self, table: str) -> None:
        self._table = table

    def setup(self) -> None:
        self._worker = worker_for(Table(self._table))

    def process(self, shard: Shard) -> Iterator[Commit]:
        try:
            commit = extract_shard(self._worker, shard)
        except Exception as error:
            files = list(dict.fromkeys(piece.file for piece in shard.pieces))
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            kind = type(error).__name__
            raise RuntimeError(
                f"shard {shard.index} of {files[0]}{more} failed: {kind}: {error}"
            ) from error
        Metrics.counter("featuretap", "shards").inc()
        Metrics.counter("featuretap", "rows").inc(commit.part.rows)
        Metrics.counter("featuretap", "quarantined_rows").inc(commit.quarantined)
        Metrics.counter("featuretap", "part_bytes").inc(commit.part.bytes)
        yield commit


class Quarantine:
    """Collects a shard's bad rows, and stops when they are not the rows' fault."""

    def __init__(self, worker: Worker, shard: Shard) -> None:
        self.rows: list[BadRow] = []
        self.sound = 0
        self._worker = worker
        self._shard = shard

    def add(self, failure: Failure) -> None:
        """Take a row that failed."""
        piece, row = self._shard.locate(failure.position)
        key_column = self._worker.columns[0]
        key: str | None = f"{piece.name}#{row}"
        if key_column.source:
            value = failure.passed.get(key_column.source)
            key = None if value is None else _text(np.asarray(value).item())
        self.rows.append(
            BadRow(
                example_id=key,
                shard=self._shard.index,
                file=piece.file,
                row=row,
                stage=failure.stage,
                exception=type(failure.error).__name__,
                message=clean_message(failure.error),
            )
        )
        if len(self.rows) == self._worker.compiled.batch_rows:
            self._stop_if_alike()

    def passed(self, rows: int) -> None:
        """Count rows that came through."""
        self.sound += rows
        if rows:
            self._worker.proven = True

    def close(self) -> None:
        """Check the shard as a whole, and put the rows in order."""
        if len(self.rows) > 1:
            self._stop_if_alike()
        self.rows.sort(key=lambda bad: (bad.file, bad.row))

    def planned_rows(self) -> int:
        """Rows that the shard accounts for.

        Raises:
          RuntimeError: they are not the planned ones; a reader broke its promise.
        """
        found = self.sound + len(self.rows)
        if self._shard.rows not in (None, found):
            raise RuntimeError(
                f"shard {self._shard.index} must account for {self._shard.rows} planned"
                f" rows, got {self.sound} sound and {len(self.rows)} bad ones; the"
                " source has changed since it was planned, or its reader loses rows"
            )
        return found

    def _stop_if_alike(self) -> None:
        kinds = Counter((bad.stage, bad.exception) for bad in self.rows)
        (stage, exception), _ = kinds.most_common(1)[0]
        if self._worker.proven or len(kinds) > 1 or exception in _DAMAGE:
            return
        first = self.rows[0]
        raise RuntimeError(
            f"all {len(self.rows)} rows of the first batch failed alike in {stage},"
            f" which means a wrong config or model rather than bad rows: {exception}:"
            f" {first.message} (first: row {first.row} of {first.file})"
        )


@dataclass(slots=True)
class Clock:
    """Adds up wall-clock seconds by phase."""

    _seconds: dict[str, float] = field(
        default_factory=lambda: {"read": 0.0, "compute": 0.0, "write": 0.0}
    )

    def timed(self, phase: str, items: Iterator[Any]) -> Iterator[Any]:
        """Pass items through, counting the time that getting each takes."""
        while True:
            with self.during(phase):
                item = next(items, None)
            if item is None:
                return
            yield item

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count the time of a block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - began

    def seconds(self, total: float) -> dict[str, float]:
        """The sums, in seconds to the millisecond."""
        return {k: round(v, 3) for k, v in {**self._seconds, "total": total}.items()}


def clean_message(error: Exception) -> str:
    """What an exception says, without names of graph nodes, which differ by run."""
    text = _NOISE.sub("", str(getattr(error, "message", error)))
    return " ".join(text.split())[:_MESSAGE_LENGTH]


def _make_worker(table: Table, plan: Mapping[str, Any]) -> Worker:
    config = Config.model_validate(plan["config"])
    layout = table.read_json("schema.json")
    columns = [Column.from_json(document) for document in layout["columns"]]
    features = {
        name: Feature(f["dtype"], tuple(f["shape"]))
        for name, f in layout["features"].items()
    }
    steps = make_steps(config.source.preprocess)
    model = cached_model(
        config.model, trace_steps(steps, features), plan["model_digest"]
    )
    taps = [
        Tap(
            c.source,
            c.reduce,
            c.name,
            c.dtype if c.dtype.startswith("float") else None,
            c.name,
        )
        for c in columns
        if c.role == "feature"
    ]
    compiled = compile_taps(model, taps, config.model.batch_rows)
    planned = [(c.name, c.shape, c.dtype) for c in columns if c.role == "feature"]
    found = [(o.column, o.shape, o.dtype) for o in compiled.outputs]
    if planned != found:
        raise RuntimeError(
            "this worker must compute the planned columns\n"
            f"  planned: {planned}\n  here:    {found}\n"
            "use the same versions of TensorFlow, Keras and the model's code everywhere"
        )
    return Worker(
        table=table,
        fingerprint=plan["fingerprint"],
        shards=layout["shards"],
        pipeline=InputPipeline(
            source=make_source(config.source),
            features=features,
            steps=steps,
            inputs={i.feature: i.shape for i in model.inputs},
            passed=passed_features(columns),
            batch_rows=config.model.batch_rows,
        ),
        compiled=compiled,
        columns=columns,
        schema=arrow_schema(columns, layout["metadata"]),
        timestamp=constant_timestamp(config.table.event_timestamp)
        if config.table.event_timestamp and not _timestamp_source(columns)
        else None,
    )


def _timestamp_source(columns: list[Column]) -> str:
    return next((c.source for c in columns if c.role == "timestamp"), "")


def _encode(
    worker: Worker,
    shard: Shard,
    batch: Batch,
    values: Mapping[str, np.ndarray],
    quarantine: Quarantine,
) -> pa.RecordBatch:
    """Make a record batch; rows whose text or time cannot be stored are set apart."""
    try:
        return _record_batch(worker, shard, batch, values)
    except ValueError as error:
        rows = len(batch.positions)
        if rows == 1:
            passed = {name: tensor[0] for name, tensor in batch.passed.items()}
            quarantine.add(Failure(int(batch.positions[0]), "encode", error, passed))
            return pa.RecordBatch.from_pylist([], schema=worker.schema)
    halves = [
        _encode(
            worker,
            shard,
            batch.take(half),
            {name: array[half] for name, array in values.items()},
            quarantine,
        )
        for half in np.array_split(np.arange(rows), 2)
    ]
    return pa.concat_batches(halves)


def _record_batch(
    worker: Worker, shard: Shard, batch: Batch, values: Mapping[str, np.ndarray]
) -> pa.RecordBatch:
    arrays = []
    for column in worker.columns:
        if column.role == "feature":
            arrays.append(to_array(column, values[column.name]))
        elif column.source:
            arrays.append(to_array(column, batch.passed[column.source].numpy()))
        elif column.role == "key":
            arrays.append(_default_keys(shard, batch.positions))
        else:
            constant = pa.scalar(worker.timestamp, column.arrow_type)
            arrays.append(pa.repeat(constant, len(batch.positions)))
    return pa.RecordBatch.from_arrays(arrays, schema=worker.schema)


def _default_keys(shard: Shard, positions: np.ndarray) -> pa.Array:
    """Make `<file>#<row>` for rows that are in order."""
    import pyarrow.compute as pc

    keys = []
    start = 0
    for piece in shard.pieces:
        stop = np.inf if piece.rows is None else start + piece.rows
        inside = positions[(positions >= start) & (positions < stop)]
        rows = pa.array(inside - start + piece.start).cast(pa.string())
        keys.append(pc.binary_join_element_wise(piece.name, rows, "#"))
        if piece.rows is None:
            break
        start += piece.rows
    return pa.concat_arrays(keys)


@contextlib.contextmanager
def _scratch(table: Table) -> Iterator[Path]:
    """A directory for unfinished files: on the table's own disk if that is local."""
    local = storage.local_path(table.internal(f"uploads/{uuid.uuid4().hex}"))
    if local is None:
        local = Path(tempfile.mkdtemp(prefix="featuretap-"))
    local.mkdir(parents=True, exist_ok=True)
    try:
        yield local
    finally:
        shutil.rmtree(local, ignore_errors=True)


def _store_part(worker: Worker, shard: Shard, path: Path, rows: int) -> StoredFile:
    sha256 = file_sha256(path)
    name = Table.part_name(shard.index, worker.shards, sha256)
    stored = StoredFile(name, rows, os.path.getsize(path), sha256)
    storage.publish(path, worker.table.path(name))
    return stored


def _store_errors(
    worker: Worker, shard: Shard, directory: Path, rows: list[BadRow]
) -> StoredFile | None:
    if not rows:
        return None
    path = directory / "errors.parquet"
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=ERROR_SCHEMA)
    pq.write_table(table, path, compression="zstd")
    sha256 = file_sha256(path)
    name = Table.errors_name(shard.index, sha256)
    stored = StoredFile(name, len(rows), os.path.getsize(path), sha256)
    storage.publish(path, worker.table.path(name))
    return stored


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
