"""Turn batches into columns: one shape for every batch, bad rows set apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from transforms.activations import CompiledTaps
from transforms.read import Batch, Failure, read_errors


def infer(
    compiled: CompiledTaps, batch: Batch, on_failure: Callable[[Failure], None]
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """Compute the columns of a batch.

    A batch with fewer rows is filled up with copies of its own rows, so that the
    function always sees one shape. A batch that fails is halved until the rows at fault
    stand alone.

    Args:
      compiled: the function.
      batch: at most `compiled.batch_rows` rows.
      on_failure: called with each row that the model cannot compute.

    Yields:
      Rows that came through, in order, with `{column: array [rows, *shape]}`.

    Raises:
      tf.errors.OpError: the device failed, rather than a row.
    """
    rows = len(batch.positions)
    try:
        columns = compiled(_filled(batch, compiled.batch_rows))
    except read_errors() as error:
        if rows == 1:
            passed = {name: values[0] for name, values in batch.passed.items()}
            on_failure(Failure(int(batch.positions[0]), "infer", error, passed))
            return
        for half in np.array_split(np.arange(rows), 2):
            yield from infer(compiled, batch.take(half), on_failure)
        return
    if rows < compiled.batch_rows:  # a view would keep the whole batch in memory
        columns = {name: values[:rows].copy() for name, values in columns.items()}
    yield batch, columns


def _filled(batch: Batch, rows: int) -> dict[str, Any]:
    """Repeat rows until the batch is full."""
    import tensorflow as tf

    count = len(batch.positions)
    if count == rows:
        return dict(batch.inputs)
    repeated = np.arange(rows) % count
    return {name: tf.gather(value, repeated) for name, value in batch.inputs.items()}
