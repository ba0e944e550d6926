"""Say at the first bad row of a run what it will mean at the end, while it goes on."""

from __future__ import annotations

import json
import logging
import math
from contextlib import suppress
from dataclasses import asdict

from transforms import storage
from transforms.credentials import mask
from transforms.errors.quarantine import BadRow

_log = logging.getLogger("featuretap")


def notice(place: str, bad: BadRow, max_fraction: float, rows: int | None) -> None:
    """Log a warning of a bad row, unless one of this run has been logged before.

    Args:
      place: URI of the file by which the workers of a run know of each other's.
      bad: the row.
      max_fraction: share of all rows that may be bad, from 0 to 1.
      rows: how many rows the run has; None if that is not known before it ends.
    """
    is_first = True
    with suppress(Exception):  # said twice is better than a run that fails
        is_first = storage.create(place, json.dumps(asdict(bad)).encode())
    if is_first:
        _log.warning(
            "row %s of %s is bad (%s: %s). The run goes on, %s",
            bad.row,
            mask(bad.file),
            bad.stage,
            bad.message,
            _consequence(max_fraction, rows),
        )


def _consequence(max_fraction: float, rows: int | None) -> str:
    """Say what bad rows do to a run.

    >>> _consequence(1, None)
    'and sets such rows apart, as errors.max_fraction = 1 says'
    >>> "--set errors.max_fraction=0.1" in _consequence(0, 41)
    True
    """
    setting = f"errors.max_fraction = {max_fraction:g}"
    if max_fraction == 1:
        return f"and sets such rows apart, as {setting} says"
    if max_fraction == 0:
        when = f"but will fail at its end, since {setting} accepts no bad row"
    elif rows is None:
        when = f"but will fail at its end if more rows are bad than {setting} accepts"
    else:
        most = math.floor(max_fraction * rows)
        when = (
            f"but will fail at its end if more than {most} of {rows} rows are bad"
            f" ({setting})"
        )
    least = max(max_fraction, 0 if rows is None else 1 / rows)  # one row, if no more
    more = next((one for one in (0.01, 0.1, 0.5) if one > least), 1)
    return (
        f"{when}. To accept more run it again, now or then, with --set"
        f" errors.max_fraction={more:g}: nothing that is done is computed twice"
    )
