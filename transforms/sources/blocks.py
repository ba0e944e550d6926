"""Turn blocks of rows that Python reads into tf.data datasets of examples."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.dtypes import Feature, null_name, tensor_specs
from transforms.shard import Piece, position
from transforms.sources.source import unconverted

if TYPE_CHECKING:
    import tensorflow as tf

_READ_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a piece.

    Attributes:
      rows: numbers of the rows, int64 `[rows]`, counted from the start of the piece,
        rising.
      values: `{feature: array [rows, ...]}`. Where the length of the first axis differs
        between rows, each row is filled up to the longest.
      lengths: `{feature: int64 [rows]}`, each row's own length, for just the features
        whose rows differ in length.
      faults: what is wrong with each row, an object array of text `[rows]`, empty text
        for sound rows. A bad row raises nothing while it is read: that would end the
        generator, and lose the rows after it.
    """

    rows: np.ndarray
    values: Mapping[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]
    faults: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice | np.ndarray) -> Block:
        return Block(
            self.rows[chosen],
            {name: array[chosen] for name, array in self.values.items()},
            {name: array[chosen] for name, array in self.lengths.items()},
            self.faults[chosen],
        )

    @classmethod
    def of_faults(
        cls, rows: np.ndarray, fault: str, features: Mapping[str, Feature]
    ) -> Block:
        """Make a block of rows that cannot be read, all for one reason.

        Args:
          rows: numbers of the rows within their piece, int64 `[rows]`.
          fault: what is wrong with them.
          features: the features that sound rows would have.
        """
        values, lengths = {}, {}
        for name, feature in features.items():
            values[name] = nothing(len(rows), feature)
            if feature.nullable:
                values[null_name(name)] = np.zeros(len(rows), bool)
            if None in feature.shape:
                lengths[name] = np.zeros(len(rows), np.int64)
        return cls(rows, values, lengths, np.full(len(rows), fault, object))


