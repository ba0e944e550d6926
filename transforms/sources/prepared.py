"""Turn features that were read into model inputs, as traced functions.

Batches and single rows go through the same steps; `transforms.sources.batches` and
`transforms.sources.rows` call them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from transforms import device
from transforms.batch import Batch, Uneven
from transforms.casts import fitting
from transforms.dtypes import Feature, tensor_specs
from transforms.errors.failure import Failure
from transforms.errors.stages import preprocess_errors
from transforms.preprocess.steps import (
    Step,
    apply_to_batch,
    apply_to_example,
    split_steps,
)
from transforms.sources.blocks import Block
from transforms.sources.source import traced_once, unconverted

_FORGETFUL = {"Assert", "Case", "If", "StatefulPartitionedCall", "While"}
"""Operations that TensorFlow calls stateful and that remember nothing themselves."""


@dataclass(frozen=True)
class Preparation:
    """Preprocessing of one table's examples, traced once for each process.

    Attributes:
      features: the features that are read of each example.
      steps: the preprocessing steps, in order.
      inputs: the features that the model takes, with their shapes without the batch
        axis; None for lengths that differ between rows.
      fits: `{feature: types}` that a model input takes, and that must be able to hold
        the feature, as `transforms.casts` says; the model casts it on its device.
      passed: names of the features that go to the table; as read where the source has
        them, else as preprocessing made them.
    """

    features: Mapping[str, Feature]
    steps: Sequence[Step]
    inputs: Mapping[str, tuple[int | None, ...]]
    fits: Mapping[str, Sequence[str]]
    passed: Sequence[str]

    def one(self, at: int, example: Mapping[str, Any]) -> Batch | Failure:
        """Prepare one example.

        Args:
          at: its position in the shard.
          example: `{feature: tensor [...]}`.

        Returns:
          A batch of one row, or the failure of that row.
        """
        import tensorflow as tf

        try:
            inputs, passed = self.example(dict(example))
        except preprocess_errors() as error:
            known = {name: example[name] for name in self.passed if name in example}
            return Failure.of(at, "preprocess", error, known)
        uneven = self._uneven

        def alone(name: str, value: Any) -> Any:
            one = tf.expand_dims(value, 0)
            return Uneven(one, np.array([value.shape])) if name in uneven else one

        return Batch(
            np.array([at]),
            {name: alone(name, value) for name, value in inputs.items()},
            {name: alone(name, value) for name, value in passed.items()},
        )

    @cached_property
    def example(self) -> Any:
        """One graph function of all steps: from an example to `(inputs, passed)`."""

        def body(example: dict[str, Any]) -> Any:
            done = apply_to_example(self.steps, example)
            return self._chosen(done, example, batched=False)

        return self._traced(body)

    def batches_of(self, blocks: Iterable[Block]) -> Iterator[tuple[np.ndarray, Any]]:
        """Prepare blocks of sound rows as batches, in this thread.

        Args:
          blocks: with these features.

        Yields:
          `(positions, (inputs, passed))`, as `batches` does.

        Raises:
          tf.errors.OpError: a step fails.
        """
        import tensorflow as tf

        specs = tensor_specs(self.features, batched=True)
        for block in blocks:
            self._check_given(block.values)
            tensors = {
                name: tf.constant(block.values[name], spec.dtype)
                for name, spec in specs.items()
            }
            yield block.rows, self._any_batch(tensors, tensors)

    def batches(self, read: Any, batch_rows: int, *, batched: bool) -> Any:
        """Prepare a dataset of examples and put them into batches.

        Args:
          read: dataset of `(position, {feature: tensor})`.
          batch_rows: rows in a batch.
          batched: whether the elements of `read` are batches already.

        Returns:
          A dataset of `(positions, (inputs, passed))`. A feature whose shape differs
          between rows is a pair `(values, shapes)`, as in `Uneven`.
        """
        self._check_given(read.element_spec[1])
        threads = device.reader_threads()
        parallel = threads if threads > 1 else None

        def build(read: Any) -> Any:
            if batched:
                return read.map(self._whole_batch, parallel)
            examples = read.map(self._example_part, parallel)
            if _stackable(examples.element_spec):
                return examples.batch(batch_rows).map(self._batch_part, parallel)
            prepared = read.map(self._whole_example, parallel)
            return _batch_uneven(prepared, batch_rows)

        key = batch_rows, batched, parallel
        return traced_once(self, key, build)(read)

    def _check_given(self, given: Collection[str]) -> None:
        """See that a reader gives what it was asked for.

        Raises:
          RuntimeError: it leaves something out.
        """
        missing = tensor_specs(self.features).keys() - set(given)
        if missing:
            name = min(missing).partition("\0")[0]
            raise RuntimeError(
                f"a reader must give every feature that it is asked for, {name!r} or"
                " the flag of its nulls (transforms.dtypes.null_name) is missing; a"
                " feature without nulls is described with nullable=False"
            )

    @cached_property
    def takes_batches(self) -> bool:
        """Whether all steps work on batches, and all features can be stacked."""
        even = all(None not in feature.shape for feature in self.features.values())
        return even and not self._split[0]

    @cached_property
    def _split(self) -> tuple[list[Step], list[Step]]:
        """The steps that see one example, and those that see a batch."""
        return split_steps(self.steps)

    @property
    def _whole_batch(self) -> Any:
        return unconverted(lambda at, batch: (at, self._batch(batch, batch)))

    @property
    def _whole_example(self) -> Any:
        return unconverted(lambda at, example: (at, self.example(example)))

    @property
    def _example_part(self) -> Any:
        def part(at: Any, example: Any) -> Any:
            read = {name: example[name] for name in self.passed if name in example}
            return at, self._example_steps(example), read

        return unconverted(part)

    @property
    def _batch_part(self) -> Any:
        return unconverted(lambda at, batch, read: (at, self._batch(batch, read)))

    @cached_property
    def _batch(self) -> Any:
        """One graph function of the steps that see a batch.

        From `{feature: tensor}`, as earlier steps left them, and the features as they
        were read, to `(inputs, passed)`.
        """
        import tensorflow as tf

        def body(features: dict[str, Any], read: dict[str, Any]) -> Any:
            done = apply_to_batch(self._split[1], features)
            return self._chosen(done, read, batched=True)

        return tf.function(unconverted(body))

    @cached_property
    def keeps_state(self) -> bool:
        """Whether steps that see a batch draw random numbers, or may remember more."""
        from tensorflow.python.framework import op_def_registry

        graph = self._any_batch.graph.as_graph_def()
        nodes = [
            graph.node,
            *(function.node_def for function in graph.library.function),
        ]
        operations = {node.op for some in nodes for node in some} - _FORGETFUL
        known = [op_def_registry.get(op) for op in operations]
        return any(one is None or one.is_stateful for one in known)

    @cached_property
    def _any_batch(self) -> Any:
        """The same for features as they are read, for any number of rows."""
        specs = tensor_specs(self.features, batched=True)
        return self._batch.get_concrete_function(specs, specs)

    @cached_property
    def _example_steps(self) -> Any:
        """One graph function of the steps that see one example.

        It is traced once, since a decoder of images takes longer to trace than to run
        on a small shard.
        """
        steps = self._split[0]
        return self._traced(lambda example: apply_to_example(steps, example))

    @cached_property
    def _uneven(self) -> set[str]:
        """Names of the features whose shape differs between rows when prepared."""
        inputs, passed = self.example.structured_outputs
        return {
            name
            for specs in (inputs, passed)
            for name, spec in specs.items()
            if not spec.shape.is_fully_defined()
        }

    def _traced(self, body: Callable[[dict[str, Any]], Any]) -> Any:
        import tensorflow as tf

        function = tf.function(unconverted(body))
        return function.get_concrete_function(tensor_specs(self.features))

    def _chosen(self, done: Any, read: Any, *, batched: bool) -> tuple[Any, Any]:
        """Keep the features that the model and the table take: `(inputs, passed)`."""
        import tensorflow as tf

        lead = [None] if batched else []
        inputs = {
            name: tf.ensure_shape(self._fitting(name, done[name]), [*lead, *shape])
            for name, shape in self.inputs.items()
        }
        passed = {
            name: read[name] if name in read else done[name] for name in self.passed
        }
        return inputs, passed

    def _fitting(self, name: str, values: Any) -> Any:
        """See that the model's inputs can hold a feature."""
        for dtype in self.fits.get(name, ()):
            values = fitting(values, dtype, f"feature {name!r}, a model input,")
        return values


def _batch_uneven(examples: Any, rows: int) -> Any:
    """Batch examples; features whose shape differs become pairs `(values, shapes)`."""
    import tensorflow as tf

    spec = examples.element_spec[1]

    def shaped(at: Any, chosen: Any) -> Any:
        return at, tf.nest.map_structure(
            lambda value, known: (
                value
                if known.shape.is_fully_defined()
                else (value, tf.shape(value, tf.int64))
            ),
            chosen,
            spec,
        )

    if _stackable(spec):
        return examples.batch(rows)
    return examples.map(unconverted(shaped)).padded_batch(rows)


def _stackable(spec: Any) -> bool:
    import tensorflow as tf

    return all(part.shape.is_fully_defined() for part in tf.nest.flatten(spec))
