"""Read and write the record that makes one shard count."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from transforms.clock import PHASES
from transforms.lookup import TableError
from transforms.table.names import (
    errors_name,
    part_name,
    sample_name,
    statistics_name,
)
from transforms.usage import USAGES

Made = Literal["computed", "carried", "projected", "extended"]
MADE: tuple[Made, ...] = get_args(Made)
_REMEDY = "run again with --repair to compute the shard again"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One immutable file of the table.

    Attributes:
      path: relative to the table's directory; holds 8 digits of the content's hash.
      rows: rows in the Parquet footer.
      bytes: size.
      sha256: hash of the content, 64 hex digits.
    """

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredStatistics:
    """What a part's rows are like, as it is stored.

    Attributes:
      columns: statistics of columns, one row a column.
      sample: rows of the part with the smallest hashes of their keys, in that order;
        None where the part itself serves as its sample.
      sample_below: all rows of smaller hashes are in the sample, and no others.
    """

    columns: StoredFile
    sample: StoredFile | None
    sample_below: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The record that makes one shard count: what was written, and what it cost.

    Attributes:
      shard: index of the shard.
      fingerprint: of the plan under which it was computed.
      claim: random id of the table for which it was computed.
      versions: of the packages that decide its bytes, by name.
      planned_rows: rows the shard had to account for.
      part: the feature rows.
      errors: the quarantined rows, None if there are none.
      statistics: what the feature rows are like.
      rest_lost: whether a file of unknown length broke off, so that more rows than
        `planned_rows` may have been meant.
      piece_rows: rows found in each piece, bad ones included, where the plan did not
        know them.
      non_finite: rows that hold NaN or infinite values, by column, where
        `errors.non_finite` is `warn`.
      device_rows: rows that went through the model at a time at the end; fewer than
        `model.batch_rows` where the device had run out of memory, 0 where all rows were
        taken over from an earlier table.
      seconds: wall-clock seconds by phase: `read` and `write` are what the loop waited
        for reader and writer, `compute` is the model, `total` is everything. Beside
        them how much of `total` all cores of the process were busy (`cores`), or its
        GPU was at work (`gpu`), whoever used them.
      made: how the part came about: `computed`; or from a part of an earlier table,
        which was `carried` as it is, `projected` to fewer columns or rows, or
        `extended` by columns.
      rows_key: hash of what the rows are, 16 hex digits: their files with versions, and
        how they are read. Two shards of the same key have the same rows.
      column_keys: hashes of what makes the values of the computed columns, by column.
      saved_seconds: what computing it anew would have taken beyond `seconds`, at least.
      saved_bytes: of the part, if it was carried.
    """

    shard: int
    fingerprint: str
    claim: str
    versions: dict[str, str]
    planned_rows: int
    part: StoredFile
    errors: StoredFile | None
    statistics: StoredStatistics
    rest_lost: bool = False
    piece_rows: tuple[int, ...] | None = None
    non_finite: dict[str, int] = field(default_factory=dict)
    device_rows: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    made: Made = "computed"
    rows_key: str = ""
    column_keys: dict[str, str] = field(default_factory=dict)
    saved_seconds: float = 0.0
    saved_bytes: int = 0

    @property
    def quarantined(self) -> int:
        """Rows that are in the errors table instead of the part."""
        return self.errors.rows if self.errors else 0

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All files that the record names, the part first."""
        beside = (self.errors, self.statistics.columns, self.statistics.sample)
        return tuple(file for file in (self.part, *beside) if file)

    def to_json(self) -> dict[str, Any]:
        """Give the record as a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Commit:
        """Undo `to_json`."""
        errors, found = document["errors"], document["piece_rows"]
        return cls(
            **{
                **document,
                "part": StoredFile(**document["part"]),
                "errors": StoredFile(**errors) if errors else None,
                "statistics": _stored_statistics(document["statistics"]),
                "piece_rows": None if found is None else tuple(found),
            }
        )


def _stored_statistics(document: dict[str, Any]) -> StoredStatistics:
    sample = document["sample"]
    return StoredStatistics(
        columns=StoredFile(**document["columns"]),
        sample=StoredFile(**sample) if sample else None,
        sample_below=document["sample_below"],
    )


@dataclass(slots=True)
class Work:
    """What the shards of a table took and what was taken over, record by record.

    Attributes:
      made: `{how parts came about: {"shards": number, "rows": number}}`.
      seconds: of workers, by phase.
      saved_seconds: that computing everything anew would have taken beyond that.
      saved_bytes: of parts that were carried.
    """

    made: dict[Made, dict[str, int]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    saved_seconds: float = 0.0
    saved_bytes: int = 0

    def add(self, commit: Commit) -> None:
        """Add what a record says."""
        sums = self.made.setdefault(commit.made, {"shards": 0, "rows": 0})
        sums["shards"] += 1
        sums["rows"] += commit.part.rows
        self.seconds.update(commit.seconds)
        self.saved_seconds += commit.saved_seconds
        self.saved_bytes += commit.saved_bytes

    def phases(self) -> dict[str, float]:
        """Seconds of workers by phase, in all, and in which cores or GPU were used."""
        names = [*PHASES, *(kind for kind in USAGES if kind in self.seconds), "total"]
        return {name: round(float(self.seconds[name]), 3) for name in names}

    def summary(self) -> dict[str, Any]:
        """Say it in the words of `_SUCCESS`."""
        return {
            "made": {made: self.made[made] for made in MADE if made in self.made},
            "seconds": round(float(self.seconds["total"]), 3),
            "phases": self.phases(),
            "saved_seconds": round(self.saved_seconds, 3),
            "saved_bytes": self.saved_bytes,
        }


def parse_commit(shard: int, data: bytes) -> Commit:
    """Read a commit record; what it names must be files of its own shard.

    Raises:
      TableError: it is damaged, or names other files.
    """
    try:
        commit = Commit.from_json(json.loads(data))
        names = _names(commit)
        found = [file.path for file in commit.files]
        _check_types(commit)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise TableError(
            f"the commit record of shard {shard} cannot be read: {error!r}; {_REMEDY}"
        ) from error
    if commit.shard != shard or names != found:
        raise TableError(
            f"the commit record of shard {shard} must name its own files, it names"
            f" {', '.join(map(repr, found))} of shard {commit.shard}; {_REMEDY}"
        )
    return commit


def _names(commit: Commit) -> list[str]:
    """Give the names that the files of a record must have."""
    named = [
        (part_name, commit.part),
        (errors_name, commit.errors),
        (statistics_name, commit.statistics.columns),
        (sample_name, commit.statistics.sample),
    ]
    return [name(commit.shard, file.sha256) for name, file in named if file]


def _check_types(commit: Commit) -> None:
    """See that numbers are numbers.

    Raises:
      TypeError: one is not.
    """
    files = commit.files
    counts = [commit.planned_rows, commit.saved_bytes, *commit.non_finite.values()]
    counts += [count for file in files for count in (file.rows, file.bytes)]
    counts.append(commit.statistics.sample_below)
    for number in (*counts, *(commit.piece_rows or ())):
        if not isinstance(number, int):
            raise TypeError(f"{number!r} is no number of rows or bytes")
    for time in (*commit.seconds.values(), commit.saved_seconds):
        if not isinstance(time, int | float):
            raise TypeError(f"{time!r} is no number of seconds")
    if commit.made not in MADE:
        raise TypeError(f"{commit.made!r} is no way to make a part")
