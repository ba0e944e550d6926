"""Name the stages in which a row can fail, and the exceptions that blame the row.

Any other exception blames storage, device or code: it fails the attempt, not the row.
"""

from __future__ import annotations

from typing import Literal

Stage = Literal["read", "preprocess", "infer", "encode", "crash"]
"""Where a row failed, as the errors table says it.

`read`: it could not be read or parsed. `preprocess`: a step refused it. `infer`: the
model could not compute it, or gave values that are not finite. `encode`: its key, time
or a kept feature cannot be stored. `crash`: the process that computed it died.
"""


def read_errors() -> tuple[type[Exception], ...]:
    """Exceptions of readers and models that blame a row."""
    import tensorflow as tf

    return (tf.errors.InvalidArgumentError, tf.errors.DataLossError)


def preprocess_errors() -> tuple[type[Exception], ...]:
    """Exceptions of preprocessing that blame a row; users' Python may raise any."""
    import tensorflow as tf

    return (*read_errors(), tf.errors.UnknownError)
