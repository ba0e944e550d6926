"""Count the arithmetic that each tensor of a traced graph needs.

A multiplication and an addition count as one operation each. Matrix products,
convolutions and loops are counted from their shapes; other operations on floating-point
numbers count one for each value that they give; moving data counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from transforms.taps.graph import (
    CALLS,
    LOOPS,
    body_of,
    functions_of,
    operations_before,
    sorted_operations,
)

# fmt: off
_MOVES = frozenset((
    "BatchToSpaceND", "Bitcast", "BroadcastTo", "Cast", "ConcatV2", "Const",
    "DepthToSpace", "DynamicStitch", "EnsureShape", "ExpandDims", "Fill", "Gather",
    "GatherNd", "GatherV2", "Identity", "IdentityN", "Pack", "Pad", "PadV2",
    "Placeholder", "PreventGradient", "RaggedTensorToTensor", "ReadVariableOp",
    "Reshape", "ResourceGather", "ReverseV2", "Select", "SelectV2", "Slice",
    "SpaceToBatchND", "SpaceToDepth", "Split", "SplitV", "Squeeze", "StopGradient",
    "StridedSlice", "TensorListFromTensor", "TensorListGetItem",
    "TensorListReserve", "TensorListSetItem", "TensorListStack", "Tile",
    "Transpose", "Unpack",
))
# fmt: on
_MOST_COSTS = 50_000  # more operations would take gigabytes of bits in `flops_to_reach`


def flops_to_reach(
    graph: Any, tensors: Sequence[Any], results: Sequence[bool]
) -> tuple[list[int | None], int]:
    """Sum the arithmetic that each tensor needs; an operation counts once for each.

    Args:
      graph: the graph in which the tensors were traced.
      tensors: tensors of the graph, or anything else that a layer returned.
      results: for each tensor whether it is part of the model's own result.

    Returns:
      The number of arithmetic operations for each tensor, None if it is no tensor of
      the graph or the graph is too large; and the number for all results together.
    """
    # A set of operations is an integer of one bit for each operation that costs
    # something, so that a union is one `or`.
    costs: list[int] = []
    needs: dict[Any, int] = {}
    for op in sorted_operations(graph.get_operations()):
        bits = 0
        for before in operations_before(op):
            bits |= needs.get(before, 0)  # a loop of TensorFlow 1 may come only later
        if cost := _cost(op):
            bits |= 1 << len(costs)
            costs.append(cost)
        needs[op] = bits
    weights = np.array(costs, np.int64)
    found: list[int | None] = []
    together = 0
    for tensor, is_result in zip(tensors, results, strict=True):
        tensor = getattr(tensor, "flat_values", tensor)
        if getattr(tensor, "graph", None) is not graph or len(costs) > _MOST_COSTS:
            found.append(None)
            continue
        bits = needs[tensor.op]
        found.append(_sum(bits, weights))
        together |= bits if is_result else 0
    return found, _sum(together, weights)


def _sum(bits: int, weights: np.ndarray) -> int:
    size = (len(weights) + 7) // 8
    packed = np.frombuffer(bits.to_bytes(size, "little"), np.uint8)
    chosen = np.unpackbits(packed, bitorder="little")[: len(weights)]
    return int(chosen @ weights)


def _cost(op: Any) -> int:
    """Count the arithmetic of one operation and of the functions that it calls."""
    if op.type in _MOVES or not op.outputs:
        return 0
    if op.type in CALLS:
        return max((_body_cost(op, name) for name in functions_of(op)), default=0)
    if op.type in LOOPS:
        return _rounds(op) * sum(_body_cost(op, name) for name in functions_of(op))
    size = _size(op.outputs[0])
    if op.type == "MatMul":
        return 2 * size * _dim(op.inputs[0], 0 if op.get_attr("transpose_a") else 1)
    if op.type.startswith("BatchMatMul"):
        return 2 * size * _dim(op.inputs[0], -2 if op.get_attr("adj_x") else -1)
    if op.type in ("Conv2D", "Conv3D"):
        return 2 * size * _size(op.inputs[1]) // max(_dim(op.inputs[1], -1), 1)
    if op.type == "DepthwiseConv2dNative":
        return 2 * size * _dim(op.inputs[1], 0) * _dim(op.inputs[1], 1)
    if op.type in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        return 2 * _size(op.inputs[2]) * _size(op.inputs[1]) // _dim(op.inputs[1], -1)
    if op.type == "Einsum":
        return 2 * _einsum(op)
    if op.type in ("AvgPool", "MaxPool", "AvgPool3D", "MaxPool3D"):
        return size * int(math.prod(op.get_attr("ksize")))
    if op.type in ("Mean", "Sum", "Max", "Min", "Prod"):
        size = _size(op.inputs[0])
    return size if op.outputs[0].dtype.is_floating else 0


def _einsum(op: Any) -> int:
    """Multiply the lengths of all axes that an einsum names."""
    lengths: dict[str, int] = {}
    terms = op.get_attr("equation").decode().partition("->")[0].split(",")
    for term, tensor in zip(terms, op.inputs, strict=True):
        letters = term.replace("...", "").strip()
        for i, letter in enumerate(letters):
            lengths[letter] = _dim(tensor, i - len(letters))
    return math.prod(lengths.values())


def _body_cost(op: Any, name: str) -> int:
    return sum(_cost(inner) for inner in body_of(op, name))


def _rounds(op: Any) -> int:
    """Tell how often a loop runs: once for each entry of the longest list it reads."""
    lists = [t.op for t in op.inputs if t.op.type == "TensorListFromTensor"]
    return max((_dim(one.inputs[0], 0) for one in lists), default=1)


def _size(tensor: Any) -> int:
    shape = tensor.shape
    return math.prod(n or 1 for n in shape.as_list()) if shape.rank is not None else 1


def _dim(tensor: Any, axis: int) -> int:
    """Give the length of an axis, 1 if it is not known."""
    shape = tensor.shape
    return int(shape[axis] or 1) if shape.rank is not None else 1
