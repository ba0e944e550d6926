"""Do the work of one stage of a run again and again, by the code of a run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.tune.measure import Work
from transforms.batch import Batch, Uneven
from transforms.errors.failure import Failure
from transforms.errors.non_finite import non_finite_rows
from transforms.preprocess.steps import Step
from transforms.shard import Shard
from transforms.sources.batches import InputPipeline
from transforms.sources.staging import readable
from transforms.table.columns import of_rows
from transforms.table.encode import encode
from transforms.table.parquet_writer import (
    PartWriter,
    check_part,
    store_part,
    unfinished_files,
)
from transforms.table.statistics import collector_of, store_statistics
from transforms.taps.compile import CompiledTaps
from transforms.taps.device_memory import FittingTaps
from transforms.taps.infer import Computed, infer
from transforms.values import join_rows, take_rows
from transforms.worker import Worker

_SAMPLE_ROWS = 4096
_SAMPLE_BYTES = 64 << 20
_PIECE_ROWS = 16
_PART_BYTES = 128 << 20  # of a part whose rows are known only when they are read


@dataclass(slots=True)
class Copies:
    """Counts what it takes to copy shards here before they can be read.

    Attributes:
      seconds: of threads.
      rows: of the copied shards.
    """

    seconds: float = 0.0
    rows: int = 0

    @property
    def seconds_per_row(self) -> float:
        """Thread seconds of a row."""
        return self.seconds / self.rows if self.rows else 0.0


def ignore(failure: Failure) -> None:
    """Pass over a bad row."""


def only_reading(pipeline: InputPipeline) -> InputPipeline:
    """Give a pipeline that reads the same in the same way, and drops what it read."""
    kept = pipeline.preparation
    drop = Step(lambda _: {}, batched=False, reads=frozenset())
    steps = [] if kept.takes_batches else [drop]
    bare = replace(kept, steps=steps, inputs={}, fits={}, passed=())
    return replace(pipeline, preparation=bare)


def scan(
    pipeline: InputPipeline, shards: Sequence[Shard], first: int, copies: Copies
) -> Work:
    """Read batches of shards, one after the other from one on, and then again.

    Where a shard has to be copied here first, it stays the only one, and its copying is
    counted apart: in a run it is spread over all rows of the shard.
    """
    for at in itertools.count(first):
        shard = shards[at % len(shards)]
        began = time.perf_counter()
        with readable(pipeline.source, shard.pieces) as pieces:
            is_copy = list(pieces) != list(shard.pieces)
            took = time.perf_counter() - began
            seen = 0
            try:
                for batch in pipeline.batches(pieces, ignore):
                    seen += len(batch)
                    yield len(batch)
            finally:
                if is_copy:
                    copies.seconds += took
                    copies.rows += shard.rows or seen
            while is_copy and seen:
                yield from map(len, pipeline.batches(pieces, ignore))


@dataclass(frozen=True, slots=True)
class Sample:
    """Some real rows of a shard, in memory.

    Attributes:
      shard: which.
      batch: the rows, ready for the model.
      rows_per_second: at which one thread read and preprocessed them.
    """

    shard: Shard
    batch: Batch
    rows_per_second: float

    @property
    def bytes_per_row(self) -> int:
        """Bytes of a row's model inputs."""
        tensors = [
            one.values if isinstance(one, Uneven) else one
            for one in self.batch.inputs.values()
        ]
        return sum(int(one.numpy().nbytes) for one in tensors) // len(self.batch)

    def some(self, rows: int, first: int = 0) -> Batch:
        """Give any number of rows, the same ones again where there are too few."""
        return self.batch.take(np.arange(first, first + rows) % len(self.batch))


