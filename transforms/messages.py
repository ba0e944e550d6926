"""Make text from anywhere fit to be shown: no secrets, no control characters."""

from __future__ import annotations

from collections.abc import Iterable

from transforms.credentials import mask


def plain(text: str) -> str:
    r"""Show characters that a terminal would obey, or that turn its text around.

    Line ends stay.

    >>> plain("a\x1b[31mb\n")
    'a\\x1b[31mb\n'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in text
    )


def shown(text: str, most: int | None = None) -> str:
    """Make text from anywhere fit for a message: `mask` and `plain`.

    Args:
      text: from anywhere.
      most: give no more than so many characters.
    """
    return plain(mask(text, most))[:most]


def shape_text(shape: Iterable[object]) -> str:
    """Show a shape; `?` stands for a length that is not known.

    >>> shape_text((None, 3))
    '[?, 3]'
    """
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


def first_line(error: Exception) -> str:
    """Say what an exception says in its first line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
