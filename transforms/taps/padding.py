"""Call a compiled function with batches of the one size that it takes.

Long batches are split, short ones are filled up with copies of their own rows, which
the model can compute if it can compute the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from transforms.values import Values, join_rows, take_rows

Function = Callable[[Mapping[str, Any]], dict[str, Values]]


def in_batches(
    function: Function, batch_rows: int, inputs: Mapping[str, Any]
) -> dict[str, Values]:
    """Compute any number of rows, at least one.

    Args:
      function: computes values by column from inputs of exactly `batch_rows` rows.
      batch_rows: number of rows that the function takes.
      inputs: `{feature: tensor [rows, ...]}`.

    Returns:
      Values of all rows, by column.
    """
    rows = len(next(iter(inputs.values())))
    if rows <= batch_rows:
        return _padded(function, batch_rows, rows, inputs)
    starts = range(0, rows, batch_rows)
    computed = [
        _padded(
            function,
            batch_rows,
            min(rows - start, batch_rows),
            {name: v[start : start + batch_rows] for name, v in inputs.items()},
        )
        for start in starts
    ]
    return {n: join_rows([columns[n] for columns in computed]) for n in computed[0]}


def _padded(
    function: Function, batch_rows: int, rows: int, inputs: Mapping[str, Any]
) -> dict[str, Values]:
    """Compute at most `batch_rows` rows."""
    import tensorflow as tf

    if rows == batch_rows:
        return function(inputs)
    filled = np.arange(batch_rows) % rows
    columns = function({name: tf.gather(v, filled) for name, v in inputs.items()})
    # A view would keep the whole batch in memory.
    return {n: take_rows(values, np.arange(rows)) for n, values in columns.items()}
