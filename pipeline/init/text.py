"""Write a config as TOML that explains itself."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH = 88
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Lines:
    """Lines of a config, written one after the other."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def section(self, header: str) -> None:
        """Begin a section, such as `[source]` or `[[taps]]`."""
        self._lines += ["", header] if self._lines else [header]

    def put(self, key: str, value: Any, comment: str = "") -> None:
        """Write a key, with a comment beside it or, if it is too long, above it."""
        self._commented(f"{toml_key(key)} = {toml(value)}", comment)

    def steps(self, steps: Sequence[tuple[Mapping[str, Any], str]]) -> None:
        """Write preprocessing steps, a line each, each with a comment."""
        self._lines.append("preprocess = [")
        for step, comment in steps:
            self._commented(f"{toml(step)},", comment, "  ")
        self._lines.append("]")

    def say(self, comment: str) -> None:
        """Write a comment of its own."""
        self._comment(comment, "")

    def text(self) -> str:
        """Give the whole config."""
        return "\n".join(self._lines) + "\n"

    def _commented(self, line: str, comment: str, indent: str = "") -> None:
        beside = f"{indent}{line}  # {comment}"
        if comment and len(beside) > _WIDTH:
            self._comment(comment, indent)
        fits = comment and len(beside) <= _WIDTH
        self._lines.append(beside if fits else f"{indent}{line}")

    def _comment(self, text: str, indent: str) -> None:
        self._lines += textwrap.wrap(
            " ".join(text.split()),
            _WIDTH,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def toml(value: Any) -> str:
    """Write a value as TOML, in one line.

    >>> toml({"step": "pad", "lengths": [4, 8], "vec.bin": True})
    '{ step = "pad", lengths = [4, 8], "vec.bin" = true }'
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{toml_key(k)} = {toml(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    # What JSON escapes of text, numbers and flags, TOML reads alike; but for one.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(key: str) -> str:
    """Write a key, in quotes if it needs some."""
    return key if _BARE.fullmatch(key) else toml(key)
