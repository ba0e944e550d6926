"""Run a planned table's shards on any Beam runner, and finish the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from transforms.extract import extract_shard, shard_error
from transforms.gate_limits import GatesSpec
from transforms.metrics import COUNTERS
from transforms.shard import Shard
from transforms.stop import StoppedError, stopping
from transforms.table.commit import commit_table
from transforms.table.commit_record import Commit
from transforms.table.directory import Table
from transforms.table.plan_file import pending_shards, read_plan
from transforms.worker import worker_for


class ExtractShards(beam.PTransform):
    """Extract the shards of a planned table that have no commit record yet.

    Takes a pipeline, gives a PCollection of `Commit`. Its own state is a URI and the
    seal of the plan; workers read the plan from the table's directory, and see that it
    has this seal.

    Args:
      table: its URI.
      listings: how many elements the pipeline begins with, each of which lists its
        share of the shards. Engines that keep the partitions that they begin with,
        as Dask does, need as many as are to work at the same time.
      seal: of the plan (`Plan.seal`). Without it that of the plan which lies in the
        table's directory now; if there is none, workers will refuse what they find.
    """

    def __init__(self, table: str, listings: int = 1, seal: str | None = None) -> None:
        super().__init__()
        self._table = table
        self._seal = _seal_of(table) if seal is None else seal
        self._listings = listings

    def expand(self, pipeline: Any) -> Any:
        """Read the plan on a worker, spread its shards, extract them."""
        n = self._listings
        extract = _ExtractShard(self._table, self._seal)
        listings = [(self._table, listing, n) for listing in range(n)]
        return (
            pipeline
            | "Listings" >> beam.Create(listings)  # (uri, listing, listings)
            | "PendingShards" >> beam.FlatMapTuple(pending_shards)  # Shard
            | "Spread" >> beam.Reshuffle()  # Shard
            | "ExtractShard" >> beam.ParDo(extract)  # Commit
        )


def _seal_of(table: str) -> str:
    try:
        return read_plan(Table(table)).seal
    except FileNotFoundError:
        return "none: prepare the table before the pipeline is made"


class _ExtractShard(beam.DoFn):
    def __init__(self, table: str, seal: str) -> None:
        self._table = table
        self._seal = seal

    def setup(self) -> None:
        self._worker = worker_for(Table(self._table), self._seal)

    def process(self, shard: Shard) -> Iterator[Commit]:
        if stopping.is_set():
            return
        try:
            commit = extract_shard(self._worker, shard)
        except StoppedError:
            return
        except Exception as error:
            raise shard_error(shard, error) from error
        for name, count in COUNTERS.items():
            Metrics.counter("featuretap", name).inc(count(commit))
        yield commit


class CommitTable(beam.PTransform):
    """Finish the table when all its commit records have come in.

    Takes the PCollection of `ExtractShards`, gives one of the summary that `_SUCCESS`
    holds. Runs also when no shard was left to do.
    """

    def __init__(
        self, table: str, max_fraction: float = 0.0, gates: GatesSpec | None = None
    ) -> None:
        super().__init__()
        self._table = table
        self._max_fraction = max_fraction
        self._gates = gates

    def expand(self, commits: Any) -> Any:
        """Gather all records, then finish."""
        always = commits.pipeline | "Always" >> beam.Create(
            [(None, -1)]
        )  # (None, shard)
        indexes = commits | "Index" >> beam.Map(_index)  # (None, shard)
        finish = beam.Map(_finish, self._table, self._max_fraction, self._gates)
        return (
            (indexes, always)
            | beam.Flatten()  # (None, shard)
            | "AllShards" >> beam.GroupByKey()  # (None, [shard])
            | "Finish" >> finish  # summary
        )


def _index(commit: Commit) -> tuple[None, int]:
    return None, commit.shard


def _finish(
    indexes: tuple[Any, Iterable[int]],
    table: str,
    max_fraction: float,
    gates: GatesSpec | None,
) -> dict[str, Any]:
    return commit_table(Table(table), max_fraction, set(indexes[1]), gates)
