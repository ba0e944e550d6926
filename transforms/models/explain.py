"""Explain the errors that well-known mistakes in Keras models lead to."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


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
        sequential = any(k.__name__ == "Sequential" for k in type(model).__mro__)
        if not sequential or layer is None or not isinstance(given, Mapping | tuple):
            continue
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
    return None


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
