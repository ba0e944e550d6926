"""Name the types that features and columns can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

DTYPES = (
    *("string", "bytes", "bool", "timestamp", "float16", "float32", "float64"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)


@dataclass(frozen=True, slots=True)
class Feature:
    """Type of one feature of an example.

    Attributes:
      dtype: a numpy type name, `string` (UTF-8 text), `bytes`, or `timestamp` (int64
        microseconds since the epoch, UTC).
      shape: without the batch dimension; None where it differs between examples (-1 in
        a config).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dtype: str
    shape: tuple[int | None, ...] = ()

    @property
    def tensor_dtype(self) -> str:
        """The TensorFlow type that carries it."""
        return {"bytes": "string", "timestamp": "int64"}.get(self.dtype, self.dtype)
