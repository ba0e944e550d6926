"""Reduce one example a second way, with numpy in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from transforms.taps.reductions import AXES, projection


def _axes(value: np.ndarray, axis: Any) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(1, value.ndim))
    axes = axis if isinstance(axis, list) else [axis]
    return tuple(AXES[one] if isinstance(one, str) else one for one in axes)


def _over_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(value: np.ndarray, axis: Any = None, keepdims: bool = False) -> Any:
        return function(value, axis=_axes(value, axis), keepdims=keepdims)

    return reduce


def _extreme(function: Callable[..., Any], sign: int) -> Callable[..., Any]:
    def reduce(value: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> Any:
        if value.size:
            return function(value, axis=axis, keepdims=keepdims)
        # Over an empty axis TensorFlow gives the type's extreme value.
        if value.dtype.kind in "fb":
            start: Any = sign * np.inf if value.dtype.kind == "f" else sign > 0
        else:
            limits = np.iinfo(value.dtype)
            start = limits.max if sign > 0 else limits.min
        return function(value, axis=axis, keepdims=keepdims, initial=start)

    return _over_axes(reduce)


def _exact(value: np.ndarray) -> np.ndarray:
    """Cast to double precision, so that the reference adds no error of its own."""
    return value.astype(np.float64)


def _unit(value: np.ndarray, axis: Any = -1, epsilon: float = 1e-12) -> np.ndarray:
    squares = np.sum(_exact(value) ** 2, axis=_axes(value, axis), keepdims=True)
    unit: np.ndarray = _exact(value) / np.sqrt(np.maximum(squares, epsilon))
    return unit


def _top_k(value: np.ndarray, k: int, indices: bool = False) -> np.ndarray:
    order = np.argsort(-_exact(value), axis=-1, kind="stable")[..., :k]
    if indices:
        return order.astype(np.int32)
    largest: np.ndarray = np.take_along_axis(value, order, axis=-1)
    return largest


def goes_over_steps(name: str, options: Mapping[str, Any], rank: int) -> bool:
    """Whether a reduction makes one value of several steps, the axis after the batch.

    Args:
      name: of the reduction.
      options: its arguments.
      rank: of what it reduces, `[1, steps, ...]`.
    """
    if name == "global_average_pool":
        return True
    if name not in ("first", "last", "max", "mean", "min", "std", "sum"):
        return False
    axis = options.get("axis", 1 if name in ("first", "last") else None)
    axes = (
        range(1, rank) if axis is None else axis if isinstance(axis, list) else [axis]
    )
    return 1 in {(AXES[a] if isinstance(a, str) else a) % rank for a in axes}


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "first": lambda value, axis=1: np.take(value, 0, _axes(value, axis)[0]),
    "flatten": lambda value: value.reshape(len(value), -1),
    "global_average_pool": lambda value: _exact(value).mean(
        tuple(range(1, value.ndim - 1))
    ),
    "l2_normalize": _unit,
    "last": lambda value, axis=1: np.take(value, -1, _axes(value, axis)[0]),
    "max": _extreme(np.max, -1),
    "mean": _over_axes(lambda value, **options: np.mean(_exact(value), **options)),
    "min": _extreme(np.min, 1),
    "random_projection": lambda value, dim, seed=0: (
        _exact(value) @ projection(value.shape[-1], dim, seed)
    ),
    "std": _over_axes(lambda value, **options: np.std(_exact(value), **options)),
    "sum": _over_axes(
        lambda value, **options: np.sum(
            _exact(value) if value.dtype.kind == "f" else value, **options
        )
    ),
    "top_k": _top_k,
}
