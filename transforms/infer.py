"""Turn batches into columns: one shape for every batch, bad rows set apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from transforms.activations import CompiledTaps, Values
from transforms.read import Batch, Failure, read_errors


def infer(
    compiled: CompiledTaps, batch: Batch, on_failure: Callable[[Failure], None]
) -> Iterator[tuple[Batch, dict[str, Values]]]:
    """Compute the columns of a batch.

    A batch that fails is halved until the rows at fault stand alone.

    Args:
      compiled: the function.
      batch: at most `compiled.batch_rows` rows.
      on_failure: called with each row that the model cannot compute.

    Yields:
      Rows that came through, in order, with their values by column.

    Raises:
      tf.errors.OpError: the device failed, rather than a row.
    """
    rows = len(batch.positions)
    try:
        columns = compiled(batch.inputs)
    except read_errors() as error:
        if rows == 1:
            passed = {name: values[0] for name, values in batch.passed.items()}
            on_failure(Failure(int(batch.positions[0]), "infer", error, passed))
            return
        for half in np.array_split(np.arange(rows), 2):
            yield from infer(compiled, batch.take(half), on_failure)
        return
    yield batch, columns
