"""See that XLA can compile a model with its taps."""

from __future__ import annotations

import re

from transforms.lookup import ConfigError
from transforms.messages import first_line
from transforms.models.model import Model
from transforms.taps.compile import CompiledTaps
from transforms.taps.probe import made_up

# Where in its own graph XLA has found what.
_IN_GRAPH = re.compile(
    r"Detected unsupported operations when trying to compile graph \S+ on \w+: |"
    r"\{\{node [^{}]*\}\}"
)


def check_xla(model: Model, compiled: CompiledTaps) -> None:
    """Have XLA compile what computes the columns, if it is to, by a made-up batch.

    Args:
      model: the model.
      compiled: of it and the taps.

    Raises:
      ConfigError: XLA cannot compile it.
    """
    import tensorflow as tf

    if not model.jit:
        return
    texts = [one.name for one in model.inputs if one.feature_dtype == "string"]
    texts += [one.column for one in compiled.outputs if one.dtype == "string"]
    if texts:
        raise ConfigError(
            "model.jit must be false where text goes in or comes out, as"
            f" {texts[0]!r} is"
        )
    try:
        compiled(made_up(model, compiled.batch_rows, seed=0))
    except tf.errors.ResourceExhaustedError:  # fewer rows at a time are for the worker
        return
    except tf.errors.OpError as error:
        raise ConfigError(
            "model.jit must be false for this model and these taps, XLA cannot compile"
            f" them: {_IN_GRAPH.sub('', first_line(error))}"
        ) from error
