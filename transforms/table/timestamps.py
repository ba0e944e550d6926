"""Turn numbers and text into timestamps."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa

from transforms.lookup import ConfigError

_MICROSECONDS = {"s": 10**6, "ms": 10**3, "us": 1}
_MOST = 2**62


def constant_timestamp(text: str) -> datetime.datetime | None:
    """Parse an RFC 3339 time with an offset; None if the text is something else."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        raise ConfigError(
            f"table.event_timestamp must have an offset, such as"
            f" '2026-01-31T12:00:00Z', got {text!r}"
        )
    try:
        return moment.astimezone(datetime.UTC)
    except OverflowError:
        raise ConfigError(
            "table.event_timestamp must lie within the years 1 to 9999 in UTC, got"
            f" {text!r}"
        ) from None


def parse_timestamps(texts: np.ndarray) -> pa.Array:
    """Parse RFC 3339 text, an object array of bytes; without an offset it is UTC.

    Raises:
      ValueError: one is no time.
    """
    parsed = [datetime.datetime.fromisoformat(text.decode()) for text in texts]
    return pa.array(parsed, pa.timestamp("us", tz="UTC"))


def microseconds(values: np.ndarray, unit: str) -> np.ndarray:
    """Turn numbers since the epoch into int64 microseconds.

    Raises:
      ValueError: one of them is no time that can be stored.
    """
    per_unit = _MICROSECONDS.get(unit, 1)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # half floats end at 65,504
        # In two steps, since a product may not be exact where the whole part is.
        if not (np.abs(values) < _MOST // per_unit).all():  # nor is a NaN
            raise ValueError("event timestamp is no time")
        whole = np.floor(values)
        rest = np.rint((values - whole) * per_unit)
        return np.asarray(whole.astype(np.int64) * per_unit + rest.astype(np.int64))
    if (np.abs(values.astype(np.float64)) > _MOST // per_unit).any():
        raise ValueError(f"event timestamp is out of range for unit {unit!r}")
    return np.asarray(values.astype(np.int64) * per_unit)
