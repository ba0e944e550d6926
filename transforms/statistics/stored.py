"""Store statistics of columns as Parquet, one row a column, and read them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.statistics.column import ColumnStatistics, Examples
from transforms.statistics.moments import Moments
from transforms.statistics.norms import BINS, Norms
from transforms.statistics.repeats import Repeats

_FLOATS, _COUNTS = pa.list_(pa.float64()), pa.list_(pa.int64())
_HASHES, _TEXTS = pa.list_(pa.uint64()), pa.list_(pa.string())
_MOMENTS = ("mean", "m2", "least", "most")
SCHEMA = pa.schema(
    [
        ("column", pa.string()),
        ("width", pa.int64()),
        *((name, pa.int64()) for name in ("rows", "zero_rows", "non_finite_rows")),
        ("count", pa.int64()),
        *((name, _FLOATS) for name in _MOMENTS),
        ("norm_count", pa.int64()),
        *((f"norm_{name}", pa.float64()) for name in _MOMENTS),
        ("norm_histogram", _COUNTS),
        *((f"{name}_norm_key", pa.string()) for name in ("shortest", "longest")),
        *(("hashes", _HASHES), ("hash_rows", _COUNTS), ("hashes_complete", pa.bool_())),
        *(("frequent", _HASHES), ("frequent_rows", _COUNTS)),
        *(("frequent_keys", _TEXTS), ("frequent_error", pa.int64())),
        *(("zero_hashes", _HASHES), ("zero_keys", _TEXTS)),
        *(("non_finite_hashes", _HASHES), ("non_finite_keys", _TEXTS)),
    ]
)
"""Of stored statistics: the attributes of `ColumnStatistics` and of what it holds.

`count` to `most` are of single dimensions, empty where there are none."""


def to_table(columns: Sequence[ColumnStatistics]) -> pa.Table:
    """Lay statistics out, one row a column (`SCHEMA`)."""
    return pa.Table.from_pylist([_row(column) for column in columns], SCHEMA)


def _row(column: ColumnStatistics) -> dict[str, Any]:
    moments, norms, repeats = column.moments, column.norms, column.repeats
    by_dimension = {name: getattr(moments, name, ()) for name in _MOMENTS}
    return {
        "column": column.name,
        "width": column.width,
        "rows": column.rows,
        "zero_rows": column.zero_rows,
        "non_finite_rows": column.non_finite_rows,
        "count": moments.count if moments else 0,
        **by_dimension,
        "norm_count": norms.moments.count,
        **{f"norm_{n}": float(getattr(norms.moments, n)[0]) for n in _MOMENTS},
        "norm_histogram": norms.histogram,
        "shortest_norm_key": norms.shortest,
        "longest_norm_key": norms.longest,
        "hashes": repeats.hashes,
        "hash_rows": repeats.counts,
        "hashes_complete": repeats.complete,
        "frequent": repeats.frequent,
        "frequent_rows": repeats.at_least,
        "frequent_keys": repeats.keys,
        "frequent_error": repeats.error,
        "zero_hashes": column.zeros.hashes,
        "zero_keys": column.zeros.keys,
        "non_finite_hashes": column.non_finite.hashes,
        "non_finite_keys": column.non_finite.keys,
    }


def from_table(table: pa.Table) -> list[ColumnStatistics]:
    """Undo `to_table`.

    Raises:
      ValueError: lists do not fit together.
    """
    return [_column(table.slice(row, 1)) for row in range(len(table))]


def _column(row: pa.Table) -> ColumnStatistics:
    def one(name: str) -> Any:
        return row[name][0].as_py()

    def many(name: str) -> np.ndarray:
        found: np.ndarray = row[name].combine_chunks().flatten().to_numpy()
        return found

    width = one("width")
    by_dimension = [many(name) for name in _MOMENTS]
    lengths = {len(found) for found in by_dimension}
    if lengths not in ({0}, {width}) or len(many("norm_histogram")) != BINS:
        raise ValueError(
            f"column {one('column')!r} has numbers of {lengths} dimensions"
        )
    of_norms = [np.array([one(f"norm_{name}")]) for name in _MOMENTS]
    moments = Moments(width, one("count"), *by_dimension) if lengths != {0} else None
    return ColumnStatistics(
        name=one("column"),
        width=width,
        rows=one("rows"),
        zero_rows=one("zero_rows"),
        non_finite_rows=one("non_finite_rows"),
        moments=moments,
        norms=Norms(
            Moments(1, one("norm_count"), *of_norms),
            many("norm_histogram"),
            one("shortest_norm_key"),
            one("longest_norm_key"),
        ),
        repeats=_repeats(one, many),
        zeros=Examples(one("zero_hashes"), one("zero_keys")),
        non_finite=Examples(one("non_finite_hashes"), one("non_finite_keys")),
    )


def _repeats(one: Any, many: Any) -> Repeats:
    return Repeats(
        rows=one("rows"),
        hashes=many("hashes"),
        counts=many("hash_rows"),
        complete=one("hashes_complete"),
        frequent=many("frequent"),
        at_least=many("frequent_rows"),
        keys=one("frequent_keys"),
        error=one("frequent_error"),
    )
