"""Show rows of a table and their neighbours, as text for people or as JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline import show
from pipeline.look_up import Row
from pipeline.neighbours import Neighbours
from transforms.column_names import KEY
from transforms.credentials import mask
from transforms.messages import shape_text
from transforms.table.columns import Column

_TEXT_SHOWN = 60
_TEXT_IN_LISTS = 24
_VALUES_SHOWN = 6
_TEXTS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """What the numbers of a list are like.

    Attributes:
      norm: the length of the vector of the finite ones.
      min: the smallest finite one; None if there is none.
      max: the largest finite one; None if there is none.
      mean: of the finite ones; None if there is none.
      zeros: how many are zero.
      nan: how many are NaN.
      infinite: how many are infinite.
    """

    norm: float
    min: float | None
    max: float | None
    mean: float | None
    zeros: int
    nan: int
    infinite: int


def summary_of(values: np.ndarray) -> Summary:
    """Sum up numbers or flags of any shape; flags count as 0 and 1.

    >>> summary_of(np.array([3.0, 0.0, -4.0, np.nan])).norm
    5.0
    """
    if values.dtype == bool:
        values = values.astype(np.uint8)
    finite = values[np.isfinite(values)]
    scaled = finite.astype(np.float64)
    largest = float(np.abs(scaled).max(initial=0.0)) or 1.0
    scaled /= largest  # squares and sums of very large ones have no float64
    return Summary(
        norm=largest * float(np.linalg.norm(scaled)),
        min=finite.min().item() if len(finite) else None,
        max=finite.max().item() if len(finite) else None,
        mean=largest * float(scaled.mean()) if len(finite) else None,
        zeros=int((finite == 0).sum()),
        nan=int(np.isnan(values).sum()),
        infinite=int(np.isinf(values).sum()),
    )


def print_row(row: Row, *, is_first: bool, as_json: bool) -> None:
    """Print where a row lies and came from, then its columns with their values.

    Args:
      row: the row.
      is_first: whether it is the table's first, shown as an example.
      as_json: print one JSON document instead.
    """
    if as_json:
        show.print_json(_row_json(row))
        return
    which = f"the first of {row.rows} rows" if is_first else f"one of {row.rows} rows"
    piece = row.piece
    of = f" of its bytes {piece.span[0]} to {piece.span[1]}" if piece.span else ""
    show.say(
        f"{row.table}: {which}\nin {row.part}, row {row.at}"
        f"\nfrom {piece.file}, row {row.source_row}{of}\n"
    )
    show.print_table(
        ("column", "role", "type", "shape", "value"),
        [
            (
                column.name,
                column.role,
                column.dtype,
                shape_text(_shape(row.values[column.name], column)),
                _value_text(row.values[column.name], column.dtype),
            )
            for column in row.columns
        ],
    )


def print_neighbours(found: Neighbours, *, as_json: bool) -> None:
    """Print the nearest rows of a row, with what was kept of them."""
    if as_json:
        show.print_json(_neighbours_json(found))
        return
    show.say(f"{found.table}: nearest to {_quoted(found.key)} by {found.column}\n")
    show.print_table(
        ("cosine", KEY, *(column.name for column in found.columns)),
        [
            (
                f"{one.similarity:.6f}",
                _quoted(one.key),
                *(
                    _value_text(one.kept[c.name], c.dtype, _TEXT_IN_LISTS)
                    for c in found.columns
                ),
            )
            for one in found.rows
        ],
    )
    over = (
        f"; passed over {found.passed_over}, of which {found.column} has no value, only"
        " zeros, or NaN or infinite values"
    )
    show.say(
        f"\ncompared with {found.compared} rows{over if found.passed_over else ''}"
    )


def _shape(value: Any, column: Column) -> Sequence[int | None]:
    """Give the value's own shape, where its column leaves it open."""
    if isinstance(value, np.ndarray):
        return [*value.shape]
    return [len(value)] if isinstance(value, list) else column.shape


def _value_text(value: Any, dtype: str, most: int = _TEXT_SHOWN) -> str:
    if value is None:
        return "null"
    if isinstance(value, np.ndarray):
        return _array_text(value)
    if isinstance(value, list):
        shown = [_value_text(v, dtype, _TEXT_IN_LISTS) for v in value[:_TEXTS_SHOWN]]
        return ", ".join([*shown, *(["…"] if len(value) > len(shown) else [])])
    if dtype in ("string", "bytes"):
        return _quoted(value, most)
    # As many digits as its own type has.
    return str(np.dtype(dtype).type(value)) if isinstance(value, float) else str(value)


def _quoted(value: str | bytes | int, most: int = _TEXT_SHOWN) -> str:
    """Show a value in a line: escaped, and only its beginning if it is long.

    Credentials are masked before it is cut, since no half of one is known as such.
    """
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        most //= 4  # most bytes are escaped
        text = mask(value.decode("latin-1"), most)
        shown, unit = repr(text.encode("latin-1")), "bytes"
    else:
        shown, unit = repr(mask(value, most)), "characters"
    return f"{shown}… ({len(value)} {unit})" if len(value) > most else shown


def _array_text(values: np.ndarray) -> str:
    if not values.size:
        return ""
    flat = values.reshape(-1)
    first = " ".join(_number(one) for one in flat[:_VALUES_SHOWN].tolist())
    sums = summary_of(flat)
    said = [f"norm {_number(sums.norm)}"]
    numbers = {"min": sums.min, "max": sums.max, "mean": sums.mean}
    said += [f"{name} {_number(n)}" for name, n in numbers.items() if n is not None]
    counts = {"zeros": sums.zeros, "NaN": sums.nan, "infinite": sums.infinite}
    said += [f"{name} {count}" for name, count in counts.items() if count]
    more = " …" if len(flat) > _VALUES_SHOWN else ""
    return f"{first}{more}  ({', '.join(said)})"


def _number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "table": row.table,
        "rows": row.rows,
        "part": row.part,
        "row": row.at,
        "source": {
            "file": row.piece.file,
            "span": row.piece.span,
            "row": row.source_row,
        },
        "columns": {
            column.name: _column_json(column, row.values[column.name])
            for column in row.columns
        },
    }


def _neighbours_json(found: Neighbours) -> dict[str, Any]:
    return {
        "table": found.table,
        "key": found.key,
        "column": found.column,
        "compared": found.compared,
        "passed_over": found.passed_over,
        "rows": [
            {
                "key": one.key,
                "similarity": one.similarity,
                "kept": {name: _plain(value) for name, value in one.kept.items()},
            }
            for one in found.rows
        ],
    }


def _column_json(column: Column, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "role": column.role,
        "dtype": column.dtype,
        "shape": list(_shape(value, column)),
        "value": _plain(value),
    }
    if isinstance(value, np.ndarray):
        sums = asdict(summary_of(value))
        document["summary"] = {name: _plain(number) for name, number in sums.items()}
    return document


def _plain(value: Any) -> Any:
    """Give a value as JSON has it: bytes in base64, what is not finite as text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value
