"""Say sizes and lay out tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def size_text(count: int | None) -> str:
    """Say a number of bytes; `?` if it is not known.

    >>> size_text(1536)
    '1.5 KiB'
    """
    if count is None:
        return "?"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns to the left, as wide as they need, so that a pipe loses nothing."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        line = "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        yield line.rstrip()
