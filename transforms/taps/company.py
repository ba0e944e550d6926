"""Check that what a row gives does not depend on the rows that it stands beside.

Made-up rows are computed among some rows, and again among others at other places; where
code of the user is traced, also in another number and by another trace. What comes out
differently has no business in a table: a row's values would depend on how the dataset
is cut.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.batch import Batch
from transforms.errors.halving import by_halves
from transforms.models.model import Model
from transforms.taps.chains import split_reduction
from transforms.taps.compile import CompiledTaps, compile_taps
from transforms.taps.device_memory import FittingTaps
from transforms.taps.infer import Computed
from transforms.taps.language import Activation, Tap
from transforms.taps.probe import UNSURE, made_up
from transforms.taps.reductions import REDUCTIONS
from transforms.values import Values, take_rows

_AGAIN = "differs when the same rows are computed again: by random numbers or state"
_PLACE = "depends on a row's place in the batch"
_MIXES = "depends on the other rows of the batch"
_TRACES = "differs from trace to trace, or with the number of rows in a batch"
# Least deviations of a row that count, as shares of its values: rounding differs with a
# row's place in the batch, more so where values are computed in 16 bits.
_TOLERANCE = 5e-5
_TOLERANCE_16 = 5e-2
_COMPARED = 8  # rows at a time, which may be large
_DRAWS = 4
_LEAST = 0.03  # values are compared as if they were at least so large
_DIGESTS = 4
_MOST_BYTES = 1 << 29  # of activations that are computed together


def made_up_rows(model: Model) -> int:
    """Give the number of rows in a made-up batch.

    Three are the fewest of which no order is that of `other_company` as well, so that
    sorting shows. Keras's own layers do not sort: of two rows, one gets other company.
    """
    return model.batch_rows or (2 if model.form.stock else 3)


def all_alone(taps: Sequence[Tap], activations: Sequence[Activation]) -> bool:
    """Whether the graph proves that no tap mixes rows: then none needs computing."""
    alone = {a.address for a in activations if a.alone}
    return all(
        tap.address in alone
        and all(split_reduction(text)[0] in REDUCTIONS for text in tap.reduce)
        for tap in taps
    )


def mixing_taps(
    model: Model,
    taps: Sequence[Tap],
    compiled: CompiledTaps,
    *last: Callable[[Any], Any],
) -> dict[str, str]:
    """Say which taps give rows values that depend on more than the row.

    Args:
      model: the model.
      taps: taps on it.
      compiled: the same taps, compiled for `made_up_rows`.
      last: reductions that they were compiled with besides their own.

    Returns:
      `{address: why it cannot be tapped}`. Nothing is said of addresses that cannot be
      computed from made-up rows, unless the model has a fixed batch size: then they are
      refused, since it is not sure which axis is the batch.
    """
    import tensorflow as tf

    refused: dict[str, str] = {}

    def check(chosen: np.ndarray) -> None:
        some = [taps[i] for i in chosen]
        function = compiled
        if len(some) < len(taps):
            function = compile_taps(model, some, compiled.batch_rows, *last)
        again = None
        if not model.form.stock:
            rows = compiled.batch_rows - (model.batch_rows is None)
            again = compile_taps(model, some, rows, *last)
        refused.update(_refusals(model, some, function, again))

    def alone(index: int, error: Exception) -> None:
        refused[taps[index].address] = UNSURE

    if model.batch_rows is None:
        try:
            check(np.arange(len(taps)))
        except tf.errors.OpError:
            return {}
    else:
        for _ in by_halves(len(taps), check, (tf.errors.OpError,), alone):
            pass
    return refused


def refuse_mixing(model: Model, activations: Sequence[Activation]) -> list[Activation]:
    """Check what could be tapped and is not proved; refuse what does not stand alone.

    What is compared are random projections of the activations, so that it does not
    matter how large they are.
    """
    rows = made_up_rows(model)
    refused: dict[str, str] = {}
    doubtful = [a for a in activations if a.refusal is None and not a.alone]
    for group in _groups(doubtful, rows):
        taps = [
            Tap(a.address, (), f"a{index}", None, f"activation {a.address!r}")
            for index, a in enumerate(group)
        ]
        compiled = compile_taps(model, taps, rows, digests)
        refused |= mixing_taps(model, taps, compiled, digests)
    return marked(activations, refused)


def _groups(activations: Sequence[Activation], rows: int) -> Iterator[list[Activation]]:
    """Split activations into groups that fit into memory together."""
    group: list[Activation] = []
    room = _MOST_BYTES
    for activation in activations:
        size = rows * (activation.bytes_per_row or 0)
        if group and size > room:
            yield group
            group, room = [], _MOST_BYTES
        group.append(activation)
        room -= size
    if group:
        yield group


def marked(
    activations: Sequence[Activation], refused: Mapping[str, str]
) -> list[Activation]:
    """Enter refusals, `{address: why}`, where there is none yet."""
    return [
        replace(a, refusal=a.refusal or refused.get(a.address)) for a in activations
    ]


def digests(values: Any) -> Any:
    """Reduce an activation `[batch, ...]` to projections, float32 `[batch, digests]`.

    A deviation of a row's values changes its projections by about the same share.
    """
    import tensorflow as tf

    ragged = isinstance(values, tf.RaggedTensor)
    if ragged:
        values = values.to_tensor()  # what is filled in is zero, or empty text
    if values.dtype == tf.string:
        values = tf.strings.to_hash_bucket_fast(values, 1 << 20)
    flat = tf.cast(tf.reshape(values, [values.shape[0], -1]), tf.float32)
    known = flat.shape[1] is not None
    length = flat.shape[1] if known else tf.shape(flat)[1]
    chance = tf.random.stateless_uniform([length, _DIGESTS], [0, 0], -1.0, 1.0)
    made = flat @ chance / math.sqrt(flat.shape[1] or 1)
    if known or ragged:
        return made
    return made + tf.cast(length, tf.float32)  # rows padded to the longest differ


def deviating(one: Values, other: Values, tolerance: float) -> np.ndarray:
    """Tell which rows of two computations of the same rows differ beyond rounding.

    Args:
      one: values of some rows.
      other: values of the same rows.
      tolerance: least deviation that counts, as a share of a row's values.

    Returns:
      Bool `[rows]`.
    """
    if isinstance(one, pa.Array):
        pairs = zip(one, other, strict=True)
        lists = ((_flat(a), _flat(b)) for a, b in pairs)
        return np.array(
            [
                len(a) != len(b) or bool(deviating(a[None], b[None], tolerance)[0])
                for a, b in lists
            ]
        )
    a, b = (values.reshape(len(values), -1) for values in (one, other))
    if a.shape != b.shape or a.shape[1] == 0:
        return np.full(len(a), a.shape != b.shape)
    if a.dtype.kind != "f":
        differing: np.ndarray = np.mean(a != b, axis=1) > tolerance
        return differing
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, a - b)
    size = np.sqrt(np.mean(np.where(np.isfinite(a), a, 0.0) ** 2, axis=1))
    deviation = np.sqrt(np.mean(difference**2, axis=1))
    beyond: np.ndarray = ~(deviation <= tolerance * (size + _LEAST))
    return beyond


def _flat(row: Any) -> np.ndarray:
    return np.asarray(row.values)


def other_company(rows: int) -> np.ndarray:
    """Reorder a batch: half of it becomes copies of one row, the rest changes places.

    The last row is left out, which of made-up texts is the longest.

    >>> other_company(6).tolist()
    [1, 1, 1, 1, 1, 0]
    """
    order = np.arange(rows)[::-1].copy()
    order[: rows // 2 + 1] = int(rows > 2)
    return order


def check_company(
    compiled: FittingTaps, computed: Iterable[Computed]
) -> Iterator[Computed]:
    """Pass a batch on, after computing its first part again in other company.

    Args:
      compiled: what has computed it.
      computed: parts of a batch with their values.

    Raises:
      RuntimeError: some column comes out differently, twice.
    """
    parts = iter(computed)
    for batch, values in itertools.islice(parts, 1):
        if len(batch) > 1 and len(batch.by_shape()) == 1:
            _check_rows(compiled, batch, values)
        yield batch, values
    yield from parts


def _check_rows(
    compiled: FittingTaps, batch: Batch, values: Mapping[str, Values]
) -> None:
    first = other_company(len(batch))
    suspects = list(values)
    for order in (first, np.random.default_rng(0).permutation(first)):
        again = compiled(batch.take(order).even_inputs())
        suspects = [
            name
            for name in suspects
            if _differ(values[name], order, again[name], compiled)
        ]
        if not suspects:
            return
    raise RuntimeError(
        "a row's values must depend on that row alone, but column"
        f" {suspects[0]!r} of the first {len(batch)} rows comes out differently when"
        " they are computed again in another order and among other rows; tap what comes"
        " before the layer that mixes rows or draws random numbers"
    )


def _differ(
    one: Values, order: np.ndarray, other: Values, compiled: CompiledTaps | FittingTaps
) -> bool:
    """Whether rows `order` of some values are not the other values; few at a time."""
    import tensorflow as tf

    # GPUs multiply float32 with as few digits as float16 has (TF32)
    coarse = compiled.computes_in_16_bits or tf.config.list_logical_devices("GPU")
    tolerance = _TOLERANCE_16 if coarse else _TOLERANCE
    places = (slice(n, n + _COMPARED) for n in range(0, len(order), _COMPARED))
    return any(
        deviating(take_rows(one, order[few]), other[few], tolerance).any()
        for few in places
    )


def _refusals(
    model: Model,
    taps: Sequence[Tap],
    compiled: CompiledTaps,
    again: CompiledTaps | None,
) -> dict[str, str]:
    """Compute made-up rows in different company; say why which addresses differ."""
    found = _differing(model, compiled, again, seed=0)
    if found:  # values that lie on the edge of a step may jump by themselves
        confirmed = _differing(model, compiled, again, seed=1)
        found = {name: why for name, why in found.items() if name in confirmed}
    if model.batch_rows is not None:
        found |= dict.fromkeys(_unchanging(model, compiled) - set(found), UNSURE)
    columns = {o.column: o.shape_of or o.column for o in compiled.outputs}
    by_column = {columns[name]: why for name, why in found.items()}
    return {t.address: by_column[t.column] for t in taps if t.column in by_column}


def _differing(
    model: Model, compiled: CompiledTaps, again: CompiledTaps | None, seed: int
) -> dict[str, str]:
    """Give `{column: why}` of what differs in one batch of made-up rows."""
    import tensorflow as tf

    given = made_up(model, compiled.batch_rows, seed)

    def differing(order: np.ndarray, function: CompiledTaps) -> set[str]:
        values = function({name: tf.gather(v, order) for name, v in given.items()})
        return {
            name
            for name, value in values.items()
            if _differ(whole[name], order, value, compiled)
        }

    rows = np.arange(compiled.batch_rows)
    whole = compiled(given)
    found: dict[str, str] = {}
    if again is not None:
        found = dict.fromkeys(differing(rows[: again.batch_rows], again), _TRACES)
    if suspects := differing(other_company(len(rows)), compiled):
        found |= dict.fromkeys(suspects, _MIXES)
        found |= dict.fromkeys(suspects & differing(rows[::-1], compiled), _PLACE)
        found |= dict.fromkeys(suspects & differing(rows, compiled), _AGAIN)
    return found


def _unchanging(model: Model, compiled: CompiledTaps) -> set[str]:
    """Give the columns that hold the same for all made-up rows."""
    draws = (made_up(model, compiled.batch_rows, seed) for seed in range(_DRAWS))
    first, *others = (compiled(draw) for draw in draws)
    return {
        name
        for name, values in first.items()
        if not any(deviating(values, other[name], 0.0).any() for other in others)
    }
