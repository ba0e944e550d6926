"""The samples of two tables -> rows of the same keys, some columns at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.diff.side import Side
from transforms.column_names import KEY
from transforms.statistics.sample import HASH, ROWS
from transforms.table.columns import Column
from transforms.table.statistics import read_sample

_BYTES = 256 << 20  # of the columns of a table's sample that are read together


@dataclass(frozen=True, slots=True)
class Samples:
    """Some columns of the samples of two tables.

    Attributes:
      a: the sample of A, in the order of the hashes of keys.
      b: the sample of B.
      both_a: rows of A whose keys both samples have.
      both_b: the rows of B of the same keys, in the same order.
    """

    a: pa.Table
    b: pa.Table
    both_a: pa.Table
    both_b: pa.Table


def read_samples(
    a: Side, b: Side, columns: Sequence[str]
) -> Iterator[tuple[list[str], Samples]]:
    """Yield columns, as many at a time as memory is for, with the samples of them.

    Args:
      a: one table.
      b: the other.
      columns: that both samples have, beside the keys.
    """
    for names in _together(a, b, columns):
        ours, theirs = (read_sample(s.table, s.plan, s.commits, names) for s in (a, b))
        keys_a, keys_b = ours[KEY], theirs[KEY].combine_chunks()
        if keys_a.type != keys_b.type:
            keys_a, keys_b = keys_a.cast(pa.string()), keys_b.cast(pa.string())
        places = pc.index_in(keys_a, value_set=keys_b)
        both_a = ours.filter(places.is_valid())
        yield names, Samples(ours, theirs, both_a, theirs.take(places.drop_null()))


def _together(a: Side, b: Side, columns: Sequence[str]) -> Iterator[list[str]]:
    """Cut columns into lists that are read together."""
    names: list[str] = []
    size = 0
    for name in columns:
        own = ROWS * max(a.columns[name].bytes_per_row, b.columns[name].bytes_per_row)
        if names and size + own > _BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += own
    if names:
        yield names


def vectors(sample: pa.Table, column: Column) -> np.ndarray:
    """Give the values of a column of numbers: `[rows, width]`."""
    values = sample[column.name].combine_chunks()
    flat = values.flatten() if column.is_vector else values
    found: np.ndarray = flat.to_numpy(zero_copy_only=False)
    return found.reshape(len(values), column.width or 0)


def finite(values: np.ndarray) -> np.ndarray:
    """Say which rows hold finite values only: bool `[rows]`."""
    found: np.ndarray = np.isfinite(values).all(axis=1)
    return found


def halves(samples: Samples, a: Column, b: Column) -> tuple[np.ndarray, np.ndarray]:
    """Give finite vectors of different keys: of A those of one half, of B of the other.

    Where both tables have the same rows, what tells these apart is therefore how the
    tables differ, and not that a row is known again.
    """
    found = []
    for half, (sample, column) in enumerate([(samples.a, a), (samples.b, b)]):
        hashes = sample[HASH].to_numpy()
        chosen = vectors(sample, column)[hashes % 2 == half]
        found.append(chosen[finite(chosen)])
    return found[0], found[1]
