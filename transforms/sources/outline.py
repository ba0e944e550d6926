"""Reduce lines of JSON to their outlines: what is parsed before values are converted.

Lines of one outline have the same keys, with values of the same kinds, or break off or
go wrong in the same place. So what Arrow's parser says of one of them, before it
converts its values, it says of each of them.
"""

from __future__ import annotations

import re

_SPACE = rb"[ \t\r]*+"
_NUMBER = (
    rb"-?(?:0|[1-9]\d{0,14}+)(?:\.\d{1,17}+)?(?:[eE][+-]?\d{1,2}+)?(?=[ \t\r,\]}]|\Z)"
)
_CHARACTERS = (
    rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[\da-fA-F]{4}'
    rb"|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2})*+"
)
_STRING = rb'"' + _CHARACTERS + rb'"'


def _list_of(element: bytes) -> bytes:
    between = _SPACE + rb"," + _SPACE
    return rb"\[" + _SPACE + element + rb"(?:" + between + element + rb")*"


_TOKEN = re.compile(
    rb"(?P<numbers>" + _list_of(_NUMBER) + rb")"
    rb"|(?P<strings>" + _list_of(_STRING) + rb")"
    rb"|(?P<key>" + _STRING + _SPACE + rb":)"
    rb"|(?P<string>" + _STRING + rb")"
    rb'|(?P<broken>"' + _CHARACTERS + rb"(?P<rest>.*))"
    rb"|(?<![\w.+-])(?:(?P<number>" + _NUMBER + rb")"
    rb"|(?P<word>(?!true|false|null|NaN|Inf)[A-Za-z].*))",
    re.DOTALL,
)
_TIME = b'"2000-01-01"'  # a string that can be converted to whatever strings can be
_OUTLINES = {
    "numbers": b"[0",
    "strings": b"[" + _TIME,
    "string": _TIME,
    "number": b"0",
    "word": b"w",
}
_TAIL = 12  # bytes of a string from where it goes wrong, by which Arrow tells why


def outline(line: bytes) -> bytes:
    r"""Put one value in place of all that the parser does not tell apart.

    Lists of numbers, or of strings, have one element. What follows on a string that is
    not valid, or on a word without quotes, is left out, since no parser comes to it.

    >>> outline(b'{"a": 1.5, "b": ["x", "y"], "c": nul}')
    b'{"a": 0, "b": ["2000-01-01"], "c": w'
    >>> outline(b'{"a": 1.5, "b": "x')
    b'{"a": 0, "b": "'
    """
    return _TOKEN.sub(_shape, line)


def _shape(found: re.Match[bytes]) -> bytes:
    if found.lastgroup == "key":
        return found[0]
    if found["rest"] is not None:
        return b'"' + found["rest"][:_TAIL]
    return _OUTLINES[str(found.lastgroup)]
