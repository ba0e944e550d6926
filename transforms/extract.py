"""Extract one shard: stored rows -> part -> commit record.

`extract_shard` is the whole flow of a worker. It can run anywhere, any number of times,
by several workers at once: the first commit record of a shard counts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from transforms import device, progress, storage
from transforms.batch import Extracted
from transforms.carry import extended, only_missing, passing_over, projected
from transforms.clock import Clock
from transforms.credentials import mask
from transforms.errors.attempts import attempt, count_deaths
from transforms.errors.failure import Failure
from transforms.errors.isolate import ProcessDiedError, Request, isolated_rows
from transforms.errors.non_finite import non_finite_rows, set_apart
from transforms.errors.notice import notice
from transforms.errors.quarantine import Quarantine
from transforms.shard import Piece, Shard, position
from transforms.sources.staging import local_copies, readable
from transforms.statistics.collect import Collector
from transforms.stop import leave_if_long
from transforms.table.columns import of_rows
from transforms.table.commit_record import Commit, StoredFile, StoredStatistics
from transforms.table.directory import Table
from transforms.table.earlier import EarlierShard, earlier_shard
from transforms.table.encode import encode
from transforms.table.names import NOTICE
from transforms.table.parquet_writer import (
    PartWriter,
    carry_part,
    check_part,
    store_errors,
    store_part,
    unfinished_files,
)
from transforms.table.plan_file import TablePlan
from transforms.table.statistics import (
    carry_statistics,
    collector_of,
    store_statistics,
)
from transforms.taps.ahead import OnFailure, Read, infer_ahead
from transforms.usage import Usage
from transforms.worker import Worker

Find = Callable[[TablePlan, Shard], EarlierShard | None]
"""Finds the rows of a shard in an earlier table, if there is one."""


def extract_shard(
    worker: Worker, shard: Shard, find_earlier: Find = earlier_shard
) -> Commit:
    """Compute and commit a shard, unless that has been done.

    Args:
      worker: of this process.
      shard: whose rows.
      find_earlier: finds its rows in an earlier table.

    Returns:
      The commit record that counts, of this call or an earlier one.

    Raises:
      RuntimeError: every row of a first batch failed in the same way, or workers keep
        dying at this shard, or the table has become another one.
      OSError, tf.errors.OpError: storage or device failed; try again.
      StoppedError: the process is to end soon, and the shard would take longer.
    """
    table = worker.table
    committed = table.read_commit(shard.index)
    if committed is not None:
        return committed
    with device.at_shard(), progress.followed(shard.index):
        try:
            earlier = find_earlier(worker.plan, shard)
            with _noted(table, shard, earlier) as deaths:
                commit = _make(worker, shard, earlier, deaths)
        except OSError:
            # Whoever finishes a table tidies up after attempts that came too late.
            committed = table.read_commit(shard.index)
            if committed is not None:
                return committed
            raise
        worker.check_claim()
        if table.create_commit(commit):
            return commit
        first = table.read_commit(shard.index, written=True)
        assert first is not None
        for file in {*commit.files} - {*first.files}:
            storage.remove(table.path(file.path))
        return first


@contextmanager
def _noted(table: Table, shard: Shard, earlier: EarlierShard | None) -> Iterator[int]:
    """Note that this process is at a shard, for a block; give how many died at it.

    A part is carried without a look at its rows, of which nobody can die then: there is
    no note of that.
    """
    if earlier is not None and earlier.is_same:
        yield 0
        return
    deaths = count_deaths(table.attempts(shard.index))
    with attempt(table.internal("attempts"), shard.index):
        yield deaths


def _make(
    worker: Worker, shard: Shard, earlier: EarlierShard | None, deaths: int
) -> Commit:
    """Write a shard's part and errors, and say what a commit of them would be."""
    began, usage = time.perf_counter(), Usage()
    clock = Clock()
    plan, quarantine = worker.plan, _quarantine(worker, shard)
    if earlier and earlier.missing and deaths >= plan.config.errors.attempts:
        earlier = None  # all of it is computed where a death does no harm
    non_finite: Counter[str] = Counter()
    if earlier is not None:
        at = earlier.bad_positions(shard)
        quarantine.know(earlier.bad, at, rest_lost=earlier.rest_lost)
    if earlier is not None and earlier.is_same:
        part, statistics = _carried(worker, shard, earlier, quarantine, non_finite)
    else:
        made = _rows(worker, shard, earlier, deaths, quarantine, clock)
        part, statistics = _written(
            worker, shard, made, quarantine, non_finite, clock, began
        )
    commit = Commit(
        shard=shard.index,
        fingerprint=plan.fingerprint,
        claim=plan.claim,
        versions=dict(plan.versions),
        planned_rows=quarantine.sound + len(quarantine.rows),
        part=part,
        errors=store_errors(worker.table, shard, quarantine),
        statistics=statistics,
        rest_lost=quarantine.rest_lost,
        piece_rows=quarantine.piece_rows(),
        non_finite=dict(sorted(non_finite.items())),
        device_rows=_device_rows(worker, earlier),
        seconds=clock.seconds(time.perf_counter() - began) | usage.seconds(),
        rows_key=plan.rows_key(shard),
        column_keys=plan.column_keys,
    )
    return commit if earlier is None else earlier.credited(commit)


