"""Hold the rows that pass from stage to stage inside a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Uneven:
    """Rows of one feature whose shapes differ, each filled up to the largest.

    Attributes:
      values: tensor `[rows, *largest]`; values outside of a row's own shape have no
        meaning.
      shapes: each row's own shape, int64 `[rows, rank]`.
    """

    values: Any
    shapes: np.ndarray

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, row: int) -> Any:
        return self.values[row][tuple(slice(n) for n in self.shapes[row])]

    def take(self, chosen: np.ndarray) -> Uneven:
        """Keep some rows, by index."""
        import tensorflow as tf

        return Uneven(tf.gather(self.values, chosen), self.shapes[chosen])

    def even(self) -> Any:
        """Give a tensor of rows that all have the shape of the first."""
        return self.values[:, *(slice(int(n)) for n in self.shapes[0])]

    @classmethod
    def concatenate(cls, parts: Sequence[Uneven]) -> Uneven:
        """Concatenate the rows of several parts, filled up to one largest shape."""
        import tensorflow as tf

        largest = np.max([part.values.shape.as_list()[1:] for part in parts], axis=0)
        filled = []
        for part in parts:
            room = largest - np.array(part.values.shape.as_list()[1:])
            margins = [[0, 0], *([0, int(n)] for n in room)]
            nothing = tf.zeros([], part.values.dtype)
            filled.append(tf.pad(part.values, margins, constant_values=nothing))
        shapes = np.concatenate([part.shapes for part in parts])
        return cls(tf.concat(filled, 0), shapes)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go through the model together.

    Attributes:
      positions: position of each row in its shard (`transforms.shard.position`), int64
        `[rows]`, rising.
      inputs: features after preprocessing, which the model takes: `{name: tensor
        [rows, ...]}`, or `Uneven` where rows differ in shape.
      passed: features that go to the table without the model, in the same form.
    """

    positions: np.ndarray
    inputs: Mapping[str, Any]
    passed: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.positions)

    def passed_of(self, row: int) -> dict[str, Any]:
        """Give one row's features for the table, `{name: tensor [...]}`."""
        return {name: values[row] for name, values in self.passed.items()}

    def take(self, chosen: np.ndarray) -> Batch:
        """Keep some rows, by index."""

        def rows(values: Any) -> Any:
            import tensorflow as tf

            if isinstance(values, Uneven):
                return values.take(chosen)
            return tf.gather(values, chosen)

        return Batch(
            self.positions[chosen],
            {name: rows(values) for name, values in self.inputs.items()},
            {name: rows(values) for name, values in self.passed.items()},
        )

    def by_shape(self) -> list[np.ndarray]:
        """Group the rows by the shapes of their inputs; give each group's indexes."""
        shapes = [v.shapes for v in self.inputs.values() if isinstance(v, Uneven)]
        if not shapes:
            return [np.arange(len(self))]
        _, group = np.unique(np.concatenate(shapes, 1), axis=0, return_inverse=True)
        return [np.flatnonzero(group == g) for g in range(int(group.max()) + 1)]

    def even_inputs(self) -> dict[str, Any]:
        """Give the inputs as tensors; all rows must have the same shapes."""
        return {
            name: values.even() if isinstance(values, Uneven) else values
            for name, values in self.inputs.items()
        }

    @classmethod
    def concatenate(cls, batches: Sequence[Batch]) -> Batch:
        """Concatenate the rows of several batches."""
        import tensorflow as tf

        def join(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            return {
                name: Uneven.concatenate([part[name] for part in parts])
                if isinstance(values, Uneven)
                else tf.concat([part[name] for part in parts], 0)
                for name, values in parts[0].items()
            }

        return cls(
            np.concatenate([batch.positions for batch in batches]),
            join([batch.inputs for batch in batches]),
            join([batch.passed for batch in batches]),
        )


@dataclass(frozen=True, slots=True)
class Extracted:
    """Finished rows of the table.

    Attributes:
      rows: the rows, in the table's schema.
      positions: positions in the shard of all rows that the model computed, int64;
        also of those that were set apart afterwards and are not in `rows`.
      non_finite: `{column: number of rows with NaN or infinite values}`.
    """

    rows: pa.RecordBatch
    positions: np.ndarray
    non_finite: Mapping[str, int]
