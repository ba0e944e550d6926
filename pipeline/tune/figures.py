"""Say measured numbers to as many digits as they are good for."""

from __future__ import annotations

import math

_DIGITS = 3


def micro(seconds: float) -> str:
    """Say seconds in microseconds, to about three digits.

    >>> micro(0.00002087), micro(1.5)
    ('20.9', '1,500,000')
    """
    return round_figure(seconds * 1e6)


def round_figure(figure: float | None) -> str:
    """Say a number to three digits, whole ones in full; `-` if it is not known.

    >>> round_figure(56912.3), round_figure(0.001234), round_figure(None)
    ('56,900', '0.00123', '-')
    """
    if figure is None or math.isinf(figure):
        return "-"
    if not figure:
        return "0"
    beyond = _DIGITS - 1 - math.floor(math.log10(abs(figure)))
    return f"{round(figure, beyond):,.{max(beyond, 0)}f}"
