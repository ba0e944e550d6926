"""Trace a model inside one graph function."""

from __future__ import annotations

import threading
from typing import Any

from transforms.models.model import Model

_lock = threading.Lock()


def trace_model(model: Model, rows: int, body: Any, *, jit: bool = False) -> Any:
    """Trace `body`, a function of the model's features, for batches of `rows` rows.

    With `jit` XLA compiles it, when it is first called. Only one thread of the process
    traces at a time: forms of models wrap layers while they are traced.
    """
    import tensorflow as tf

    signature = {
        i.feature: tf.TensorSpec([rows, *i.shape], i.feature_dtype)
        for i in model.inputs
    }
    unconverted = tf.autograph.experimental.do_not_convert(body)
    with _lock:
        function = tf.function(unconverted, jit_compile=jit or None)
        return function.get_concrete_function(signature)


def is_ragged(value: Any) -> bool:
    """Whether a value is a tensor whose rows differ in length."""
    import tensorflow as tf

    return isinstance(value, tf.RaggedTensor)
