"""List every activation of a model; say of those that cannot be tapped why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transforms.dtypes import column_dtype
from transforms.models.model import Model
from transforms.taps.flops import flops_to_reach
from transforms.taps.language import Activation
from transforms.taps.masks import mask_of
from transforms.taps.probe import UNSURE, probe_shapes
from transforms.taps.rowwise import prove_rows_alone
from transforms.taps.state import refusals_of
from transforms.taps.trace import is_ragged, trace_model

# A batch size that no other axis is likely to have, so that the batch axis is found.
_LISTING_ROWS = 1009


def list_activations(model: Model) -> list[Activation]:
    """List every address of a model, found by tracing it.

    The model runs, on made-up rows, only if tracing cannot tell the batch axis of some
    activation.

    Returns:
      The activations in the order in which they are computed; the model's own result
      last.
    """
    rows = model.batch_rows or _LISTING_ROWS
    found: list[Activation] = []
    tensors: list[Any] = []

    def body(inputs: Any) -> None:
        found.clear()  # a function that makes variables is traced twice
        tensors.clear()
        for address, value, refusal in model.form.record(model.tensors(inputs)):
            found.append(_activation(address, value, refusal, rows))
            tensors.append(value)

    graph = trace_model(model, rows, body).graph
    masks = [None if tensor is None else mask_of(tensor) for tensor in tensors]
    refusals = refusals_of(graph, [*tensors, *masks])
    provable = model.form.stock and model.batch_rows is None
    proofs = prove_rows_alone(graph, rows, [*tensors, *masks]) if provable else []
    for index, mask in enumerate(masks):
        refusal = refusals[index] or refusals[len(masks) + index]
        if found[index].refusal is None and refusal:
            found[index] = replace(found[index], refusal=refusal)
        if proofs and proofs[index]:
            alone = mask is None or proofs[len(masks) + index]
            found[index] = replace(found[index], alone=alone)
    _check_batch_axes(model, found)
    results = [a.address[:1] in ("", ":") for a in found]
    needed, total = flops_to_reach(graph, tensors, results)
    return [
        replace(a, flops=flops // rows, flops_share=flops / total if total else 0.0)
        if a.refusal is None and flops is not None
        else a
        for a, flops in zip(found, needed, strict=True)
    ]


def _check_batch_axes(model: Model, found: list[Activation]) -> None:
    """Run the model if tracing cannot tell whether all first axes are the batch.

    Activations in `found` are replaced by what the run has shown.
    """
    if model.batch_rows is not None:
        return  # any axis may be as long as the batch: only computing rows tells
    unsure = [a.address for a in found if a.refusal == UNSURE]
    shapes = probe_shapes(model, unsure) if unsure else {}
    for index, a in enumerate(found):
        if a.address in shapes:
            found[index] = replace(a, refusal=None, shape=shapes[a.address])


def _activation(address: str, value: Any, refusal: str | None, rows: int) -> Activation:
    import tensorflow as tf

    if value is None:
        return Activation(address, (), "", refusal)
    if not isinstance(value, tf.Tensor | tf.RaggedTensor):
        refusal = refusal or f"is a {type(value).__name__}, not a tensor of the graph"
        return Activation(address, (), type(value).__name__, refusal)
    dtype = value.dtype.name
    if refusal is None and column_dtype(dtype) is None:
        refusal = f"is of type {dtype}, which tables do not hold"
    if value.shape.rank is None:
        return Activation(address, (), dtype, refusal or UNSURE)
    lengths = tuple(value.shape.as_list())
    if refusal is None and not hasattr(value, "graph") and not is_ragged(value):
        refusal = "is a constant, computed outside of the graph"
    if refusal is None and is_ragged(value):
        inner = value.flat_values.shape[1:]
        if value.ragged_rank > 1 or not inner.is_fully_defined():
            refusal = "has more than one axis whose length differs between rows"
    if refusal is None and lengths[:1] == (None,):
        return Activation(address, lengths[1:], dtype, UNSURE)
    if refusal is None and lengths[:1] != (rows,):
        refusal = "has no batch axis in front: it is not one value for each row"
        return Activation(address, lengths, dtype, refusal)
    return Activation(address, lengths[1:], dtype, refusal)
