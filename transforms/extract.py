"""Read, preprocess, infer and write one shard; ExtractShards does so for a plan.

`extract_shard` is the whole flow of a worker. It can run anywhere, any number of times,
by several workers at once: the first commit record of a shard counts.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics

from transforms import scratch, storage
from transforms.activations import compile_taps
from transforms.batch import Batch, Extracted, Failure
from transforms.encode import Layout, encode
from transforms.finite import non_finite_rows, set_apart
from transforms.fitting import FittingTaps
from transforms.infer import infer
from transforms.isolate import Found, ProcessDiedError, isolated_rows
from transforms.messages import mask
from transforms.models import cached_model
from transforms.planned import Planned, read_planned, versions
from transforms.preprocess import make_steps, trace_steps
from transforms.quarantine import Quarantine
from transforms.read import InputPipeline
from transforms.schema import Column, constant_timestamp, passed_features
from transforms.shard import Commit, Piece, Shard, StoredFile, position
from transforms.sources import make_source
from transforms.sources.staging import readable
from transforms.spec import Config, ErrorSpec
from transforms.table import Table
from transforms.taps import Tap
from transforms.write import PartWriter, check_part, file_sha256

_workers: dict[str, Worker] = {}
_lock = threading.Lock()
_attempts: set[str] = set()
stopping = threading.Event()
"""Set it and this process's workers finish the shards they are at, and take no more."""


@dataclass(frozen=True, slots=True)
class Worker:
    """All that a process needs for the shards of one table; made once.

    Attributes:
      table: the table being made.
      claim: that the table had when this began.
      fingerprint: of its plan.
      shards: how many the plan has.
      pipeline: from stored rows to model inputs.
      compiled: from model inputs to columns.
      layout: how rows of the table look.
      errors: what becomes of rows that are not as they should be.
    """

    table: Table
    claim: str
    fingerprint: str
    shards: int
    pipeline: InputPipeline
    compiled: FittingTaps
    layout: Layout
    errors: ErrorSpec


def worker_for(table: Table) -> Worker:
    """Give this process's worker for a planned table, made on first use.

    Raises:
      RuntimeError: this machine would not compute what the plan says.
    """
    planned = read_planned(table, written=True)
    key = f"{table.uri} {planned.claim} {planned.config.errors.model_dump_json()}"
    with _lock:
        if key not in _workers:
            _workers.clear()
            _workers[key] = _make_worker(table, planned)
        return _workers[key]


def extract_shard(worker: Worker, shard: Shard) -> Commit:
    """Compute and commit a shard, unless that has been done.

    Returns:
      The commit record that counts, of this call or an earlier one.

    Raises:
      RuntimeError: every row of a first batch failed in the same way, or workers keep
        dying at this shard, or the table has become another one.
      OSError, tf.errors.OpError: storage or device failed; try again.
    """
    table = worker.table
    committed = table.read_commit(shard.index)
    if committed is not None:
        return committed
    deaths = table.deaths(shard.index)
    with _attempt(table, shard):
        try:
            commit = _compute(worker, shard, deaths)
        except OSError:
            # Whoever finishes a table tidies up behind attempts that came too late.
            committed = table.read_commit(shard.index)
            if committed is not None:
                return committed
            raise
        _check_claim(worker)
        if table.create_commit(commit):
            return commit
        first = table.read_commit(shard.index, written=True)
        assert first is not None
        kept = {first.part, first.errors}
        for file in (commit.part, commit.errors):
            if file is not None and file not in kept:
                storage.remove(table.path(file.path))
        return first


@contextlib.contextmanager
def _attempt(table: Table, shard: Shard) -> Iterator[None]:
    """Note that this process is at a shard; a note that stays tells of a death."""
    note = table.create_attempt(shard.index)
    _attempts.add(note)
    try:
        yield
    finally:
        _attempts.discard(note)
        # A note too many costs time, an error here would hide another.
        with contextlib.suppress(Exception):
            storage.remove(note)


def forget_attempts() -> None:
    """Take back what this process has noted, before it ends itself."""
    for note in list(_attempts):
        storage.remove(note)


def _check_claim(worker: Worker) -> None:
    claim = worker.table.read_json("config.json")["claim"]
    if claim != worker.claim:
        raise RuntimeError(
            f"the table in {worker.table.uri!r} must be the one that this worker began"
            f" with, it has been replaced\n  began with: {worker.claim}\n"
            f"  there now:  {claim}\nnothing was committed to it"
        )