def take_sample(worker: Worker, shards: Iterable[Shard], seconds: float) -> Sample:
    """Read rows of the first shard that has any, for some seconds at most.

    Raises:
      RuntimeError: no row comes through.
    """
    failures: list[Failure] = []
    pipeline = replace(worker.pipeline, batch_rows=_PIECE_ROWS)
    for shard in shards:
        parts: list[Batch] = []
        with readable(pipeline.source, shard.pieces) as pieces:
            began, taken = time.perf_counter(), 0
            for batch in pipeline.batches(pieces, failures.append):
                parts.append(batch)
                taken += Sample(shard, batch, 1.0).bytes_per_row * len(batch)
                rows, took = sum(map(len, parts)), time.perf_counter() - began
                if rows >= _SAMPLE_ROWS or taken >= _SAMPLE_BYTES or took > seconds:
                    break
        if parts:
            return Sample(shard, Batch.concatenate(parts), rows / took)
    why = f": {failures[0].message}" if failures else ""
    raise RuntimeError(
        f"tune must have rows to measure with, {len(failures)} rows were tried and none"
        f" came through{why}"
    )


def compute(compiled: CompiledTaps, batch: Batch) -> Work:
    """Compute a batch in memory again and again.

    Raises:
      RuntimeError: the device has no room for so many rows.
    """
    taps = FittingTaps(compiled, None)
    while True:
        for _ in infer(taps, batch, ignore):
            pass
        yield len(batch)


def compute_sample(compiled: CompiledTaps, sample: Sample, seconds: float) -> Computed:
    """Compute rows of a sample for some seconds, some megabytes of results at most.

    Raises:
      RuntimeError: the model fails for all of them.
    """
    taps, end = FittingTaps(compiled, None), time.perf_counter() + seconds
    failures: list[Failure] = []
    parts: list[Computed] = []
    taken = 0
    for first in range(0, len(sample.batch), compiled.batch_rows):
        rows = min(compiled.batch_rows, len(sample.batch) - first)
        for part in infer(taps, sample.some(rows, first), failures.append):
            parts.append(part)
            taken += sum(values.nbytes for values in part[1].values())
        if parts and (taken >= _SAMPLE_BYTES or time.perf_counter() > end):
            break
    if not parts:
        raise RuntimeError(
            "tune must have rows that the model can compute, it failed for all of"
            f" {len(failures)}: {failures[0].message}"
        )
    names = parts[0][1]
    joined = {name: join_rows([values[name] for _, values in parts]) for name in names}
    return Batch.concatenate([batch for batch, _ in parts]), joined


def in_batches(computed: Computed, rows: int) -> list[Computed]:
    """Cut computed rows into batches, the last filled up with the first rows again."""
    batch, values = computed

    def some(first: int) -> Computed:
        chosen = np.arange(first, first + rows) % len(batch)
        return batch.take(chosen), {n: take_rows(v, chosen) for n, v in values.items()}

    return [some(first) for first in range(0, len(batch), rows)]


def write(
    worker: Worker, shard: Shard, batches: Sequence[Computed], seconds: float
) -> Work:
    """Describe and write batches as a part, and store it, again and again.

    The first part holds each batch once. Those after it are as large as planned ones,
    or take about some seconds if that is less. They replace each other, since what is
    the same has the same name.
    """
    planned = shard.rows or _PART_BYTES // worker.plan.bytes_per_row
    rows = sum(len(batch) for batch, _ in batches)
    began = time.perf_counter()
    yield _write_part(worker, shard, batches)
    rate = rows / (time.perf_counter() - began)
    count = round(min(planned, max(rate * seconds, rows)) / len(batches[0][0]))
    some = list(itertools.islice(itertools.cycle(batches), max(count, 1)))
    while True:
        yield _write_part(worker, shard, some)


def _write_part(worker: Worker, shard: Shard, batches: Sequence[Computed]) -> int:
    plan, layout, table = worker.plan, worker.layout, worker.table
    schema = of_rows(layout.schema, plan.rows_key(shard))
    known, rows = collector_of(plan, layout.schema), 0
    with unfinished_files(table) as directory:
        path = directory / "part.parquet"
        with PartWriter(path, schema, layout.columns) as writer:
            for batch, values in batches:
                if plan.config.errors.non_finite != "allow":
                    non_finite_rows(values)
                made = encode(layout, shard, batch, values, ignore)
                writer.write(made)
                known.add(made)
                rows += made.num_rows
            writer.flush()
            known.finish()
        check_part(path, schema, rows)
        store_part(table, shard, path, rows)
        store_statistics(table, shard, known, directory)
    return rows
