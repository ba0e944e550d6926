"""Find what a stored Keras model would do beyond computing, before any of it is loaded.

Keras makes objects from names: of classes, of functions, of modules that it imports. An
untrusted model may name what Keras itself has, and what the modules of `model.imports`
have; the few layers of Keras that call, read or run what their config says are looked
into. Whatever is not known to be harmless is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transforms.models.pure_functions import is_pure_function, is_pure_operation
from transforms.models.stored_names import find

# How Keras stores values that are no objects of its own.
_VALUES = (
    *("__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__"),
    *("__slice__", "__tuple__", "TensorShape", "TypeSpec", "CompositeTensor"),
)
_SPECS = ("TensorSpec", "RaggedTensorSpec", "SparseTensorSpec")
# Feature columns that hold all they need, instead of the name of a file.
_COLUMNS = (
    *("BucketizedColumn", "CrossedColumn", "EmbeddingColumn", "IndicatorColumn"),
    *("HashedCategoricalColumn", "IdentityCategoricalColumn", "NumericColumn"),
    *("SequenceCategoricalColumn", "SequenceNumericColumn", "SharedEmbeddingColumn"),
    *("VocabularyListCategoricalColumn", "WeightedCategoricalColumn"),
)
# Attributes and methods of ragged and sparse tensors that Keras 2 makes layers of.
_ATTRIBUTES = (
    *("values", "flat_values", "row_splits", "nested_row_splits", "indices"),
    *("value_rowids", "nested_value_rowids", "nrows", "row_starts", "row_limits"),
    *("row_lengths", "nested_row_lengths", "bounding_shape", "with_values"),
    *("with_flat_values", "with_row_splits_dtype", "merge_dims", "to_tensor"),
    *("to_sparse", "dense_shape"),
)
_CODE = "holds a Python function"


def find_fault(
    config: Any, package: Any, imports: Sequence[str]
) -> tuple[int, str] | None:
    """Find the first stored layer that would do more than compute.

    Args:
      config: the whole stored description of a model, as JSON gives it. What it says
        of training is passed over, since models are loaded without it.
      package: the Keras that would load it, `keras` or `tf_keras`.
      imports: the config's `model.imports`, which have been imported.

    Returns:
      How many descriptions are sound before the one at fault, and "layer 'name' does
      this"; None if all layers only compute.
    """
    if not isinstance(config, dict):
        return 0, "it describes no layers"
    whole = {key: value for key, value in config.items() if key != "compile_config"}
    left: list[tuple[Any, str]] = [(whole, "")]
    sound = 0
    while left:
        value, name = left.pop()
        if isinstance(value, dict):
            name = _name(value) or name
            fault = _fault(value, package, imports)
            if fault:
                return sound, f"layer {name!r} {fault}"
            sound += 1
            value = list(value.values())
        if isinstance(value, list):
            left.extend((one, name) for one in reversed(value))
    return None


def _name(described: Mapping[str, Any]) -> str | None:
    inner = described.get("config")
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None


def _fault(
    value: Mapping[str, Any], package: Any, imports: Sequence[str]
) -> str | None:
    """What is wrong with one dict, which may describe an object; None if nothing."""
    kind, inner = value.get("class_name"), value.get("config")
    if kind == "__lambda__" or _has_code(value):
        return _CODE
    if "class_name" not in value:
        return None
    if kind == "__typespec__":
        spec, module = value.get("spec_name"), str(value.get("module"))
        known = spec in _SPECS and module.startswith("tensorflow.")
        return None if known else f"is of type {module}.{spec}"
    inner = inner if isinstance(inner, dict) else {}
    bare = not value.get("module") and not value.get("registered_name")
    if bare and kind in _VALUES:
        return None
    if bare and kind in _COLUMNS:
        stored = inner.get("ckpt_to_load_from")
        return f"reads the file {stored!r}" if stored else None
    found = find(value, package, imports)
    if not found:
        return _unknown(value)
    bases = [base.__name__ for one in found for base in getattr(one, "__mro__", ())]
    checks = (_CHECKS[base](inner, package) for base in bases if base in _CHECKS)
    return next(filter(None, checks), None)


def _unknown(value: Mapping[str, Any]) -> str:
    kind, module = value["class_name"], value.get("module")
    name = value.get("config") if kind == "function" else kind
    full = f"{module}.{name}" if module else f"{name}"
    if kind == "function":
        return f"calls {full}, which no module of model.imports has registered"
    return (
        f"is of class {full}, which is not built in (list the modules that register"
        " custom layers in model.imports)"
    )


def _has_code(config: Mapping[str, Any]) -> bool:
    """Whether Keras 2 stored any attribute as bytes of Python."""
    return any(config.get(f"{key}_type") == "lambda" for key in config)


def _lambda_fault(config: Mapping[str, Any], package: Any) -> str | None:
    """A Lambda may call functions of Keras and registered ones, with any arguments."""
    function = config.get("function")
    parts = [config.get(part) for part in ("function", "output_shape", "mask")]
    named = [part for part in parts if isinstance(part, dict)]
    if (
        _has_code(config)
        or isinstance(function, list)
        or isinstance(config.get("mask"), list)
        or any(part.get("class_name") == "__lambda__" for part in named)
    ):
        return "is a Lambda layer that holds a Python function"
    for part in named:
        if part.get("class_name") == "function" and not find(part, package, ()):
            return _unknown(part)
    return None


def _call_fault(config: Mapping[str, Any], package: Any) -> str | None:
    symbol = config.get("function")
    known = isinstance(symbol, str) and is_pure_function(symbol)
    return None if known else f"calls {symbol}"


def _attribute_fault(config: Mapping[str, Any], package: Any) -> str | None:
    name = config.get("attr_name")
    return None if name in _ATTRIBUTES else f"uses the attribute {name!r}"


def _method_fault(config: Mapping[str, Any], package: Any) -> str | None:
    kind, name = config.get("cls_symbol"), str(config.get("method_name"))
    known = kind == "RaggedTensor" and name.startswith("from_")
    return None if known else f"calls {kind}.{name}"


def _operation_fault(config: Mapping[str, Any], package: Any) -> str | None:
    node = config.get("node_def")
    kind = node.get("op") if isinstance(node, dict) else _operation(node)
    return None if is_pure_operation(str(kind)) else f"is a {kind}"


def _operation(stored: Any) -> str:
    """Tell which operation a message, stored as text, is of."""
    from tensorflow.core.framework import node_def_pb2

    try:
        return str(node_def_pb2.NodeDef.FromString(str(stored).encode()).op)
    except Exception:  # protobuf's own
        return "broken operation"


def _vocabulary_fault(config: Mapping[str, Any], package: Any) -> str | None:
    stored = config.get("vocabulary")
    return f"reads the file {stored!r}" if isinstance(stored, str) else None


def _loads_another(config: Mapping[str, Any], package: Any) -> str:
    return "loads another model"


_CHECKS: Mapping[str, Callable[[Mapping[str, Any], Any], str | None]] = {
    "Lambda": _lambda_fault,
    "TFOpLambda": _call_fault,
    "ClassMethod": _method_fault,
    "InstanceProperty": _attribute_fault,
    "TensorFlowOpLayer": _operation_fault,
    "IndexLookup": _vocabulary_fault,
    "TextVectorization": _vocabulary_fault,
    "TFSMLayer": _loads_another,
    "TorchModuleWrapper": _loads_another,
}