def _compute(worker: Worker, shard: Shard, deaths: int) -> Commit:
    """Write a shard's part and errors, and say what a commit of them would be."""
    began = time.perf_counter()
    clock = Clock()
    quarantine = Quarantine(
        shard,
        worker.layout.columns[0].source,
        worker.compiled.batch_rows,
        partial(_hopeless, worker.table, shard),
    )
    non_finite: Counter[str] = Counter()
    with (
        _scratch(worker.table) as directory,
        readable(worker.pipeline.source, shard.pieces) as pieces,
    ):
        path = directory / "part.parquet"
        with PartWriter(path, worker.layout.schema, worker.layout.columns) as writer:
            for made in _rows(worker, shard, pieces, quarantine, clock, deaths):
                quarantine.passed(made.rows.num_rows, made.positions)
                non_finite.update(made.non_finite)
                with clock.during("write"):
                    writer.write(made.rows)
            with clock.during("write"):
                writer.finish()
        quarantine.close()
        check_part(path, worker.layout.schema, quarantine.sound)
        _check_claim(worker)
        part_name = partial(Table.part_name, shard.index, worker.shards)
        return Commit(
            shard=shard.index,
            fingerprint=worker.fingerprint,
            planned_rows=quarantine.sound + len(quarantine.rows),
            part=_store(worker.table, path, quarantine.sound, part_name),
            errors=_store_errors(worker.table, shard, directory, quarantine),
            rest_lost=quarantine.rest_lost,
            piece_rows=quarantine.piece_rows(),
            non_finite=dict(sorted(non_finite.items())),
            device_rows=worker.compiled.device_rows,
            seconds=clock.seconds(time.perf_counter() - began),
        )


def _rows(
    worker: Worker,
    shard: Shard,
    pieces: Sequence[Piece],
    quarantine: Quarantine,
    clock: Clock,
    deaths: int,
) -> Iterator[Extracted]:
    """Compute here, unless too many workers have died of it."""
    policy = worker.errors
    if deaths < policy.attempts:
        batches = worker.pipeline.batches(pieces, quarantine.add)
        yield from compute_rows(worker, shard, batches, quarantine.add, clock)
    elif policy.crash == "isolate":

        def take(found: Found) -> None:
            quarantine.take(found.position, found.row, rest_lost=found.rest_lost)

        made = isolated_rows(worker.table, shard, pieces, quarantine.add, take)
        yield from clock.timed("compute", made)
    elif policy.crash == "quarantine":
        error = ProcessDiedError(f"{deaths} worker processes died at this row's shard")
        for index, piece in enumerate(pieces):
            unknown = piece.rows is None
            for row in range(1 if piece.rows is None else piece.rows):
                at = position(index, row)
                quarantine.add(Failure(at, "crash", error, rest_lost=unknown))
    else:
        raise RuntimeError(
            f"fewer than {policy.attempts} workers may die at one shard, {deaths} did;"
            ' set errors.crash to "isolate" to find the rows at fault'
        )


def compute_rows(
    worker: Worker,
    shard: Shard,
    batches: Iterator[Batch],
    on_failure: Callable[[Failure], None],
    clock: Clock | None = None,
) -> Iterator[Extracted]:
    """Turn batches of model inputs into rows of the table, in this process.

    Args:
      worker: of this process.
      shard: whose rows.
      batches: of its rows.
      on_failure: called with each row that does not come through.
      clock: counts the time.
    """
    clock = clock or Clock()
    policy = worker.errors.non_finite
    for batch in clock.timed("read", batches):
        computed = infer(worker.compiled, batch, on_failure)
        for rows, values in clock.timed("compute", computed):
            marked = {} if policy == "allow" else non_finite_rows(values)
            if marked and policy == "quarantine":
                rows, values = set_apart(rows, values, marked, on_failure)
                marked = {}
            encoded = encode(worker.layout, shard, rows, values, on_failure)
            counts = {name: int(found.sum()) for name, found in marked.items()}
            yield Extracted(encoded, rows.positions, counts)


def _hopeless(table: Table, shard: Shard) -> bool:
    """Whether rows that all fail alike mean a wrong config: nothing has ever worked.

    Only the first shard judges, so that the order in which workers finish decides
    nothing.
    """
    if shard.index != 0:
        return False
    return not any(commit.part.rows for commit in table.read_commits(table.committed()))


class ExtractShards(beam.PTransform):
    """Extract the shards of a planned table that have no commit record yet.

    Takes a pipeline, gives a PCollection of `Commit`. Its own state is a URI; workers
    read the plan from the table's directory.

    Args:
      table: its URI.
      listings: how many elements the pipeline begins with, each of which lists its
        share of the shards. Engines that keep the partitions that they begin with,
        as Dask does, need as many as are to work at the same time.
    """

    def __init__(self, table: str, listings: int = 1) -> None:
        super().__init__()
        self._table = table
        self._listings = listings

    def expand(self, pipeline: Any) -> Any:
        """Read the plan on a worker, spread its shards, extract them."""
        n = self._listings
        listings = [(self._table, listing, n) for listing in range(n)]
        return (
            pipeline
            | "Listings" >> beam.Create(listings)  # (uri, listing, listings)
            | "PendingShards" >> beam.FlatMapTuple(pending_shards)  # Shard
            | "Spread" >> beam.Reshuffle()  # Shard
            | "ExtractShard" >> beam.ParDo(_ExtractShard(self._table))  # Commit
        )


