"""Explain the errors that well-known mistakes in Keras models lead to."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transforms.models.inputs import Shape


def explain_sequential(error: BaseException) -> str | None:
    """Say what is wrong with a Sequential whose layer returns more than a tensor.

    Well-known articles on layers that return dicts show such models. They never worked
    in Keras 3, and Keras's own error does not name the cause.

    Returns:
      A message that says how to mend the model; None if the error has another cause.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        here = frame.f_locals
        model: Any = here.get("self")
        layer, given = here.get("layer"), here.get("x")
        if not _is_sequential(model) or layer is None:
            continue
        if isinstance(given, Mapping | tuple):
            return _remedy(model, layer, given)
    return None


def explain_unbuilt(model: Any, inputs: Iterable[tuple[Shape, str]]) -> str | None:
    """Say the same of a Sequential of which nobody knows what goes in.

    Its layers are called one after the other, so they may be built for what does not go
    in: the model is of no use afterwards.

    Args:
      model: any model that declares no inputs.
      inputs: what could go in, `(shape without batch, dtype)`, the likeliest first.

    Returns:
      A message that says how to mend the model; None if it is no Sequential, or if its
      layers can follow each other.
    """
    import keras

    for shape, dtype in inputs if _is_sequential(model) else ():
        given: Any = keras.KerasTensor((None, *shape), dtype)
        for layer in model.layers:
            try:
                given = layer(given)
            except Exception:
                if isinstance(given, Mapping | tuple):
                    return _remedy(model, layer, given)
                break
        else:
            return None
    return None


def _is_sequential(model: Any) -> bool:
    return any(kind.__name__ == "Sequential" for kind in type(model).__mro__)


def _remedy(model: Any, layer: Any, given: Mapping[str, Any] | tuple[Any, ...]) -> str:
    """Say how to mend a Sequential, one of whose layers is given several tensors."""
    names = [one.name for one in model.layers]
    before = names[names.index(layer.name) - 1]
    keys = list(given) if isinstance(given, Mapping) else list(range(len(given)))
    return (
        "a Sequential must hold layers that take and give one tensor, but"
        f" {before!r} gives a {type(given).__name__} ({', '.join(map(str, keys))})"
        f" and {layer.name!r} comes after it; choose what goes on in a functional"
        f" model:\n  made = {before}(x)\n"
        f"  model = keras.Model(x, {layer.name}(made[{keys[0]!r}]))\n"
        f"all that {before!r} gives can still be tapped, as '{before}:{keys[0]}'"
    )


@contextmanager
def whole_tracebacks() -> Iterator[None]:
    """Let tracebacks keep Keras's own frames, which `explain_sequential` needs."""
    import keras

    filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if filtered:
            keras.config.enable_traceback_filtering()
