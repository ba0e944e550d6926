"""Collect the statistics of a part, and a sample of its rows, while it is written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from transforms.key_hashes import hash_keys
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.repeats import mix
from transforms.statistics.sample import WIDEST, Sampler, Share

_ROWS_AT_A_TIME = 65_536  # many, since each call of NumPy gives Python's lock away
_BYTES_AT_A_TIME = 64 << 20  # as in a row group, which its writer holds as well


class Collector:
    """Takes the rows of one part as they are written.

    Attributes:
      columns: statistics of each described column.
      sampler: of the part; None where the part itself serves as its sample.
    """

    def __init__(
        self, schema: pa.Schema, described: Mapping[str, int | None], share: Share
    ) -> None:
        """Start without rows.

        Args:
          schema: of the part; its first column is the key.
          described: columns of numbers or flags that get statistics, with the values
            that a row has; None where rows differ.
          share: how many rows may be in the sample.
        """
        self._key = schema.names[0]
        self.columns = [ColumnStatistics(name, w) for name, w in described.items()]
        names = sampled(schema, described)
        pixels = kept_pixels(schema, described)
        self.sampler = None if share.is_large else Sampler(share, names, pixels)
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0  # that wait

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows; they are looked at many thousands at a time."""
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= _ROWS_AT_A_TIME or self._bytes >= _BYTES_AT_A_TIME:
            self._look()

    def finish(self) -> None:
        """Look at what is left."""
        if self._rows:
            self._look()

    def _look(self) -> None:
        rows = pa.Table.from_batches(self._waiting)
        self._waiting, self._rows, self._bytes = [], 0, 0
        keys = rows[self._key].combine_chunks()
        hashes = sample_hashes(keys)
        for column in self.columns:
            column.add(rows[column.name], keys, hashes)
        if self.sampler is not None:
            self.sampler.add(rows, hashes)


def sampled(schema: pa.Schema, described: Mapping[str, int | None]) -> list[str]:
    """Name the columns of a table that its sample has.

    Lists are left out that are neither vectors of at most `WIDEST` values nor pixels.
    """
    some = {name for name, width in described.items() if width and width <= WIDEST}
    some |= kept_pixels(schema, described)
    return [
        field.name
        for field in schema
        if not pa.types.is_list(field.type) or field.name in some
    ]


def kept_pixels(schema: pa.Schema, described: Mapping[str, int | None]) -> set[str]:
    """Name the kept columns of lists of uint8, such as images that were decoded."""
    return {
        field.name
        for field in schema
        if pa.types.is_list(field.type)
        if pa.types.is_uint8(field.type.value_type)
        if field.name not in described
    }


def sample_hashes(keys: pa.Array) -> np.ndarray:
    """Hash keys to uint64, by which samples choose rows."""
    return mix(hash_keys(keys))
