"""A column of single values of two tables -> in which rows it differs."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.diff.sample import Samples
from transforms.column_names import KEY
from transforms.table.columns import Column

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class KeptDiff:
    """How a column of single values that is not measured differs: kept features, times.

    Attributes:
      name: of the column.
      rows: that both samples have.
      unequal: of these, rows with other values.
      examples: keys of some of them, as text.
    """

    name: str
    rows: int
    unequal: int
    examples: tuple[str, ...]


def is_kept(a: Column, b: Column) -> bool:
    """Whether a column can be compared value by value.

    Samples hold bytes of some rows only, and no lists but of numbers.
    """
    alike = a.arrow_type == b.arrow_type
    return alike and a.role != "key" and a.dtype != "bytes" and not a.shape


def compare_kept(name: str, samples: Samples) -> KeptDiff:
    """Compare a column value by value; nulls equal nulls, and NaN NaN."""
    a, b = samples.both_a[name], samples.both_b[name]
    if pa.types.is_float16(a.type):  # which Arrow does not compare
        a, b = a.cast(pa.float32()), b.cast(pa.float32())
    equal = pc.fill_null(pc.equal(a, b), False)
    equal = pc.or_(equal, pc.and_(a.is_null(), b.is_null()))
    if pa.types.is_floating(a.type):
        both = pc.and_(pc.is_nan(a), pc.is_nan(b))
        equal = pc.or_(equal, pc.fill_null(both, False))
    keys = samples.both_a[KEY].filter(pc.invert(equal))
    examples = tuple(str(key) for key in keys.slice(0, _EXAMPLES).to_pylist())
    return KeptDiff(name, len(a), len(keys), examples)
