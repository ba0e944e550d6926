"""Find the batch axis of activations for which tracing cannot: run made-up rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from transforms.errors.halving import by_halves
from transforms.models.inputs import Shape
from transforms.models.model import Model
from transforms.taps.trace import is_ragged, trace_model

Result = TypeVar("Result")
UNSURE = "has a first axis of which one cannot tell whether it is the batch"
_PROBE_ROWS = (2, 3)
_MADE_UP_LENGTH = 32
_MADE_UP_WORDS = 8


def probe_shapes(model: Model, addresses: Sequence[str]) -> dict[str, Shape]:
    """Find the shape without batch of each tensor whose first axis is the batch.

    The model runs on two and on three made-up rows: an axis of length 2, then 3, is the
    batch. If tracing does not even know the rank, a length that is the same both times
    is taken for fixed.

    Returns:
      `{address: shape without batch}`; other addresses are left out.
    """
    few, more = (_measure(model, addresses, rows) for rows in _PROBE_ROWS)
    shapes: dict[str, Shape] = {}
    for address in addresses:
        if address not in few or address not in more:
            continue
        (two, static), (three, _) = few[address], more[address]
        if (two[0], three[0]) != _PROBE_ROWS or len(two) != len(three):
            continue
        same = (a if a == b and a else None for a, b in zip(two, three, strict=True))
        shapes[address] = tuple(same if static is None else static)[1:]
    return shapes


def _measure(
    model: Model, addresses: Sequence[str], rows: int
) -> dict[str, tuple[list[int], Shape | None]]:
    """Run the model on made-up rows, and measure the shapes of some tensors.

    Returns:
      `{address: (measured shape, shape that tracing knows or None)}`; addresses that
      cannot be computed are left out.
    """
    import tensorflow as tf

    static: dict[str, Shape | None] = {}

    def measure(some: Sequence[str]) -> dict[str, tuple[list[int], Shape | None]]:
        def body(inputs: Any) -> list[Any]:
            values = model.form.find(model.tensors(inputs), some)
            for address, value in zip(some, values, strict=True):
                rank = value.shape.rank
                static[address] = None if rank is None else tuple(value.shape.as_list())
            return [v.nrows()[None] if is_ragged(v) else tf.shape(v) for v in values]

        measured = trace_model(model, rows, body)(made_up(model, rows, seed=rows))
        return {
            address: ([int(n) for n in lengths.numpy()], static[address])
            for address, lengths in zip(some, measured, strict=True)
        }

    return _of_halves(addresses, measure, lambda address: {})


def _of_halves(
    addresses: Sequence[str],
    function: Callable[[Sequence[str]], dict[str, Result]],
    alone: Callable[[str], dict[str, Result]],
) -> dict[str, Result]:
    """Call a function of addresses, and where it fails with each half of them.

    Made-up rows may be invalid for a part of a model, which must not hide the rest.

    Args:
      addresses: the addresses to call it with.
      function: gives `{address: result}`, or raises tf.errors.OpError.
      alone: gives the same for an address with which the function fails alone.
    """
    import tensorflow as tf

    found: dict[str, Result] = {}
    for part in by_halves(
        len(addresses),
        lambda chosen: function([addresses[i] for i in chosen]),
        (tf.errors.OpError,),
        lambda index, error: alone(addresses[index]),
    ):
        found |= part
    return found


def made_up(model: Model, rows: int, seed: int) -> dict[str, Any]:
    """Make up a batch of inputs: small numbers of both signs, or words of letters.

    The first texts of a batch differ in their number of words.
    """
    import tensorflow as tf

    random = np.random.default_rng(seed)
    examples = {}
    for i in model.inputs:
        shape = (rows, *(_MADE_UP_LENGTH if n is None else n for n in i.shape))
        if i.feature_dtype == "string":
            letters = random.integers(97, 123, (rows, _MADE_UP_WORDS)).astype(np.uint8)
            words = np.array(
                [
                    b" ".join(map(bytes, row[: 1 + n % _MADE_UP_WORDS, None]))
                    for n, row in enumerate(letters)
                ]
            )
            column = words.reshape([rows, *[1] * len(i.shape)])
            examples[i.feature] = tf.constant(np.broadcast_to(column, shape))
        elif i.feature_dtype.startswith(("int", "uint", "bool")):
            bits = random.integers(0, 2, shape)
            examples[i.feature] = tf.cast(bits, i.feature_dtype)
        else:
            scales = 2.0 ** (1 - np.arange(rows) % 4)  # what saturates hides the rest
            values = random.standard_normal(shape) * scales.reshape(
                [rows, *[1] * len(i.shape)]
            )
            examples[i.feature] = tf.cast(values, i.feature_dtype)
    return examples
