"""Commit records and errors tables -> what a table took, and which rows were bad."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.busy import Busy, how_busy
from pipeline.report.sample import text_of
from pipeline.report.subject import Subject
from transforms.clock import PHASES
from transforms.messages import shown
from transforms.table.batches import record_batches
from transforms.table.commit_record import Commit, Work

_SLOWEST = 5
_KINDS = 20  # of bad rows that are shown apart
_EXAMPLES = 3
_MESSAGE = 300  # characters
_ERRORS = ("example_id", "stage", "exception", "message", "file", "row")


@dataclass(slots=True)
class BadRows:
    """Rows that failed alike.

    Attributes:
      stage: in which they failed.
      exception: of what type; empty for all beyond the first kinds.
      rows: how many.
      message: of the first.
      examples: keys of some, or files and rows where keys could not be read.
    """

    stage: str
    exception: str
    rows: int = 0
    message: str = ""
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Record:
    """What the commit records of a table say.

    Attributes:
      rows: in all parts.
      bytes: of all parts.
      shards: how many there are.
      work: what they took, and how they came about.
      slowest: shards that took longest, that first.
      bad: kinds of bad rows, the most frequent first.
    """

    rows: int
    bytes: int
    shards: int
    work: Work
    slowest: Sequence[Commit]
    bad: Sequence[BadRows]

    @property
    def bad_rows(self) -> int:
        """How many rows were set apart."""
        return sum(kind.rows for kind in self.bad)

    @property
    def busy(self) -> Busy | None:
        """How busy the machines were, if that can be told."""
        return how_busy(self.work.seconds)

    def shares(self) -> list[tuple[str, float, float]]:
        """Say where the time of the workers went: name, seconds, share of all."""
        total = float(self.work.seconds["total"])
        seconds = self.work.seconds
        phases = [(name, float(seconds[phase])) for phase, name in PHASES.items()]
        rest = max(total - sum(seconds for _, seconds in phases), 0.0)
        return [
            (name, seconds, seconds / (total or 1.0))
            for name, seconds in (*phases, ("the rest", rest))
        ]


def read_record(subject: Subject) -> Record:
    """Read all commit records and errors tables, one after the other."""
    rows = size = shards = 0
    work, slowest = Work(), list[Commit]()
    kinds: dict[tuple[str, str], BadRows] = {}
    for commit in subject.commits():
        rows, size, shards = (
            rows + commit.part.rows,
            size + commit.part.bytes,
            shards + 1,
        )
        work.add(commit)
        slowest = heapq.nlargest(_SLOWEST, [*slowest, commit], key=_seconds)
        for kind, key, message in _errors(subject, commit):
            _count(kinds, kind, key, message)
    bad = sorted(kinds.values(), key=lambda kind: -kind.rows)
    return Record(rows, size, shards, work, slowest, bad)


def _seconds(commit: Commit) -> float:
    return commit.seconds.get("total", 0.0)


def _errors(
    subject: Subject, commit: Commit
) -> Iterator[tuple[tuple[str, str], str, str]]:
    """Yield stage and exception, key and message of each bad row."""
    if commit.errors is None:
        return
    for batch in record_batches(subject.table.path(commit.errors.path), _ERRORS):
        for bad in batch.to_pylist():
            key = bad["example_id"]
            place = f"row {bad['row']} of {bad['file']}" if key is None else key
            yield (bad["stage"], bad["exception"]), place, bad["message"]


def _count(
    kinds: dict[tuple[str, str], BadRows], kind: tuple[str, str], key: str, message: str
) -> None:
    if kind not in kinds and len(kinds) >= _KINDS:
        kind = (kind[0], "")  # of other types
    found = kinds.setdefault(kind, BadRows(*kind))
    found.rows += 1
    found.message = found.message or shown(message, _MESSAGE)
    if len(found.examples) < _EXAMPLES:
        found.examples.append(text_of(key))
