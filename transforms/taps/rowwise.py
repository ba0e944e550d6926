"""Prove by a traced graph that a row's values depend on that row alone.

A tensor stands for rows if its first axis is the batch, or the batch with axes that
follow folded into it, and each part of it is computed from one row of the inputs, in
the same way at every place. Each operation listed here keeps this under a condition
that its shapes and constants show; of all others nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transforms.taps.graph import is_tensor_of, sorted_operations

# fmt: off
_VALUE_BY_VALUE = (
    "Abs", "Add", "AddV2", "BiasAdd", "Cast", "Ceil", "Cos", "DivNoNan", "Elu", "Equal",
    "Erf", "Erfc", "Exp", "Expm1", "Floor", "FloorDiv", "FloorMod", "Greater",
    "GreaterEqual", "Identity", "IsFinite", "IsInf", "IsNan", "LeakyRelu",
    "Less", "LessEqual", "Log", "Log1p", "LogicalAnd", "LogicalNot", "LogicalOr",
    "Maximum", "Minimum", "Mul", "Neg", "NotEqual", "OnesLike", "Pow",
    "PreventGradient", "RealDiv", "Reciprocal", "Relu", "Relu6", "Round", "Rsqrt",
    "SelectV2", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt",
    "Square", "SquaredDifference", "StopGradient", "Sub", "Tanh", "ZerosLike",
)
_AXES = {  # operations on some axes, and which input names these
    "All": 1, "Any": 1, "ArgMax": 1, "ArgMin": 1, "Cumprod": 1, "Cumsum": 1, "Max": 1,
    "Mean": 1, "Min": 1, "Prod": 1, "ReverseV2": 1, "Split": 0, "SplitV": 2, "Sum": 1,
}
_PLACES = {  # operations on each row, and which of their inputs is the rows
    "Conv2D": 0, "Conv2DBackpropInput": 2, "Conv3D": 0, "Conv3DBackpropInputV2": 2,
    "DepthwiseConv2dNative": 0, "ResizeBicubic": 0, "ResizeBilinear": 0,
    "ResizeNearestNeighbor": 0, "DepthToSpace": 0, "SpaceToDepth": 0,
}
# fmt: on


def prove_rows_alone(graph: Any, rows: int, tensors: Sequence[Any]) -> list[bool]:
    """Tell which tensors are proved to give rows that depend on nothing else.

    Random numbers and state that changes are not looked for; `refusals_of` finds them.

    Args:
      graph: the graph in which the tensors were traced, for batches of `rows` rows.
      rows: length of the batch axis, a prime number; of no other axis, nor a factor of
        any.
      tensors: tensors of the graph, or anything else that a layer returned.

    Returns:
      True for each tensor that is proved; False says nothing.
    """
    walk = _Walk(graph, rows)
    return [
        is_tensor_of(graph, tensor) and walk.is_rows(tensor) and tensor.shape[0] == rows
        for tensor in tensors
    ]


class _Walk:
    """A walk through a graph, in the order in which it is computed."""

    def __init__(self, graph: Any, rows: int) -> None:
        self._rows = rows
        self._constant: set[Any] = {t.op for t in graph.internal_captures}
        self._proved = {t.op for t in graph.inputs} - self._constant
        for op in sorted_operations(graph.get_operations()):
            if op.type == "Placeholder":
                continue
            rule = _RULES.get(op.type)
            if self._repeats(op) or (rule is not None and rule(self, op)):
                self._proved.add(op)
            elif self._is_constant(op):
                self._constant.add(op)

    def is_rows(self, tensor: Any) -> bool:
        """Whether a tensor stands for rows."""
        tensor = _source(tensor)
        return tensor.op in self._proved and self.has_batch(tensor)

    def has_batch(self, tensor: Any) -> bool:
        """Whether a tensor's first axis holds the batch."""
        length = tensor.shape[0] if tensor.shape.rank else None
        return length is not None and length > 0 and length % self._rows == 0

    def is_constant(self, tensor: Any) -> bool:
        """Whether a tensor depends on no input."""
        return _source(tensor).op in self._constant

    def is_stretched(self, tensor: Any, rank: int | None) -> bool:
        """Whether a tensor is constant, and the same for all rows of one of `rank`."""
        shape = tensor.shape
        known = rank is not None and shape.rank is not None
        stretched = known and (shape.rank < rank or shape[:1] == [1])
        return bool(stretched) and self.is_constant(tensor)

    def broadcast(self, op: Any) -> bool:
        """Whether all inputs are rows, or the same for all rows; at least one rows."""
        rank = op.outputs[0].shape.rank
        return any(self.is_rows(t) for t in op.inputs) and all(
            (self.is_rows(t) and t.shape.rank == rank) or self.is_stretched(t, rank)
            for t in op.inputs
        )

    def alone_at(self, op: Any, place: int) -> bool:
        """Whether the input at a place is rows and all others are constant."""
        others = [t for index, t in enumerate(op.inputs) if index != place]
        return self.is_rows(op.inputs[place]) and all(map(self.is_constant, others))

    def _is_constant(self, op: Any) -> bool:
        if op.type in ("ReadVariableOp", "VarHandleOp"):
            return all(map(self.is_constant, op.inputs))
        pure = not op.op_def.is_stateful and not op.control_inputs
        return pure and all(map(self.is_constant, op.inputs))

    def _repeats(self, op: Any) -> bool:
        """Whether one constant row is repeated for the whole batch."""
        if not all(map(self.is_constant, op.inputs)) or not op.outputs:
            return False
        if not self.has_batch(op.outputs[0]):
            return False
        if op.type in ("BroadcastTo", "Tile"):
            return self.is_stretched(op.inputs[0], op.outputs[0].shape.rank)
        return bool(op.type == "Fill")


