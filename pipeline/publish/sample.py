"""Rows with the smallest hashes of their keys: a sample that tables of a dataset share.

Which rows are in it depends on their keys alone, so tables of one dataset have the same
rows in it, and a smaller sample is the beginning of a larger one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.column_names import KEY
from transforms.lookup import ConfigError
from transforms.statistics.collect import sample_hashes

_HASH = "hash of the key"  # no column can have this name


@runtime_checkable
class Sampling(Protocol):
    """A target that holds some rows of a table: what it promises beside `Target`."""

    @property
    def sample(self) -> int:
        """How many rows it holds at most: those that `smallest_hashes` gives."""
        ...


def smallest_hashes(tables: Iterable[pa.Table], rows: int) -> pa.Table:
    """Take the rows whose keys have the smallest hashes.

    Only the rows that are taken are held, and one of the tables at a time.

    Args:
      tables: parts of one table, with its key; at least one.
      rows: how many to take; all of them if there are fewer.

    Returns:
      The rows, ordered by the hashes of their keys, then by the keys.
    """
    kept: pa.Table | None = None
    for table in tables:
        found = table.append_column(_HASH, pa.array(_hashes(table[KEY])))
        if kept is not None:
            if len(kept) == rows:
                largest = kept[_HASH][-1]
                found = found.filter(pc.less_equal(found[_HASH], largest))
            found = pa.concat_tables([kept, found])
        order = [(_HASH, "ascending"), (KEY, "ascending")]
        kept = found.take(pc.sort_indices(found, sort_keys=order)[:rows])
    if kept is None:
        raise ValueError("a sample must be of at least one table, got none")
    return kept.drop_columns([_HASH]).combine_chunks()


def at_least_one(rows: int, what: str) -> int:
    """Check how many rows a sample is to have.

    Raises:
      ConfigError: none.
    """
    if rows < 1:
        raise ConfigError(f"{what} must be at least 1, got {rows}")
    return rows


def _hashes(keys: pa.ChunkedArray) -> np.ndarray:
    return np.concatenate([sample_hashes(chunk) for chunk in keys.chunks])