def _carried(
    worker: Worker,
    shard: Shard,
    earlier: EarlierShard,
    quarantine: Quarantine,
    non_finite: Counter[str],
) -> tuple[StoredFile, StoredStatistics]:
    """Take over a whole part as it is, and what is known of it."""
    table, there = worker.table, earlier.commit
    with unfinished_files(table) as directory:
        part = carry_part(table, shard, earlier.table, there.part, directory)
        known = carry_statistics(table, worker.plan, shard, earlier, directory)
    quarantine.passed(part.rows, earlier.last_positions())
    if worker.plan.config.errors.non_finite == "warn":
        non_finite.update(there.non_finite)
    quarantine.close()
    return part, known


def _written(
    worker: Worker,
    shard: Shard,
    made: Iterator[Extracted],
    quarantine: Quarantine,
    non_finite: Counter[str],
    clock: Clock,
    began: float,
) -> tuple[StoredFile, StoredStatistics]:
    """Write a part, and what its rows are like."""
    with unfinished_files(worker.table) as directory:
        path = directory / "part.parquet"
        found = _write(worker, shard, path, made, quarantine, non_finite, clock, began)
        part = store_part(worker.table, shard, path, quarantine.sound)
        with clock.during("describe"):
            known = store_statistics(worker.table, shard, found, directory)
    return part, known


def _device_rows(worker: Worker, earlier: EarlierShard | None) -> int:
    """Give the rows that went through the model at a time; 0 if none were computed."""
    if earlier is None:
        return worker.compiled.device_rows
    if earlier.missing:
        return only_missing(worker, earlier).compiled.device_rows
    return 0


def _write(
    worker: Worker,
    shard: Shard,
    path: Path,
    made: Iterator[Extracted],
    quarantine: Quarantine,
    non_finite: Counter[str],
    clock: Clock,
    began: float,
) -> Collector:
    """Write a shard's rows to a local file, and check it; say what they are like."""
    known = collector_of(worker.plan, worker.layout.schema)
    schema = of_rows(worker.layout.schema, worker.plan.rows_key(shard))
    with PartWriter(path, schema, worker.layout.columns) as writer:
        for some in made:
            quarantine.passed(some.rows.num_rows, some.positions)
            non_finite.update(some.non_finite)
            with clock.during("write"):
                writer.write(some.rows)
            with clock.during("describe"):
                known.add(some.rows)
            _say(shard, quarantine, time.perf_counter() - began)
        with clock.during("write"):
            writer.flush()
        with clock.during("describe"):  # while the last rows are being written
            known.finish()
        with clock.during("write"):
            writer.finish()
    quarantine.close()
    check_part(path, schema, quarantine.sound)
    worker.check_claim()
    return known


def _say(shard: Shard, quarantine: Quarantine, seconds: float) -> None:
    """Say between two batches how far a shard is, and end there if it takes long."""
    bad = len(quarantine.rows)
    done = quarantine.sound + bad
    progress.report(shard.index, progress.Progress(done, bad))
    leave_if_long(seconds, done, shard.rows)


