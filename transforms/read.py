"""Turn a shard into batches of model inputs, row by row where rows are bad.

Batches normally come from a fast tf.data pipeline. When it fails, the next batch of
rows is read and preprocessed row by row, and a new fast pipeline takes over behind it.
So a bad row costs time around it, and never its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from transforms import device
from transforms.preprocess import Step, apply_to_batch, apply_to_example, split_steps
from transforms.shard import Piece, Shard
from transforms.sources import Feature, Source

_PREFETCH_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go through the model together.

    Attributes:
      positions: int64 `[rows]`, counted from the start of the shard.
      inputs: features after preprocessing, `{name: tensor [rows, ...]}`.
      passed: features for the table, `{name: tensor [rows, ...]}`.
    """

    positions: np.ndarray
    inputs: Mapping[str, Any]
    passed: Mapping[str, Any]

    def take(self, chosen: np.ndarray) -> Batch:
        """Keep some rows, by index."""
        import tensorflow as tf

        return Batch(
            self.positions[chosen],
            {name: tf.gather(value, chosen) for name, value in self.inputs.items()},
            {name: tf.gather(value, chosen) for name, value in self.passed.items()},
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that failed.

    Attributes:
      position: counted from the start of the shard.
      stage: `read`, `preprocess`, `infer` or `encode`.
      error: what was raised.
      passed: features for the table as far as they are known, `{name: tensor [...]}`.
      rest_lost: whether an unknown number of rows behind it cannot be read either.
    """

    position: int
    stage: str
    error: Exception
    passed: Mapping[str, Any] = field(default_factory=dict)
    rest_lost: bool = False


@dataclass(frozen=True)
class InputPipeline:
    """Everything between stored bytes and model inputs.

    Attributes:
      source: where the rows are.
      features: what to read of each example.
      steps: preprocessing, in order.
      inputs: features that the model takes, with their shapes without batch.
      passed: features for the table; as read where the source has them, else as
        preprocessing made them.
      batch_rows: rows in a full batch.
    """

    source: Source
    features: Mapping[str, Feature]
    steps: Sequence[Step]
    inputs: Mapping[str, tuple[int, ...]]
    passed: Sequence[str]
    batch_rows: int

    def batches(
        self, shard: Shard, on_failure: Callable[[Failure], None]
    ) -> Iterator[Batch]:
        """Read a shard.

        Args:
          shard: what to read.
          on_failure: called with each row that cannot be read or preprocessed.

        Yields:
          Batches of `batch_rows` rows in order; fewer at the end and around bad rows.

        Raises:
          OSError, tf.errors.OpError: the storage failed, rather than a row.
        """
        position = 0
        while True:
            position, finished = yield from self._fast(shard, position)
            if finished:
                return
            position, finished = yield from self._careful(shard, position, on_failure)
            if finished:
                return

    def _fast(
        self, shard: Shard, position: int
    ) -> Generator[Batch, None, tuple[int, bool]]:
        """Yield batches up to the first that fails or leaves out a row."""
        pieces = _pieces_from(shard, position)
        if not pieces:
            return position, True
        first = position
        iterator = iter(self._dataset(pieces))
        while True:
            try:
                element = next(iterator, None)
            except preprocess_errors():
                return position, False
            if element is None:
                return position, shard.rows in (None, position)
            batch = _batch(element, first)
            expected = np.arange(position, position + len(batch.positions))
            if not np.array_equal(batch.positions, expected):
                return position, False
            yield batch
            position += len(batch.positions)

    def _careful(
        self, shard: Shard, position: int, on_failure: Callable[[Failure], None]
    ) -> Generator[Batch, None, tuple[int, bool]]:
        """Yield the sound ones of the next `batch_rows` rows as one batch."""
        rows = list(itertools.islice(self._outcomes(shard, position), self.batch_rows))
        failures = [row for row in rows if isinstance(row, Failure)]
        for failure in failures:
            on_failure(failure)
        if len(failures) < len(rows):
            yield _stack([row for row in rows if isinstance(row, Batch)])
        finished = len(rows) < self.batch_rows or any(f.rest_lost for f in failures)
        return position + len(rows), finished

    def _outcomes(self, shard: Shard, position: int) -> Iterator[Batch | Failure]:
        """Yield for each row from `position` on a batch of one, or how it failed."""
        for piece in _pieces_from(shard, position):
            end = None if piece.rows is None else position + piece.rows
            examples = self.source.read([piece], self.features, None)
            iterator = iter(examples.with_options(_options()))
            first, last_error = position, None
            while end is None or position < end:
                try:
                    element = next(iterator, None)
                except read_errors() as error:
                    lost = end is None and _lost(error)
                    yield Failure(position, "read", error, rest_lost=lost)
                    position, last_error = position + 1, error
                    if lost:
                        break
                    continue
                if element is None:
                    break
                found = first + int(element[0])
                for missing in range(position, found):
                    yield Failure(missing, "read", last_error or _too_short(piece))
                yield self._prepare_one(found, element[1])
                position = found + 1
            for missing in range(position, end or position):
                yield Failure(missing, "read", last_error or _too_short(piece))
            position = max(position, end or position)

    def _prepare_one(
        self, position: int, example: Mapping[str, Any]
    ) -> Batch | Failure:
        import tensorflow as tf

        try:
            inputs, passed = self._prepare(dict(example))
        except preprocess_errors() as error:
            known = {name: example[name] for name in self.passed if name in example}
            return Failure(position, "preprocess", error, known)
        return Batch(
            np.array([position]),
            {name: tf.expand_dims(value, 0) for name, value in inputs.items()},
            {name: tf.expand_dims(value, 0) for name, value in passed.items()},
        )

    @cached_property
    def _prepare(self) -> Any:
        """Preprocessing of one example as one graph function: `(inputs, passed)`."""
        import tensorflow as tf

        @tf.autograph.experimental.do_not_convert
        def body(example: dict[str, Any]) -> Any:
            done = apply_to_example(self.steps, example)
            return self._chosen(done, example, batched=False)

        spec = {
            name: tf.TensorSpec(feature.shape, feature.tensor_dtype)
            for name, feature in self.features.items()
        }
        return tf.function(body, input_signature=[spec])

    def _dataset(self, pieces: Sequence[Piece]) -> Any:
        """Give the fast pipeline: elements `(positions, (inputs, passed))`, batched."""
        import tensorflow as tf

        unconverted = tf.autograph.experimental.do_not_convert
        threads = device.reader_threads()
        parallel = threads if threads > 1 else None
        example_steps, batch_steps = split_steps(self.steps)

        @unconverted
        def per_example(position: Any, example: Any) -> Any:
            read = {name: example[name] for name in self.passed if name in example}
            return position, apply_to_example(example_steps, example), read

        @unconverted
        def per_batch(position: Any, features: Any, read: Any) -> Any:
            done = apply_to_batch(batch_steps, features)
            return position, self._chosen(done, read, batched=True)

        @unconverted
        def wholly_per_example(position: Any, example: Any) -> Any:
            done = apply_to_example(self.steps, example)
            return position, self._chosen(done, example, batched=False)

        uniform = all(None not in feature.shape for feature in self.features.values())
        if uniform and not example_steps:
            read = self.source.read(pieces, self.features, self.batch_rows)
            ready = read.map(
                unconverted(lambda position, batch: per_batch(position, batch, batch)),
                parallel,
            )
        else:
            read = self.source.read(pieces, self.features, None)
            examples = read.map(per_example, parallel)
            if _stackable(examples.element_spec):
                ready = examples.batch(self.batch_rows).map(per_batch, parallel)
            else:
                ready = read.map(wholly_per_example, parallel).batch(self.batch_rows)
        return ready.prefetch(_PREFETCH_BATCHES).with_options(_options())

    def _chosen(self, done: Any, read: Any, *, batched: bool) -> tuple[Any, Any]:
        """Keep what the model and the table take: `(inputs, passed)`."""
        import tensorflow as tf

        lead = [None] if batched else []
        inputs = {
            name: tf.ensure_shape(done[name], [*lead, *shape])
            for name, shape in self.inputs.items()
        }
        passed = {
            name: read[name] if name in read else done[name] for name in self.passed
        }
        return inputs, passed


def read_errors() -> tuple[type[Exception], ...]:
    """Exceptions of a reader that speak of a row, not of the storage."""
    import tensorflow as tf

    return (tf.errors.InvalidArgumentError, tf.errors.DataLossError)


def preprocess_errors() -> tuple[type[Exception], ...]:
    """Exceptions of preprocessing that speak of a row; users' Python may raise any."""
    import tensorflow as tf

    return (*read_errors(), tf.errors.UnknownError)


def _lost(error: Exception) -> bool:
    """Whether a file of unknown length cannot be read on after this error."""
    import tensorflow as tf

    return isinstance(error, tf.errors.DataLossError)


def _too_short(piece: Piece) -> Exception:
    return EOFError(f"{piece.file} holds fewer rows than planned")


def _pieces_from(shard: Shard, position: int) -> list[Piece]:
    """Cut off the rows of a shard before a position."""
    pieces = []
    for piece in shard.pieces:
        skipped = position if piece.rows is None else min(position, piece.rows)
        position -= skipped
        rest = None if piece.rows is None else piece.rows - skipped
        if rest != 0:
            pieces.append(replace(piece, start=piece.start + skipped, rows=rest))
    return pieces


def _batch(element: Any, first: int) -> Batch:
    positions, (inputs, passed) = element
    return Batch(first + positions.numpy(), inputs, passed)


def _stack(ones: Sequence[Batch]) -> Batch:
    import tensorflow as tf

    def stack(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
        return {name: tf.concat([p[name] for p in parts], 0) for name in parts[0]}

    return Batch(
        np.concatenate([one.positions for one in ones]),
        stack([one.inputs for one in ones]),
        stack([one.passed for one in ones]),
    )


def _stackable(spec: Any) -> bool:
    import tensorflow as tf

    return all(part.shape.is_fully_defined() for part in tf.nest.flatten(spec))


def _options() -> Any:
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.deterministic = True
    options.threading.private_threadpool_size = device.reader_threads()
    return options
