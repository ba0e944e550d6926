"""Describe a row that failed, in text that can cross processes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transforms.errors.stages import Stage
from transforms.messages import shown

_REST = "the rest of the file cannot be read"
REST_LOST = f"{_REST} <{secrets.token_hex(16)}>"
"""Stands in a reader's error where an unknown number of rows is lost after a row.

Another one in each process, so that no data can hold it; messages are shown without it.
"""
# Where TensorFlow puts names and places of its own around what went wrong.
_NOISE = re.compile(
    r"\[\[\{\{[^\[\]]*\}\}\]\]|\{\{[^{}\n]*+\}\}|\[Op:[^\[\]\n]*+\]( name:)?"
    r"|Error in user-defined function passed to .{0,200}? iterator: [\w:]*:"
)
_GRAPH_ERROR = "Graph execution error:"
_FRAME = re.compile(r'(?m)^[ \t]*+File "[^"\n]*+", line \d++, in [^\n]*+\n')
_ASSERTION = "assertion failed: ["
_MESSAGE_LENGTH = 1000
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that failed.

    Attributes:
      position: of the row in its shard (`transforms.shard.position`).
      stage: in which it failed.
      exception: type name of what was raised.
      message: what that said, fit to be shown.
      passed: text of the row's scalar features for the table, as far as they are known,
        `{feature: text}`; the row's key is among them.
      rest_lost: whether an unknown number of rows after it cannot be read either.
    """

    position: int
    stage: Stage
    exception: str
    message: str
    passed: Mapping[str, str] = field(default_factory=dict)
    rest_lost: bool = False

    @classmethod
    def of(
        cls,
        position: int,
        stage: Stage,
        error: Exception,
        passed: Mapping[str, Any] | None = None,
        *,
        rest_lost: bool = False,
    ) -> Failure:
        """Describe an exception.

        Args:
          position: of the row in its shard.
          stage: in which it failed.
          error: what was raised.
          passed: features of the row for the table, `{feature: tensor [...]}`.
          rest_lost: as the attribute.
        """
        scalars = {
            name: _text(np.asarray(value).item())
            for name, value in (passed or {}).items()
            if getattr(value, "shape", None) == ()
        }
        exception, message = type(error).__name__, clean_message(error)
        return cls(position, stage, exception, message, scalars, rest_lost)


def loses_rest(error: Exception) -> bool:
    """Whether a file of unknown length cannot be read on after an error."""
    import tensorflow as tf

    return isinstance(error, tf.errors.DataLossError) or REST_LOST in str(error)


def clean_message(error: Exception) -> str:
    """Say what an exception says, fit to be shown.

    Names of graph nodes, which differ from run to run, are left out.
    """
    text = str(getattr(error, "message", error)).replace(REST_LOST, _REST)
    if text.startswith(_GRAPH_ERROR):
        ends = [frame.end() for frame in _FRAME.finditer(text)]
        text = text[ends[-1] :] if ends else text
    text = _NOISE.sub("", text)
    # Python inside a graph adds its own traceback, with paths that differ by machine.
    text, _, _ = text.partition(_TRACEBACK)
    text = " ".join(text.split())
    if text.startswith(_ASSERTION):  # its parts stand in brackets, quotes escaped
        text = text.removeprefix(_ASSERTION).removesuffix("]")
        text = text.replace("] [", " ").replace("\\'", "'")
    return shown(text, _MESSAGE_LENGTH)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
