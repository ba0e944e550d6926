"""Turn batches into columns: group rows by shape, and set rows apart that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from transforms.batch import Batch
from transforms.errors.failure import Failure
from transforms.errors.halving import by_halves
from transforms.errors.stages import read_errors
from transforms.taps.device_memory import FittingTaps
from transforms.values import Values, join_rows, take_rows

Computed = tuple[Batch, dict[str, Values]]


def infer(
    compiled: FittingTaps, batch: Batch, on_failure: Callable[[Failure], None]
) -> Iterator[Computed]:
    """Compute the columns of a batch.

    Rows whose inputs differ in shape are computed in different calls, so that a row's
    values never depend on the other rows of its batch. A batch that fails is halved
    until the rows at fault stand alone.

    Args:
      compiled: the compiled model and taps.
      batch: at most `compiled.batch_rows` rows.
      on_failure: called with each row that the model cannot compute.

    Yields:
      Batches of the rows that could be computed, in order, each with its values by
      column.

    Raises:
      tf.errors.OpError: the device failed, rather than a row.
    """
    groups = batch.by_shape()
    if len(groups) == 1:
        yield from _infer_even(compiled, batch, on_failure)
        return
    computed = [
        part
        for group in groups
        for part in _infer_even(compiled, batch.take(group), on_failure)
    ]
    if computed:
        yield _in_order(computed)


def _infer_even(
    compiled: FittingTaps, batch: Batch, on_failure: Callable[[Failure], None]
) -> Iterator[Computed]:
    """Compute rows whose inputs all have the same shapes."""

    def compute(rows: np.ndarray) -> Computed:
        part = batch if len(rows) == len(batch) else batch.take(rows)
        return part, compiled(part.even_inputs())

    def alone(row: int, error: Exception) -> None:
        at, passed = int(batch.positions[row]), batch.passed_of(row)
        on_failure(Failure.of(at, "infer", error, passed))

    yield from by_halves(len(batch), compute, read_errors(), alone)


def _in_order(parts: Sequence[Computed]) -> Computed:
    """Put computed rows back into the order of their positions."""
    batch = Batch.concatenate([part for part, _ in parts])
    order = np.argsort(batch.positions)
    columns = {
        name: take_rows(join_rows([columns[name] for _, columns in parts]), order)
        for name in parts[0][1]
    }
    return batch.take(order), columns
