"""A finished table -> all that is compared of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from transforms.lookup import ConfigError
from transforms.statistics.column import ColumnStatistics
from transforms.table.columns import Column
from transforms.table.commit_record import Commit
from transforms.table.directory import Table
from transforms.table.plan_file import TablePlan, read_plan
from transforms.table.statistics import SampleFiles, read_statistics, sample_files


@dataclass(frozen=True, slots=True)
class Side:
    """One of two tables.

    Attributes:
      table: its directory.
      plan: that it was made by.
      commits: of all its shards; no more than what is compared.
      statistics: of its columns over all rows, by name.
      sample: where its sample lies.
    """

    table: Table
    plan: TablePlan
    commits: tuple[Commit, ...]
    statistics: Mapping[str, ColumnStatistics]
    sample: SampleFiles

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(commit.part.rows for commit in self.commits)

    @property
    def columns(self) -> dict[str, Column]:
        """Its columns by name, the key first."""
        return {column.name: column for column in self.plan.columns}

    @property
    def key(self) -> Column:
        """The column of keys."""
        return self.plan.columns[0]


def open_side(uri: str) -> Side:
    """Open a table that is to be compared.

    Raises:
      FileNotFoundError: there is no table.
      ConfigError: it is not finished.
      TableError: it is damaged.
    """
    table = Table(uri)
    plan = read_plan(table)
    if table.read_success() is None:
        raise ConfigError(
            f"only finished tables are compared, {uri!r} has no _SUCCESS; go on with"
            " the command that began it"
        )
    commits = tuple(map(_lean, table.read_commits(range(plan.shard_count))))
    return Side(table, plan, commits, read_statistics(table), sample_files(commits))


def _lean(commit: Commit) -> Commit:
    """Leave out of a record what is not compared: there may be a million of them."""
    return replace(commit, versions={}, seconds={}, column_keys={}, piece_rows=None)
