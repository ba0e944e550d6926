"""Tell which tensors stand for one input or output of a SavedModel's signature.

A ragged or sparse tensor is several tensors for TensorFlow: its values, and where they
belong.
"""

from __future__ import annotations

from typing import Any

from transforms.lookup import ConfigError

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_SPARSE = ("_indices", "_values", "_dense_shape")  # as TensorFlow 1 is loaded


def output_parts(signature: Any) -> dict[str, tuple[Any, list[Any]]]:
    """Group the tensors of a signature's outputs.

    Args:
      signature: the concrete function.

    Returns:
      `{output: (its structure, the tensors that it is made of)}`; for dense outputs the
      structure is a tensor or its spec, and there is one tensor.
    """
    import tensorflow as tf

    tensors = iter(signature.outputs)
    found = {}
    for name in sorted(signature.structured_outputs):  # the order of flattening
        structure = signature.structured_outputs[name]
        parts = tf.nest.flatten(structure, expand_composites=True)
        found[name] = structure, [next(tensors) for _ in parts]
    return found


def put_together(structure: Any, tensors: list[Any]) -> Any:
    """Make one value of the tensors that `output_parts` has grouped."""
    import tensorflow as tf

    return tf.nest.pack_sequence_as(structure, tensors, expand_composites=True)


def check_inputs(loaded: Any, signature: Any, name: str, uri: str) -> None:
    """Refuse a signature that takes ragged or sparse tensors, in parts.

    Args:
      loaded: the SavedModel.
      signature: its concrete function.
      name: name of the signature, for errors.
      uri: the model as the config names it, for errors.

    Raises:
      ConfigError: it does. The parts do not have one row for each example.
    """
    inputs = sorted(signature.structured_input_signature[1])
    kinds = _kinds_of_wrapped(loaded, signature)
    for one in inputs:
        argument = one.removesuffix(_SPARSE[0])
        if all(f"{argument}{part}" in inputs for part in _SPARSE):
            kinds.append("SparseTensor")
    if kinds:
        raise ConfigError(
            f"model.signature must take dense tensors, {name!r} of {uri!r} takes a"
            f" {kinds[0]} in parts ({', '.join(inputs)}); export a signature that takes"
            " dense tensors and makes them sparse or ragged itself"
        )


def _kinds_of_wrapped(loaded: Any, signature: Any) -> list[str]:
    """Name the kinds of the inputs that are not dense of the function that is called.

    The signature itself is a wrapper, which takes their parts.
    """
    import tensorflow as tf

    operations = signature.graph.get_operations()
    called = {op.get_attr("f").name for op in operations if op.type in _CALLS}
    return [
        type(spec).__name__.removesuffix("Spec")
        for thing in tf.train.TrackableView(loaded).descendants()
        for function in getattr(thing, "concrete_functions", ())
        if tf.compat.as_text(function.name) in called
        for spec in tf.nest.flatten(function.structured_input_signature)
        if isinstance(spec, tf.TypeSpec) and not isinstance(spec, tf.TensorSpec)
    ]
