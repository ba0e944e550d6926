"""Tell whether a layer runs code of Keras's own alone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

_KERAS = ("keras", "keras_hub", "tf_keras")
_TRUSTED = {*_KERAS, "tensorflow", "numpy", "ml_dtypes", "optree", "absl", "jax"}
_OTHERS_CODE = {  # Keras's own layers that run what somebody else has written
    *("Lambda", "TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod"),
    *("InstanceMethod", "InstanceProperty", "TFSMLayer", "TorchModuleWrapper"),
    *("JaxLayer", "FlaxLayer"),
}
_DEPTH = 3  # of lists in an attribute


def is_stock(layer: Any) -> bool:
    """Whether a layer, without those inside of it, runs code of Keras's own alone.

    It does not if any of its attributes is a function or an object of another package,
    such as an activation, the cell of an RNN, or the normalizer of a feature column.
    """
    kind = type(layer)
    is_layer = hasattr(layer, "_flatten_layers")  # not an operation on tensors
    if not is_layer or _root(kind) not in _KERAS or kind.__name__ in _OTHERS_CODE:
        return False
    return all(map(_is_trusted, _values(vars(layer), _DEPTH)))


def _values(value: Any, depth: int) -> Iterator[Any]:
    """Yield what an attribute holds, through dicts and lists."""
    if depth and isinstance(value, Mapping):
        value = list(value.values())
    if depth and isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from _values(one, depth - 1)
        if hasattr(value, "_fields"):  # a feature column
            yield type(value)
    else:
        yield value


def _is_trusted(value: Any) -> bool:
    while isinstance(value, functools.partial):
        value = value.func
    if hasattr(value, "_flatten_layers"):  # looked at by itself
        return True
    named = value if hasattr(value, "__qualname__") else type(value)
    if getattr(named, "__name__", "") == "<lambda>":  # Keras restores them as its own
        return False
    root = _root(named)
    return root in _TRUSTED or root in sys.stdlib_module_names


def _root(named: Any) -> str:
    """Name the package of a class or function."""
    return str(getattr(named, "__module__", None) or "builtins").partition(".")[0]