def _source(tensor: Any) -> Any:
    """Give what an operation passes on that has many inputs and as many outputs."""
    while tensor.op.type == "IdentityN":
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _axes(walk: _Walk, op: Any) -> bool:
    named = _AXES[op.type]
    values = 1 if named == 0 else 0
    return walk.alone_at(op, values) and _spares_first(
        op.inputs[named], op.inputs[values].shape.rank
    )


def _spares_first(axes: Any, rank: int) -> bool:
    """Whether a tensor of axes is known and does not name the first one."""
    found = _value(axes)
    return found is not None and bool(np.all(found % rank != 0))


def _value(tensor: Any) -> np.ndarray | None:
    import tensorflow as tf

    found = tf.get_static_value(tensor)
    return None if found is None else np.asarray(found)


def _at_place(walk: _Walk, op: Any) -> bool:
    return walk.alone_at(op, _PLACES[op.type])


def _pools(walk: _Walk, op: Any) -> bool:
    steps = op.get_attr("ksize")[0], op.get_attr("strides")[0]
    return walk.is_rows(op.inputs[0]) and steps == (1, 1)


def _normalizes(walk: _Walk, op: Any) -> bool:
    fixed = not op.get_attr("is_training") and not walk.has_batch(op.outputs[1])
    return fixed and _first_alone(walk, op)


def _first_alone(walk: _Walk, op: Any) -> bool:
    return walk.alone_at(op, 0)


def _softmax(walk: _Walk, op: Any) -> bool:
    return walk.is_rows(op.inputs[0]) and op.inputs[0].shape.rank > 1


def _transposes(walk: _Walk, op: Any) -> bool:
    order = _value(op.inputs[1])
    return _first_alone(walk, op) and order is not None and int(order[0]) == 0


def _concatenates(walk: _Walk, op: Any) -> bool:
    *parts, axis = op.inputs
    return all(map(walk.is_rows, parts)) and _spares_first(axis, parts[0].shape.rank)


def _multiplies(walk: _Walk, op: Any) -> bool:
    return _first_alone(walk, op) and not op.get_attr("transpose_a")


def _multiplies_batches(walk: _Walk, op: Any) -> bool:
    rank = op.outputs[0].shape.rank
    return rank is not None and rank > 2 and walk.broadcast(op)


def _sums_products(walk: _Walk, op: Any) -> bool:
    equation: str = op.get_attr("equation").decode().replace(" ", "")
    terms, _, result = equation.partition("->")
    batch = result[:1]
    if not batch.isalpha():
        return False
    for term, tensor in zip(terms.split(","), op.inputs, strict=True):
        first = term[:1] == batch and term.count(batch) == 1
        apart = batch not in term and walk.is_constant(tensor)
        if not (first and walk.is_rows(tensor)) and not apart:
            return False
    return result.count(batch) == 1


def _gathers(walk: _Walk, op: Any) -> bool:
    values, places = op.inputs[:2]
    if op.get_attr("batch_dims"):
        return False
    if len(op.inputs) == 2:  # of a variable
        return walk.is_constant(values) and walk.is_rows(places)
    axis = _value(op.inputs[2])
    if axis is None or values.shape.rank is None:
        return False
    if int(axis) % values.shape.rank == 0:
        return walk.is_constant(values) and walk.is_rows(places)
    return walk.is_rows(values) and walk.is_constant(places)


def _keeps_length(walk: _Walk, op: Any) -> bool:
    """Whether the first axis stays as it is when others are cut, padded or repeated."""
    before, after = op.inputs[0].shape, op.outputs[0].shape
    return _first_alone(walk, op) and bool(after.rank) and before[0] == after[0]


def _pads(walk: _Walk, op: Any) -> bool:
    widths = _value(op.inputs[1])
    moved = widths is None or bool(np.any(widths[0]))
    return _keeps_length(walk, op) and not moved


def _strides(walk: _Walk, op: Any) -> bool:
    masks = [
        op.get_attr(name) & 1
        for name in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    ]
    step = _value(op.inputs[3])
    forward = step is not None and list(step[:1]) == [1]
    return _keeps_length(walk, op) and forward and not any(masks)


def _repeats_inside(walk: _Walk, op: Any) -> bool:
    ranks = {t.shape.rank for t in (op.inputs[0], op.outputs[0])}
    return _keeps_length(walk, op) and len(ranks) == 1


_RULES: dict[str, Callable[[_Walk, Any], bool]] = {
    **dict.fromkeys(_VALUE_BY_VALUE, _Walk.broadcast),
    **dict.fromkeys(_AXES, _axes),
    **dict.fromkeys(_PLACES, _at_place),
    **dict.fromkeys(("AvgPool", "AvgPool3D", "MaxPool", "MaxPool3D"), _pools),
    # rows are reshaped by themselves if the batch stays in front, where `is_rows` looks
    **dict.fromkeys(("ExpandDims", "Reshape", "Squeeze"), _first_alone),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _softmax),
    **dict.fromkeys(("MirrorPad", "Pad", "PadV2"), _pads),
    **dict.fromkeys(("BatchMatMulV2", "BatchMatMulV3"), _multiplies_batches),
    **dict.fromkeys(("BroadcastTo", "Tile"), _repeats_inside),
    **dict.fromkeys(("GatherV2", "ResourceGather"), _gathers),
    "ConcatV2": _concatenates,
    "Einsum": _sums_products,
    "FusedBatchNormV3": _normalizes,
    "MatMul": _multiplies,
    "Slice": _keeps_length,
    "StridedSlice": _strides,
    "Transpose": _transposes,
}