class Faults:
    """Rows that a dataset leaves out, and what is wrong with each.

    A dataset is read ahead of whoever takes its elements, so the rows are asked for up
    to a position.

    Attributes:
      broke_off: whether the dataset ended behind the last of them rather than at the
        end of its pieces.
    """

    def __init__(self, most: int) -> None:
        """Start with nothing.

        Args:
          most: so many rows may be left out one after the other. Behind them the
            dataset breaks off, so that they are heard of before all pieces are read.
        """
        self.broke_off = False
        self._most = most
        self._found: deque[tuple[int, str]] = deque()

    def before(self, position: int) -> Iterator[tuple[int, str]]:
        """Take the rows before a position, in order: positions and faults."""
        while self._found and self._found[0][0] < position:
            yield self._found.popleft()

    def leave_out(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Yield blocks of sound rows alone."""
        last = 0  # bad rows, with no sound one behind them
        for block in blocks:
            bad = block.faults != ""
            rows = zip(block.rows[bad].tolist(), block.faults[bad], strict=True)
            self._found.extend(rows)
            if bad.all():
                last += len(block)
            else:
                yield block[~bad] if bad.any() else block
                last = int(np.argmin(bad[::-1]))
            if last >= self._most:
                self.broke_off = True
                return


_left_out: ContextVar[Faults | None] = ContextVar("left_out", default=None)


@contextmanager
def leaving_out(most: int) -> Iterator[Faults]:
    """Make datasets of blocks that leave bad rows out instead of failing at them.

    Args:
      most: as `Faults` takes it.

    Yields:
      Where the rows can be heard of that the dataset made meanwhile leaves out.
    """
    faults = Faults(most)
    before = _left_out.set(faults)
    try:
        yield faults
    finally:
        _left_out.reset(before)


def nothing(rows: int, feature: Feature, longest: int = 1) -> np.ndarray:
    """Make zeros, empty text or a feature's fill for rows of it: `[rows, *shape]`.

    A length that differs between rows becomes `longest`, but at least 1: TensorFlow
    2.21 ends the process when it unbatches a tensor with an axis of length 0.
    """
    shape = [rows, *(max(longest, 1) if n is None else n for n in feature.shape)]
    kind = object if feature.tensor_dtype == "string" else feature.tensor_dtype
    return np.full(shape, feature.nothing, kind)


def dataset(
    pieces: Sequence[Piece],
    features: Mapping[str, Feature],
    batch_rows: int | None,
    read_piece: Callable[[Piece], Iterator[Block]],
    close: Callable[[], None] = lambda: None,
) -> tf.data.Dataset | Batches:
    """Make the dataset that a source's `read` returns.

    It fails at a bad row, and goes on with the next where elements are single examples.
    Within `leaving_out` it leaves the row out, and batches are `Batches`.

    Args:
      pieces: the rows to read.
      features: the features to read. For batches all of them must have a fixed shape.
      batch_rows: examples in an element, or None for single examples, as `Source.read`
        takes it.
      read_piece: yields the blocks of a piece, with exactly these features.
      close: called when reading has ended, also if it was broken off.
    """
    left_out = _left_out.get()

    def blocks() -> Iterator[Block]:
        numbered = _numbered(pieces, read_piece)
        if left_out:
            numbered = left_out.leave_out(numbered)
        try:
            yield from _of_size(numbered, batch_rows or _READ_ROWS, bool(batch_rows))
        finally:
            close()

    if left_out and batch_rows:
        return Batches(blocks, features)
    return _dataset(blocks, features, batched=bool(batch_rows))


class Batches:
    """A dataset of batches, of which whoever knows blocks can take the blocks.

    A dataset takes a twentieth of a second to begin, most of it to trace functions,
    which is more than a thousand rows of a small model. For a reader that goes on with
    `map` or another method this is the dataset, made when it is first used.
    """

    def __init__(
        self, blocks: Callable[[], Iterator[Block]], features: Mapping[str, Feature]
    ) -> None:
        self.blocks = blocks
        self._features = features

    @cached_property
    def _made(self) -> tf.data.Dataset:
        return _dataset(self.blocks, self._features, batched=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # which copy and pickle ask for
            raise AttributeError(name)
        return getattr(self._made, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._made)


def _dataset(
    blocks: Callable[[], Iterator[Block]],
    features: Mapping[str, Feature],
    *,
    batched: bool,
) -> tf.data.Dataset:
    import tensorflow as tf

    lengths = [name for name, feature in features.items() if None in feature.shape]
    signature = (
        tf.TensorSpec([None], tf.int64),
        tensor_specs(features, batched=True),
        {name: tf.TensorSpec([None], tf.int64) for name in lengths},
        tf.TensorSpec([None], tf.string),
    )

    def elements() -> Iterator[Any]:
        for block in blocks():
            yield block.rows, block.values, block.lengths, block.faults

    def checked(at: Any, example: Any, lengths: Any, fault: Any) -> tuple[Any, Any]:
        sound = tf.debugging.Assert(tf.reduce_all(fault == ""), [fault])
        with tf.control_dependencies([sound]):
            cut = {name: example[name][: lengths[name]] for name in lengths}
            return tf.identity(at), {**example, **cut}

    made = tf.data.Dataset.from_generator(elements, output_signature=signature)
    return (made if batched else made.unbatch()).map(unconverted(checked))


def _numbered(
    pieces: Sequence[Piece], read_piece: Callable[[Piece], Iterator[Block]]
) -> Iterator[Block]:
    for index, piece in enumerate(pieces):
        for b in read_piece(piece):
            yield Block(b.rows + position(index), b.values, b.lengths, b.faults)


def _of_size(blocks: Iterator[Block], rows: int, exactly: bool) -> Iterator[Block]:
    """Cut blocks into ones of at most `rows` rows.

    With `exactly` small blocks are joined, so that only the last has fewer rows.
    """
    waiting: list[Block] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        while count >= rows or (count and not exactly):
            whole = _join(waiting) if len(waiting) > 1 else waiting[0]
            yield whole[:rows]
            waiting, count = [whole[rows:]], max(count - rows, 0)
        if not exactly:
            waiting = []
    if count:
        yield _join(waiting)


def _join(blocks: Sequence[Block]) -> Block:
    """Concatenate blocks whose features all have fixed shapes."""
    names = blocks[0].values
    return Block(
        np.concatenate([block.rows for block in blocks]),
        {name: np.concatenate([b.values[name] for b in blocks]) for name in names},
        {},
        np.concatenate([block.faults for block in blocks]),
    )
