"""Fit batches into the device's memory: compute fewer rows at a time if it runs out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from transforms.taps.compile import CompiledTaps
from transforms.usage import at_work
from transforms.values import Values

_log = logging.getLogger("featuretap")


class FittingTaps:
    """Compiled taps that compute fewer rows at a time once the device is out of memory.

    The smaller number holds for all threads of the process, as long as it lives.

    Attributes:
      batch_rows: rows in a batch as planned, which a call may be given whatever number
        of rows is computed at a time.
      computes_in_16_bits: whether some values on the way are float16 or bfloat16.
    """

    def __init__(
        self, compiled: CompiledTaps, compile_for: Callable[[int], CompiledTaps] | None
    ) -> None:
        """Start with whole batches.

        Args:
          compiled: the function for whole batches.
          compile_for: compiles the same function for fewer rows; None if the model
            has a fixed batch size.
        """
        self.batch_rows = compiled.batch_rows
        self.computes_in_16_bits = compiled.computes_in_16_bits
        self._compiled = compiled
        self._compile_for = compile_for
        self._lock = threading.Lock()

    @property
    def device_rows(self) -> int:
        """Number of rows that go through the device at a time, at present."""
        return self._compiled.batch_rows

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Values]:
        """Compute the columns of a batch, as `CompiledTaps` does.

        Raises:
          RuntimeError: the device has no room even for one row, or for the model's
            fixed batch.
        """
        import tensorflow as tf

        while True:
            compiled = self._compiled
            try:
                with at_work():
                    return compiled(inputs)
            except tf.errors.ResourceExhaustedError as error:
                self._halve(compiled, error)

    def _halve(self, failed: CompiledTaps, error: Exception) -> None:
        rows = failed.batch_rows
        if self._compile_for is None or rows == 1:
            what = "one row" if rows == 1 else f"the model's fixed batch of {rows} rows"
            raise RuntimeError(
                f"the device ran out of memory, even with {what} at a time; take a"
                " larger device, a lower model.precision, or fewer shards at once"
            ) from error
        with self._lock:
            if self._compiled is not failed:  # another thread was faster
                return
            self._compiled = self._compile_for(rows // 2)
        _log.warning(
            "out of device memory with %d rows at a time, going on with %d",
            rows,
            rows // 2,
        )
