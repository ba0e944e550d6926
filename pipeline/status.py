"""Tell the progress of a run, here or anywhere, from its commit records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from transforms.shard import Commit
from transforms.table import Table


@dataclass(frozen=True, slots=True)
class Status:
    """How far a table is.

    Attributes:
      table: its URI.
      finished: whether `_SUCCESS` is there.
      shards: planned.
      committed: shards done.
      rows: rows in committed parts.
      planned_rows: None if the source tells only when it is read.
      quarantined: rows in the errors table.
      bytes: size of the committed parts.
      seconds: of the workers, by phase, summed over shards.
    """

    table: str
    finished: bool
    shards: int
    committed: int
    rows: int
    planned_rows: int | None
    quarantined: int
    bytes: int
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON document."""
        return asdict(self)


@dataclass(slots=True)
class Watch:
    """Follows one table; each commit record is read once."""

    table: Table
    _commits: dict[int, Commit] = field(default_factory=dict)
    _layout: dict[str, Any] = field(default_factory=dict)

    def status(self) -> Status:
        """Look again.

        Raises:
          FileNotFoundError: there is no table, or no plan for one.
        """
        self._layout = self._layout or self.table.read_json("schema.json")
        new = [i for i in self.table.committed() if i not in self._commits]
        self._commits.update(zip(new, self.table.read_commits(new), strict=True))
        commits = self._commits.values()
        phases = ("read", "compute", "write", "total")
        return Status(
            table=self.table.uri,
            finished=self.table.read_success() is not None,
            shards=self._layout["shards"],
            committed=len(commits),
            rows=sum(commit.part.rows for commit in commits),
            planned_rows=self._layout["rows"],
            quarantined=sum(commit.quarantined for commit in commits),
            bytes=sum(commit.part.bytes for commit in commits),
            seconds={p: round(sum(c.seconds[p] for c in commits), 3) for p in phases},
        )


def table_status(table: str) -> Status:
    """Tell the progress of a table.

    Args:
      table: its URI.

    Raises:
      FileNotFoundError: there is no table, or no plan for one.
    """
    return Watch(Table(table)).status()
