"""Read, preprocess, infer and write one shard; ExtractShards does so for a plan.

`extract_shard` is the whole flow of a worker. It can run anywhere, any number of times,
by several workers at once: the first commit record of a shard counts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from transforms import storage
from transforms.batch import Batch, Extracted
from transforms.clock import Clock
from transforms.credentials import mask
from transforms.errors.attempts import attempt, count_deaths
from transforms.errors.failure import Failure
from transforms.errors.isolate import Found, ProcessDiedError, isolated_rows
from transforms.errors.non_finite import non_finite_rows, set_apart
from transforms.errors.quarantine import Quarantine
from transforms.shard import Piece, Shard, position
from transforms.sources.staging import readable
from transforms.table import names
from transforms.table.commit_record import Commit
from transforms.table.directory import Table
from transforms.table.encode import encode
from transforms.table.parquet_writer import (
    PartWriter,
    check_part,
    store_errors,
    store_file,
    unfinished_files,
)
from transforms.taps.infer import infer
from transforms.worker import Worker


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
    deaths = count_deaths(table.attempts(shard.index))
    with attempt(table.internal("attempts"), shard.index):
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
        unfinished_files(worker.table) as directory,
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
        part_name = partial(names.part_name, shard.index, worker.shards)
        return Commit(
            shard=shard.index,
            fingerprint=worker.fingerprint,
            planned_rows=quarantine.sound + len(quarantine.rows),
            part=store_file(worker.table, path, quarantine.sound, part_name),
            errors=store_errors(worker.table, shard, directory, quarantine),
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

        made = isolated_rows(worker.table.uri, shard, pieces, quarantine.add, take)
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


def shard_error(shard: Shard, error: BaseException) -> RuntimeError:
    """Say at which rows a worker failed."""
    first, rows = shard.pieces[0], shard.rows or "all"
    return RuntimeError(
        f"shard {shard.index} ({rows} rows from row {first.start} of {first.file})"
        f" failed: {type(error).__name__}: {mask(str(error))}"
    )
