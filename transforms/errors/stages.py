"""Name the stages in which a row can fail, and the exceptions that blame the row."""

from __future__ import annotations


def read_errors() -> tuple[type[Exception], ...]:
    """Exceptions of a reader that speak of a row, not of the storage."""
    import tensorflow as tf

    return (tf.errors.InvalidArgumentError, tf.errors.DataLossError)


def preprocess_errors() -> tuple[type[Exception], ...]:
    """Exceptions of preprocessing that speak of a row; users' Python may raise any."""
    import tensorflow as tf

    return (*read_errors(), tf.errors.UnknownError)
