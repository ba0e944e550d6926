"""The keys of two tables -> which rows only one of them has, over all rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.diff.side import Side
from transforms.column_names import KEY
from transforms.table.commit_record import Commit
from transforms.table.keys import in_groups, keys_of

_EXAMPLES = 5


@dataclass(slots=True)
class Rows:
    """Which rows two tables have.

    Attributes:
      a: rows of A.
      b: rows of B.
      only_a: rows whose key B does not have.
      only_b: rows whose key A does not have.
      examples_a: keys of some of those that only A has, as text.
      examples_b: keys of some of those that only B has.
      in_equal_parts: rows in parts that both have, equal byte for byte.
    """

    a: int
    b: int
    only_a: int = 0
    only_b: int = 0
    examples_a: list[str] = field(default_factory=list)
    examples_b: list[str] = field(default_factory=list)
    in_equal_parts: int = 0

    @property
    def both(self) -> int:
        """Rows whose key both tables have."""
        return self.a - self.only_a

    @property
    def share(self) -> float:
        """The share of all rows of both that only one of them has."""
        return (self.only_a + self.only_b) / max(
            self.both + self.only_a + self.only_b, 1
        )


def compare_rows(a: Side, b: Side) -> Rows:
    """Find the rows that only one table has, exactly, in bounded memory.

    Parts that are equal byte for byte are not looked at, nor parts of shards that were
    made of the same stored rows without a bad one. Of all others the keys are read.
    """
    rows = Rows(a.rows, b.rows)
    equal = _parts(a) & _parts(b)
    rows.in_equal_parts = sum(count for _, count in equal)
    alike = _whole(a) & _whole(b)

    def left(side: Side) -> list[tuple[str, int]]:
        parts = [c.part for c in side.commits if c.rows_key not in alike]
        return [(p.path, p.rows) for p in parts if (p.sha256, p.rows) not in equal]

    left_a, left_b = left(a), left(b)
    total = sum(count for _, count in left_a + left_b)
    same_type = a.key.dtype == b.key.dtype
    found = _keys(a, left_a, 0, as_text=not same_type)
    others = _keys(b, left_b, 1, as_text=not same_type)
    for group in in_groups(itertools.chain(found, others), total):
        count_keys(rows, group)
    return rows


def _parts(side: Side) -> set[tuple[str, int]]:
    """Give hash and rows of each part."""
    return {(commit.part.sha256, commit.part.rows) for commit in side.commits}


def _whole(side: Side) -> set[str]:
    """Name the rows of the shards that have all of their rows."""
    return {c.rows_key for c in side.commits if _is_whole(c)}


def _is_whole(commit: Commit) -> bool:
    return bool(commit.rows_key) and not commit.quarantined and not commit.rest_lost


def _keys(
    side: Side, parts: Sequence[tuple[str, int]], number: int, *, as_text: bool
) -> Iterator[pa.RecordBatch]:
    """Yield keys with the number of their table, called `0` and `part`."""
    for batch in keys_of(side.table, [KEY], parts):
        keys = batch["0"].cast(pa.string()) if as_text else batch["0"]
        side_of = pa.repeat(pa.scalar(number, pa.int32()), len(batch))
        yield pa.record_batch({"0": keys, "part": side_of})


def count_keys(rows: Rows, group: Sequence[pa.RecordBatch]) -> None:
    """Add keys to what is known: those of A have part 0, those of B 1."""
    if not group:
        return
    keys = pa.Table.from_batches(group).group_by("0", use_threads=False)
    found = keys.aggregate([("part", "min"), ("part", "max")])
    only_a = found.filter(pc.equal(found["part_max"], 0))["0"]
    only_b = found.filter(pc.equal(found["part_min"], 1))["0"]
    rows.only_a += len(only_a)
    rows.only_b += len(only_b)
    for examples, some in ((rows.examples_a, only_a), (rows.examples_b, only_b)):
        missing = _EXAMPLES - len(examples)
        examples += [str(key) for key in some.slice(0, missing).to_pylist()]
