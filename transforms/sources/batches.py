"""Turn a shard into batches of model inputs, row by row where rows are bad.

Batches normally come from a fast tf.data pipeline. When it fails, the next batch of
rows is read and preprocessed row by row, and a new fast pipeline takes over behind it.
So a bad row costs time around it, and never its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from transforms import device
from transforms.batch import Batch, Uneven
from transforms.dtypes import Feature
from transforms.errors.failure import Failure
from transforms.errors.stages import preprocess_errors, read_errors
from transforms.preprocess.steps import (
    Step,
    apply_to_batch,
    apply_to_example,
    split_steps,
)
from transforms.shard import Piece, position
from transforms.sources.positions import (
    are_gapless,
    next_position,
    nothing_between,
    piece_and_row,
    pieces_from,
    positions_between,
    shard_positions,
)
from transforms.sources.source import REST_LOST, Source

_PREFETCH_BATCHES = 2


@dataclass(frozen=True)
class InputPipeline:
    """Everything between stored bytes and model inputs.

    Attributes:
      source: where the rows are.
      features: what to read of each example.
      steps: preprocessing, in order.
      inputs: features that the model takes, with their shapes without batch; None for
        lengths that differ between rows.
      passed: features for the table; as read where the source has them, else as
        preprocessing made them.
      batch_rows: rows in a full batch.
    """

    source: Source
    features: Mapping[str, Feature]
    steps: Sequence[Step]
    inputs: Mapping[str, tuple[int | None, ...]]
    passed: Sequence[str]
    batch_rows: int

    def batches(
        self,
        pieces: Sequence[Piece],
        on_failure: Callable[[Failure], None],
        at: int = 0,
    ) -> Iterator[Batch]:
        """Read the pieces of a shard.

        Args:
          pieces: what to read, where the source can open it.
          on_failure: called with each row that cannot be read or preprocessed.
          at: position to begin at.

        Yields:
          Batches of `batch_rows` rows in order; fewer at the end and around bad rows.

        Raises:
          OSError, tf.errors.OpError: the storage failed, rather than a row.
        """
        while True:
            at, finished = yield from self._fast(pieces, at)
            if finished:
                return
            at, finished = yield from self._careful(pieces, at, on_failure)
            if finished:
                return

    def one_by_one(
        self,
        pieces: Sequence[Piece],
        at: int,
        about_to: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Batch | Failure]:
        """Read rows from a position on by themselves, as slow as that is.

        Pieces that do not know their rows are read one at a time: an error between two
        of them could be that of either.

        Args:
          pieces: what to read, where the source can open it.
          at: position to begin at.
          about_to: called with each position before anything is done with its row.

        Yields:
          Batches of one row, or how it failed.
        """
        while rest := pieces_from(pieces, at):
            index = piece_and_row(pieces, at)[0]
            known = list(
                itertools.takewhile(lambda piece: piece.rows is not None, rest)
            )
            last = position(index + max(len(known), 1))
            for outcome in self._outcomes_until(
                pieces, known or rest[:1], at, last, about_to
            ):
                yield outcome
                at = (
                    int(outcome.positions[0]) + 1
                    if isinstance(outcome, Batch)
                    else next_position(outcome)
                )
            if not known:
                at = last

    def _fast(
        self, pieces: Sequence[Piece], at: int
    ) -> Generator[Batch, None, tuple[int, bool]]:
        """Yield batches up to the first that fails or leaves out a row."""
        rest = pieces_from(pieces, at)
        if not rest:
            return at, True
        first = at = position(*piece_and_row(pieces, at))
        iterator = iter(self._dataset(rest))
        while True:
            try:
                element = next(iterator, None)
            except preprocess_errors():
                return at, False
            if element is None:
                return at, nothing_between(pieces, at, position(len(pieces)))
            batch = _batch(element, first)
            if not are_gapless(pieces, at, batch.positions):
                return at, False
            yield batch
            at = int(batch.positions[-1]) + 1

    def _careful(
        self, pieces: Sequence[Piece], at: int, on_failure: Callable[[Failure], None]
    ) -> Generator[Batch, None, tuple[int, bool]]:
        """Yield the sound ones of the next `batch_rows` rows as one batch."""
        rows = list(itertools.islice(self.one_by_one(pieces, at), self.batch_rows))
        sound: list[Batch] = []
        for row in rows:
            if isinstance(row, Batch):
                sound.append(row)
                at = int(row.positions[0]) + 1
            else:
                on_failure(row)
                at = next_position(row)
        if sound:
            yield Batch.concatenate(sound)
        return at, len(rows) < self.batch_rows

    def _outcomes_until(
        self,
        pieces: Sequence[Piece],
        some: Sequence[Piece],
        at: int,
        last: int,
        about_to: Callable[[int], None],
    ) -> Iterator[Batch | Failure]:
        """Yield outcomes of `some` pieces, which begin at a position.

        They stop where the reader breaks off, at the end of the piece in which it does.
        """
        first, error = position(*piece_and_row(pieces, at)), None
        about_to(first)
        examples = self.source.read(some, self.features, None)
        iterator = iter(examples.with_options(_options()))
        while True:
            at = position(*piece_and_row(pieces, at))
            if at < last:
                about_to(at)
            try:
                element = next(iterator, None)
            except read_errors() as raised:
                error = raised
                if nothing_between(pieces, at, last) and some[0].rows is not None:
                    return
                lost = some[0].rows is None and _lost(error)
                yield Failure(at, "read", error, rest_lost=lost)
                if lost:
                    return
                at += 1
                continue
            found = (
                last
                if element is None
                else int(shard_positions(element[0].numpy(), first))
            )
            if element is None and error:
                found = min(last, position(piece_and_row(pieces, at)[0] + 1))
            for missing in positions_between(pieces, at, found):
                reason = error or _too_short(pieces[piece_and_row(pieces, missing)[0]])
                yield Failure(missing, "read", reason)
            if element is None:
                return
            yield self._prepare_one(found, element[1])
            at, error = found + 1, None

    def _prepare_one(self, at: int, example: Mapping[str, Any]) -> Batch | Failure:
        import tensorflow as tf

        try:
            inputs, passed = self._prepare(dict(example))
        except preprocess_errors() as error:
            known = {name: example[name] for name in self.passed if name in example}
            return Failure(at, "preprocess", error, known)
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
    def _uneven(self) -> set[str]:
        """Names of what comes out of preprocessing in a shape that rows differ in."""
        inputs, passed = self._prepare.structured_outputs
        return {
            name
            for specs in (inputs, passed)
            for name, spec in specs.items()
            if not spec.shape.is_fully_defined()
        }

    @cached_property
    def _prepare(self) -> Any:
        """Preprocessing of one example as one graph function: `(inputs, passed)`."""

        def body(example: dict[str, Any]) -> Any:
            done = apply_to_example(self.steps, example)
            return self._chosen(done, example, batched=False)

        return self._traced(body)

    @cached_property
    def _example_steps(self) -> Any:
        """The steps that see one example as one graph function.

        Traced once, since a decoder of images takes longer to trace than to run on a
        small shard.
        """
        steps = split_steps(self.steps)[0]
        return self._traced(lambda example: apply_to_example(steps, example))

    def _traced(self, body: Callable[[dict[str, Any]], Any]) -> Any:
        import tensorflow as tf

        spec = {
            name: tf.TensorSpec(feature.shape, feature.tensor_dtype)
            for name, feature in self.features.items()
        }
        unconverted = tf.autograph.experimental.do_not_convert(body)
        return tf.function(unconverted).get_concrete_function(spec)

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
            return position, self._example_steps(example), read

        @unconverted
        def per_batch(position: Any, features: Any, read: Any) -> Any:
            done = apply_to_batch(batch_steps, features)
            return position, self._chosen(done, read, batched=True)

        @unconverted
        def wholly_per_example(position: Any, example: Any) -> Any:
            return position, self._prepare(example)

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
                prepared = read.map(wholly_per_example, parallel)
                ready = _batch_uneven(prepared, self.batch_rows)
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


def _batch(element: Any, first: int) -> Batch:
    positions, (inputs, passed) = element

    def values(found: Any) -> Any:
        return Uneven(found[0], found[1].numpy()) if isinstance(found, tuple) else found

    return Batch(
        shard_positions(positions.numpy(), first),
        {name: values(found) for name, found in inputs.items()},
        {name: values(found) for name, found in passed.items()},
    )


def _batch_uneven(examples: Any, rows: int) -> Any:
    """Batch examples; what differs in shape becomes `(values, shapes)`."""
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
    return examples.map(shaped).padded_batch(rows)


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


def _lost(error: Exception) -> bool:
    """Whether a file of unknown length cannot be read on after this error."""
    import tensorflow as tf

    return isinstance(error, tf.errors.DataLossError) or REST_LOST in str(error)


def _too_short(piece: Piece) -> Exception:
    return EOFError(f"{piece.name} holds fewer rows than planned")
