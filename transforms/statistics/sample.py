"""Choose rows by the smallest hashes of their keys: the same rows in every table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROWS = 4096
"""Of a table's sample."""
HASH = "sample_hash"
"""The column of a sample that holds the hashes of keys, uint64."""
WIDEST = 4096
"""Values of a row beyond which a column is not sampled."""
_KEPT = 5120  # rows of all shards: by chance some have fewer than their share
_SUFFICES = 3072  # of what shards have kept for another table, which may have had more
_UNKNOWN = 2  # times the rows, where only reading tells how many a table has
_FEWEST = 16  # rows of a shard, where nobody knows how many the table has
_PICTURES = 16  # one in so many rows keeps its bytes, such as a picture
ALL = 2**64
"""Below which all hashes lie."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many rows of a shard may be in the sample of its table.

    Attributes:
      below: only rows whose hash lies below this are kept.
      most: of these no more, those with the smallest hashes.
      least: what was kept of a shard before suffices if all rows below this were.
    """

    below: int = ALL
    most: int = ROWS
    least: int = 0

    @property
    def is_large(self) -> bool:
        """Whether the sample is better read from the parts than stored once more."""
        return self.below * 2 >= ALL and self.most >= ROWS


def share_of(rows: int | None, shards: int) -> Share:
    """Say which rows each shard of a table has to keep.

    Args:
      rows: of the table; None if only reading tells.
      shards: of the table.
    """
    if rows is None:
        most = _UNKNOWN * ROWS // max(shards, 1)
        return Share(most=min(max(most, _FEWEST), ROWS))
    return Share(
        below=min(ALL * _KEPT // max(rows, 1), ALL),
        least=min(ALL * _SUFFICES // max(rows, 1), ALL),
    )


class Sampler:
    """Chooses rows as they come by, in bounded memory.

    Attributes:
      below: all rows of smaller hashes are kept, and in the end no others.
    """

    def __init__(
        self, share: Share, names: Sequence[str], pixels: Collection[str] = ()
    ) -> None:
        """Start without rows.

        Args:
          share: how many rows may be chosen.
          names: columns that are kept of them.
          pixels: of these, lists that are kept as bytes are, of few rows.
        """
        self.below = share.below
        self._most = share.most
        self._names = list(names)
        self._pixels = pixels
        self._smallest = np.zeros(0, np.uint64)  # hashes of all rows that are chosen
        self._kept: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: pa.Table, hashes: np.ndarray) -> None:
        """Take rows with hashes of their keys, uint64; cheapest in large numbers."""
        self._lower(hashes)
        chosen = hashes < self.below
        rows = rows.select(self._names).filter(pa.array(chosen)).combine_chunks()
        hashes = hashes[chosen]
        if not len(hashes):
            return
        some = pa.table({HASH: hashes})
        without = pa.array(hashes >= self.below // _PICTURES)
        for name in self._names:
            values = rows[name]
            if pa.types.is_binary(values.type) or name in self._pixels:
                values = pc.if_else(without, pa.scalar(None, values.type), values)
            some = some.append_column(name, values)
        self._kept.append(some)
        self._rows += len(some)
        if self._rows > 2 * self._most:
            self._shrink()

    def _lower(self, hashes: np.ndarray) -> None:
        """See to it that not too many rows lie below, before they are copied."""
        within = np.concatenate([self._smallest, hashes[hashes < self.below]])
        if len(within) > self._most:
            self.below = int(np.partition(within, self._most)[self._most])
            within = within[within < self.below]
        self._smallest = within

    def finish(self) -> pa.Table | None:
        """Give the rows in the order of their hashes; None if there are none."""
        if not self._rows:
            return None
        self._shrink()
        return self._kept[0].sort_by(HASH)

    def _shrink(self) -> None:
        kept = pa.concat_tables(self._kept)
        if pc.max(kept[HASH]).as_py() >= self.below:
            below = pa.scalar(self.below, pa.uint64())
            kept = kept.filter(pc.less(kept[HASH], below))
        self._kept, self._rows = [kept], len(kept)