def pending_shards(
    table_uri: str, listing: int = 0, listings: int = 1
) -> Iterator[Shard]:
    """Yield the planned shards that are not committed, in order.

    Args:
      table_uri: of the table.
      listing: which share of them, from 0.
      listings: how many shares there are.
    """
    table = Table(table_uri)
    committed = set(table.committed())
    shards = table.shards(written=True)
    for shard in shards if listings == 1 else shards[listing::listings]:
        if shard.index not in committed:
            yield shard


def shard_error(shard: Shard, error: BaseException) -> RuntimeError:
    """Say at which rows a worker failed."""
    first, rows = shard.pieces[0], shard.rows or "all"
    return RuntimeError(
        f"shard {shard.index} ({rows} rows from row {first.start} of {first.file})"
        f" failed: {type(error).__name__}: {mask(str(error))}"
    )


class _ExtractShard(beam.DoFn):
    def __init__(self, table: str) -> None:
        self._table = table

    def setup(self) -> None:
        self._worker = worker_for(Table(self._table))

    def process(self, shard: Shard) -> Iterator[Commit]:
        if stopping.is_set():
            return
        try:
            commit = extract_shard(self._worker, shard)
        except Exception as error:
            raise shard_error(shard, error) from error
        Metrics.counter("featuretap", "shards").inc()
        Metrics.counter("featuretap", "rows").inc(commit.part.rows)
        Metrics.counter("featuretap", "quarantined_rows").inc(commit.quarantined)
        Metrics.counter("featuretap", "part_bytes").inc(commit.part.bytes)
        yield commit


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


def _make_worker(table: Table, plan: Planned) -> Worker:
    config, columns = plan.config, plan.columns
    _check_versions(plan.metadata["versions"], versions())
    steps = make_steps(config.source.preprocess)
    prepared = trace_steps(steps, plan.features)
    model = cached_model(config.model, prepared, plan.model_digest)
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
    compile_for = partial(compile_taps, model, taps)
    compiled = compile_for(config.model.batch_rows)
    planned = [(c.name, c.shape, c.dtype) for c in columns if c.is_computed]
    found = [(o.column, o.shape, o.dtype) for o in compiled.outputs]
    if planned != found:
        raise RuntimeError(
            "this worker must compute the planned columns\n"
            f"  planned: {planned}\n  here:    {found}\n"
            "use the same versions of TensorFlow, Keras and the model's code everywhere"
        )
    return Worker(
        table=table,
        claim=plan.claim,
        fingerprint=plan.fingerprint,
        shards=plan.shards,
        pipeline=InputPipeline(
            source=make_source(config.source),
            features=plan.features,
            steps=steps,
            inputs={i.feature: i.shape for i in model.inputs},
            passed=passed_features(columns),
            batch_rows=config.model.batch_rows,
        ),
        compiled=FittingTaps(compiled, None if model.batch_rows else compile_for),
        errors=config.errors,
        layout=Layout(
            columns=columns,
            schema=plan.schema,
            timestamp=_constant_timestamp(config, columns),
        ),
    )


def _check_versions(planned: Mapping[str, str], here: Mapping[str, str]) -> None:
    """See that this worker has the packages that the plan was made with."""
    different = [name for name in planned if planned[name] != here[name]]
    if different:
        raise RuntimeError(
            "this worker must have the versions of the plan\n"
            f"  planned: {', '.join(f'{n} {planned[n]}' for n in different)}\n"
            f"  here:    {', '.join(f'{n} {here[n]}' for n in different)}\n"
            "install the same versions everywhere"
        )


@contextlib.contextmanager
def _scratch(table: Table) -> Iterator[Path]:
    """A directory for unfinished files: on the table's own disk if that is local."""
    local = storage.local_path(table.internal(f"uploads/{uuid.uuid4().hex}"))
    if local is None:
        with scratch.directory() as elsewhere:
            yield elsewhere
        return
    local.mkdir(parents=True, exist_ok=True)
    try:
        yield local
    finally:
        shutil.rmtree(local, ignore_errors=True)


def _constant_timestamp(config: Config, columns: Sequence[Column]) -> Any:
    if not any(c.role == "timestamp" and not c.source for c in columns):
        return None
    assert config.table.event_timestamp is not None
    return constant_timestamp(config.table.event_timestamp)


def _store(
    table: Table, path: Path, rows: int, name: Callable[[str], str]
) -> StoredFile:
    """Publish a finished file under the name that `name` gives its hash."""
    sha256 = file_sha256(path)
    stored = StoredFile(name(sha256), rows, path.stat().st_size, sha256)
    storage.publish(path, table.path(stored.path))
    return stored


def _store_errors(
    table: Table, shard: Shard, directory: Path, quarantine: Quarantine
) -> StoredFile | None:
    if not quarantine.rows:
        return None
    path = directory / "errors.parquet"
    pq.write_table(quarantine.table(), path, compression="zstd")
    name = partial(Table.errors_name, shard.index)
    return _store(table, path, len(quarantine.rows), name)
