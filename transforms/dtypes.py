"""Know every type that a feature or a column can have: the one table of dtypes.

To add a type, add it here; readers, preprocessing and columns look it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import tensorflow as tf

_NULL = "\0null"  # no name that data can have ends so
_TEXT_BYTES = 32  # what a text is taken to be long, where only its type is known


@dataclass(frozen=True, slots=True)
class Dtype:
    """One type of values.

    Attributes:
      name: as configs and plans write it: a numpy type name, `string` (UTF-8 text),
        `bytes`, or `timestamp` (microseconds since the epoch, UTC).
      family: `text`, `time`, `flag`, `integer` or `float`; casts stay within one.
      tensor: the TensorFlow type that carries values of it.
      arrow: the Arrow type of a column of it.
      bytes: uncompressed size of one value; of text an assumption.
    """

    name: str
    family: Literal["text", "time", "flag", "integer", "float"]
    tensor: str
    arrow: pa.DataType
    bytes: int


def _number(name: str, family: Literal["flag", "integer", "float"]) -> Dtype:
    kind = np.dtype(name)
    return Dtype(name, family, name, pa.from_numpy_dtype(kind), kind.itemsize)


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("string", "text", "string", pa.string(), _TEXT_BYTES),
        Dtype("bytes", "text", "string", pa.binary(), _TEXT_BYTES),
        _number("bool", "flag"),
        Dtype("timestamp", "time", "int64", pa.timestamp("us", tz="UTC"), 8),
        *(_number(name, "float") for name in ("float16", "float32", "float64")),
        *(_number(name, "integer") for name in ("int8", "int16", "int32", "int64")),
        *(_number(name, "integer") for name in ("uint8", "uint16", "uint32", "uint64")),
    )
}

KEY_DTYPES = (
    *("string", "int64", "int32", "int16", "int8"),
    *("uint8", "uint16", "uint32"),
)
"""Types that identify a row. Feature stores refuse uint64."""


@dataclass(frozen=True, slots=True)
class Feature:
    """Type of one feature of an example.

    Attributes:
      dtype: name of an entry of `DTYPES`.
      shape: without the batch dimension; None where it differs between examples.
      nullable: whether rows may have no value. A reader that is asked for such a
        feature gives, beside it, a bool feature called `null_name(feature)`, true
        where there is none; the value there is zero, or empty text.
      fill: what a reader gives where a row, or an element of its list, has no value.
        None makes such a row a bad row, unless the feature is nullable.
    """

    dtype: str
    shape: tuple[int | None, ...] = ()
    nullable: bool = False
    fill: int | float | str | None = None

    @property
    def tensor_dtype(self) -> str:
        """The TensorFlow type that carries it."""
        return DTYPES[self.dtype].tensor

    @property
    def family(self) -> str:
        """The family of its dtype."""
        return DTYPES[self.dtype].family

    @property
    def nothing(self) -> Any:
        """What stands where there is no value: its fill, or zero, or empty text.

        Text is given as bytes, anything else as a scalar of the tensor's type.
        """
        if self.tensor_dtype == "string":
            return str(self.fill or "").encode()
        return np.dtype(self.tensor_dtype).type(self.fill or 0)


def holds(dtype: str, value: int | float | str) -> bool:
    """Whether a type has a value that a config gives.

    >>> holds("int8", 300), holds("float16", 0.1), holds("string", 0)
    (False, True, False)
    """
    family = DTYPES[dtype].family
    if family == "text" or isinstance(value, str):
        return family == "text" and isinstance(value, str)
    with np.errstate(invalid="ignore", over="ignore"):
        made = np.asarray(value).astype(DTYPES[dtype].tensor)
    if family == "float":
        return bool(np.isfinite(made) or not np.isfinite(value))
    return bool(made == value)


def null_name(feature: str) -> str:
    """Name the bool feature that is true where another has no value."""
    return f"{feature}{_NULL}"


def is_null_name(name: str) -> bool:
    """Whether a feature is one that says where another has no value."""
    return name.endswith(_NULL)


def column_dtype(tensor_dtype: str) -> str | None:
    """Give the type of the column that holds a tensor's values; None if none can.

    Half floats are widened: many readers of Parquet do not know them.

    >>> column_dtype("bfloat16"), column_dtype("int8"), column_dtype("complex64")
    ('float32', 'int8', None)
    """
    if tensor_dtype in ("float16", "bfloat16"):
        return "float32"
    return tensor_dtype if tensor_dtype in DTYPES else None


def tensor_specs(
    features: Mapping[str, Feature], *, batched: bool = False
) -> dict[str, tf.TensorSpec]:
    """Give the tensors that carry features, with those that say where nulls are.

    Args:
      features: by name.
      batched: with a batch axis of any length in front.
    """
    import tensorflow as tf

    lead = [None] if batched else []
    specs = {}
    for name, feature in features.items():
        specs[name] = tf.TensorSpec([*lead, *feature.shape], feature.tensor_dtype)
        if feature.nullable:
            specs[null_name(name)] = tf.TensorSpec(lead, tf.bool)
    return specs
