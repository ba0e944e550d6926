"""The samples of two tables -> rows of the same keys, some columns at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.diff.side import Side
from transforms.column_names import KEY
from transforms.statistics.sample import HASH
from transforms.table.columns import Column
from transforms.table.statistics import read_sample, together
from transforms.values import finite_rows, matrix

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
    sizes = {
        name: max(side.columns[name].bytes_per_row for side in (a, b))
        for name in columns
    }
    for names in together(sizes, _BYTES):
        ours, theirs = (read_sample(s.table, s.plan, s.sample, names) for s in (a, b))
        keys_a, keys_b = ours[KEY], theirs[KEY].combine_chunks()
        if keys_a.type != keys_b.type:
            keys_a, keys_b = keys_a.cast(pa.string()), keys_b.cast(pa.string())
        places = pc.index_in(keys_a, value_set=keys_b)
        both_a = ours.filter(places.is_valid())
        yield names, Samples(ours, theirs, both_a, theirs.take(places.drop_null()))


def vectors(sample: pa.Table, column: Column) -> np.ndarray:
    """Give the values of a column of numbers: `[rows, width]`."""
    return matrix(sample[column.name], column.width or 0)


def halves(samples: Samples, a: Column, b: Column) -> tuple[np.ndarray, np.ndarray]:
    """Give finite vectors of different keys: of A those of one half, of B of the other.

    Where both tables have the same rows, what tells these apart is therefore how the
    tables differ, and not that a row is known again.
    """
    found = []
    for half, (sample, column) in enumerate([(samples.a, a), (samples.b, b)]):
        hashes = sample[HASH].to_numpy()
        chosen = vectors(sample, column)[hashes % 2 == half]
        found.append(chosen[finite_rows(chosen)])
    return found[0], found[1]
