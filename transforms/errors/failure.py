"""Describe a row that failed, in text that can cross processes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transforms.messages import shown
from transforms.shard import Shard


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that failed.

    Attributes:
      position: in the shard.
      stage: `read`, `preprocess`, `infer`, `encode`, or `crash` if the process died.
      error: what was raised.
      passed: features for the table as far as they are known, `{name: tensor [...]}`.
      rest_lost: whether an unknown number of rows behind it cannot be read either.
    """

    position: int
    stage: str
    error: Exception
    passed: Mapping[str, Any] = field(default_factory=dict)
    rest_lost: bool = False


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, preprocessed, inferred or encoded.

    Attributes:
      example_id: the row's key as text, None where it could not be read.
      shard: index of the row's shard.
      file: URI of the row's file.
      row: row within the file; of text that is read in spans of bytes, within the span.
      stage: `read`, `preprocess`, `infer`, `encode` or `crash`.
      exception: type of the exception.
      message: what it said, without graph node names.
    """

    example_id: str | None
    shard: int
    file: str
    row: int
    stage: str
    exception: str
    message: str


# Where TensorFlow puts names and places of its own around what went wrong.
_NOISE = re.compile(
    r"(?s:^Graph execution error:.*File \"[^\"]*\", line \d+, in [^\n]*\n)"
    r"|\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]( name:)?"
    r"|Error in user-defined function passed to .*? iterator: [\w:]*:"
)
_ASSERTION = "assertion failed: ["
_MESSAGE_LENGTH = 1000
_TRACEBACK = "Traceback (most recent call last)"


def bad_row(shard: Shard, key: str, failure: Failure) -> BadRow:
    """Say what the errors table says of a row that failed.

    Args:
      shard: whose row.
      key: feature that identifies an example; empty for file and row.
      failure: of the row.
    """
    piece, row = shard.locate(failure.position)
    example: str | None = f"{piece.name}#{row}"
    if key:
        value = failure.passed.get(key)
        example = None if value is None else _text(np.asarray(value).item())
    return BadRow(
        example_id=example,
        shard=shard.index,
        file=piece.file,
        row=row,
        stage=failure.stage,
        exception=type(failure.error).__name__,
        message=clean_message(failure.error),
    )


def clean_message(error: Exception) -> str:
    """What an exception says, fit to be shown.

    Names of graph nodes, which differ by run, are left out.
    """
    text = _NOISE.sub("", str(getattr(error, "message", error)))
    # Python inside a graph adds its own traceback, with paths that differ by machine.
    text, _, _ = text.partition(_TRACEBACK)
    text = " ".join(text.split())
    if text.startswith(_ASSERTION):  # its parts stand in brackets, quotes escaped
        text = text.removeprefix(_ASSERTION).removesuffix("]")
        text = text.replace("] [", " ").replace("\\'", "'")
    return shown(text)[:_MESSAGE_LENGTH]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