def _quarantine(worker: Worker, shard: Shard) -> Quarantine:
    """Start a quarantine; only the first shard's may judge the config by its rows.

    It judges by nothing else, such as what others have committed meanwhile, so that the
    same data always have the same verdict.
    """
    plan = worker.plan
    key, place = worker.layout.columns[0].source, worker.table.internal(NOTICE)
    return Quarantine(
        shard,
        key,
        plan.config.model.batch_rows,
        judges=shard.index == 0,
        notice=lambda bad: notice(
            place, bad, plan.config.errors.max_fraction, plan.rows
        ),
    )


def _rows(
    worker: Worker,
    shard: Shard,
    earlier: EarlierShard | None,
    deaths: int,
    quarantine: Quarantine,
    clock: Clock,
) -> Iterator[Extracted]:
    """Take rows over from an earlier table as far as it has them, compute the rest."""
    if earlier is not None and not earlier.missing:
        yield from clock.timed("read", projected(worker, earlier))
        return
    with readable(worker.pipeline.source, shard.pieces) as pieces:
        if earlier is None:
            yield from _computed(worker, shard, pieces, deaths, quarantine, clock)
            return
        read = passing_over(
            earlier.bad_positions(shard), partial(worker.pipeline.batches, pieces)
        )
        some = only_missing(worker, earlier)
        computed = compute_rows(some, shard, read, quarantine.add, clock)
        yield from extended(worker, shard, earlier, computed)


def _computed(
    worker: Worker,
    shard: Shard,
    pieces: Sequence[Piece],
    deaths: int,
    quarantine: Quarantine,
    clock: Clock,
) -> Iterator[Extracted]:
    """Compute here, unless too many workers have died of it."""
    policy = worker.plan.config.errors
    if deaths < policy.attempts:
        read = partial(worker.pipeline.batches, pieces)
        yield from compute_rows(worker, shard, read, quarantine.add, clock)
    elif policy.crash == "isolate":
        with local_copies(worker.plan.config.model.files) as files:
            copies = {uri: str(path) for uri, path in files.items()}
            table, seal = worker.table.uri, worker.plan.seal
            request = Request(table, seal, shard, tuple(pieces), copies)
            made = isolated_rows(request, quarantine.add)
            yield from clock.timed("compute", made)
    elif policy.crash == "quarantine":
        _give_up(pieces, deaths, quarantine)
    else:
        raise RuntimeError(
            f"{deaths} workers died at this shard, which is as many as errors.attempts"
            ' allows; set errors.crash to "isolate" to find the rows at fault'
        )


def _give_up(pieces: Sequence[Piece], deaths: int, quarantine: Quarantine) -> None:
    """Set all rows of a shard apart."""
    error = ProcessDiedError(f"{deaths} worker processes died at this row's shard")
    for index, piece in enumerate(pieces):
        unknown = piece.rows is None
        for row in range(1 if piece.rows is None else piece.rows):
            at = position(index, row)
            quarantine.add(Failure.of(at, "crash", error, rest_lost=unknown))


def compute_rows(
    worker: Worker,
    shard: Shard,
    read: Read,
    on_failure: OnFailure,
    clock: Clock | None = None,
) -> Iterator[Extracted]:
    """Turn batches of model inputs into rows of the table, in this process.

    Args:
      worker: of this process.
      shard: whose rows.
      read: reads batches of its rows.
      on_failure: called with each row that does not come through.
      clock: counts the time.
    """
    clock = clock or Clock()
    policy = worker.plan.config.errors.non_finite
    first = shard.index == 0  # the first batch of a run stands for all
    computed = infer_ahead(
        worker.compiled,
        lambda failed: clock.timed("read", read(failed)),
        on_failure,
        check_first=first,
    )
    for rows, values in clock.timed("compute", computed):
        marked = {} if policy == "allow" else non_finite_rows(values)
        if marked and policy == "quarantine":
            rows, values = set_apart(rows, values, marked, on_failure)
            marked = {}
        encoded = encode(worker.layout, shard, rows, values, on_failure)
        counts = {name: int(found.sum()) for name, found in marked.items()}
        yield Extracted(encoded, rows.positions, counts)


def shard_error(shard: Shard, error: BaseException) -> RuntimeError:
    """Say at which rows a worker failed."""
    first, rows = shard.pieces[0], shard.rows or "all"
    return RuntimeError(
        f"shard {shard.index} ({rows} rows from row {first.start} of {first.file})"
        f" failed: {type(error).__name__}: {mask(str(error))}"
    )
