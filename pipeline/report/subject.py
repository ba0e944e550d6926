"""What a report is of: a table whose rows are all there, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transforms import storage
from transforms.lookup import ConfigError, nearest
from transforms.statistics.column import ColumnStatistics
from transforms.table.columns import Column
from transforms.table.commit_record import Commit
from transforms.table.directory import Table
from transforms.table.gates import read_verdicts
from transforms.table.plan_file import TablePlan, read_plan
from transforms.table.statistics import SampleFiles, read_statistics, sample_files
from transforms.table.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Subject:
    """A table, and what is known of all of its rows.

    Attributes:
      table: its directory.
      plan: that it was made by.
      is_finished: whether it has `_SUCCESS`; it has not where a gate fails.
      statistics: of columns of numbers, by name.
      verdicts: of its gates.
      sample: where its sample lies.
    """

    table: Table
    plan: TablePlan
    is_finished: bool
    statistics: Mapping[str, ColumnStatistics]
    verdicts: Sequence[Verdict]
    sample: SampleFiles

    def commits(self) -> Iterator[Commit]:
        """Read the commit records of all shards, in order."""
        return self.table.read_commits(range(self.plan.shard_count))

    def described(self, names: Sequence[str] = ()) -> list[Column]:
        """Give the columns that have statistics.

        Args:
          names: only these; all by default.

        Raises:
          ConfigError: one of them has none.
        """
        able = {c.name: c for c in self.plan.columns if c.name in self.statistics}
        for name in names:
            if name not in able:
                raise ConfigError(
                    "--column must name a column of numbers that the model computed,"
                    f" got {name!r}{nearest(name, able)} (columns:"
                    f" {', '.join(able) or 'none'})"
                )
        return [able[name] for name in names] if names else list(able.values())


def open_subject(uri: str) -> Subject:
    """Open a table that is finished, or fails at its gates.

    Raises:
      FileNotFoundError: there is no table.
      ConfigError: rows of it are missing, or nobody has put its statistics together.
      TableError: it is damaged.
    """
    table = Table(storage.absolute(uri))
    plan = read_plan(table)
    is_finished = table.read_success() is not None
    verdicts = read_verdicts(table)
    if not (is_finished or (verdicts and len(table.committed()) == plan.shard_count)):
        raise ConfigError(
            f"a report must be of a table that is finished, or fails its gates, {uri!r}"
            " has no _SUCCESS; go on with the command that began it"
        )
    sample = sample_files(table.read_commits(range(plan.shard_count)))
    return Subject(table, plan, is_finished, read_statistics(table), verdicts, sample)
