"""Tell the progress of a run, here or anywhere, from its commit records."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.busy import Busy, how_busy
from pipeline.publish.publish import publications
from transforms.table.commit_record import Commit, Made, Work
from transforms.table.directory import Table
from transforms.table.gates import read_verdicts
from transforms.table.plan_file import TablePlan, read_plan
from transforms.table.verdicts import Verdict


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
      made: shards and rows by how their parts came about.
      saved_seconds: of workers that taking rows over has saved, at least.
      saved_bytes: that it has not written.
      busy: how close the workers came to the ceiling of their machines; None if they
        have had too little to do to tell.
      gates: how the table was judged, at its end.
      published: where the finished table has gone, the newest publication to each kind
        of store.
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
    made: dict[Made, dict[str, int]]
    saved_seconds: float
    saved_bytes: int
    busy: Busy | None = None
    gates: tuple[Verdict, ...] = ()
    published: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON document."""
        return asdict(self)


@dataclass(slots=True)
class Watch:
    """Follows one table; each commit record is read once.

    Attributes:
      table: the table.
      committed: indexes of the shards that were done when it last looked.
    """

    table: Table
    committed: set[int] = field(default_factory=set)
    _sums: Counter[str] = field(default_factory=Counter)
    _work: Work = field(default_factory=Work)
    _plan: TablePlan | None = None

    def status(self) -> Status:
        """Look again.

        Raises:
          FileNotFoundError: there is no table, or no plan for one.
        """
        self._plan = plan = self._plan or read_plan(self.table)
        new = [i for i in self.table.committed() if i not in self.committed]
        for commit in self.table.read_commits(new):
            self._add(commit)
        finished = self.table.read_success() is not None
        phases = self._work.phases()
        is_whole = len(self.committed) == plan.shard_count
        return Status(
            table=self.table.uri,
            finished=finished,
            shards=plan.shard_count,
            committed=len(self.committed),
            rows=self._sums["rows"],
            planned_rows=plan.rows,
            quarantined=self._sums["quarantined"],
            bytes=self._sums["bytes"],
            seconds=phases,
            busy=how_busy(phases),
            made=self._work.made,
            saved_seconds=round(self._work.saved_seconds, 3),
            saved_bytes=self._work.saved_bytes,
            gates=tuple(read_verdicts(self.table)) if is_whole else (),
            published=tuple(publications(self.table.uri)) if finished else (),
        )

    def _add(self, commit: Commit) -> None:
        self.committed.add(commit.shard)
        self._sums["rows"] += commit.part.rows
        self._sums["quarantined"] += commit.quarantined
        self._sums["bytes"] += commit.part.bytes
        self._work.add(commit)


def table_status(table: str) -> Status:
    """Tell the progress of a table.

    Args:
      table: its URI.

    Raises:
      FileNotFoundError: there is no table, or no plan for one.
    """
    return Watch(Table(table)).status()
