"""Find credentials in text, and keep them out of messages and logs."""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from itertools import chain
from typing import Any

_MASK = "***"
_SHORTEST_SECRET = 6
_SECRET_NAME = re.compile(
    r"(?i)(^|_)secret(_|$)|passw(or)?d$|passphrase$|connection_string"
    r"|(access|account|api|private)[_-]?key$"
    r"|^token$|(^|_)(access|api|auth|bearer|github|hf|refresh|sas|session)_?token$"
)
# Places of secrets are none.
_NO_SECRET = re.compile(r"(?i)[_-](dir|file|path|ur[il]|name)$")
# Runs of text in which user info ends at an @.
_BEFORE_AT = re.compile(r"([^\s@'\"]++)(@?)")
_NAME_AND_PASSWORD = re.compile(r"(?s)(?<=://)[^/:]*+:(?!\d++/)(?=.)")
# Names alone are user info only in these; abfs://container@account is no secret.
_NAME_ALONE = re.compile(r"(?i)(?:https?|ftp)://(?=[^/]++\Z)")
# A name, and what stands between it and its value.
_NAMED = re.compile(r"(?<![\w.-])([\w.-]++)(['\"]?\s*+[:=]\s*+)")
_QUERY_NAME = re.compile(
    r"(?i)signature|token|secret|passw|credential|accesskey|apikey|private_key"
    r"|account_key|connection_string"
    r"|\A(?:sig|key|api[_-]key|access[_-]key)\Z"
)
_ASSIGNED_NAME = re.compile(
    r"(?i)(?:secret|passw(?:or)?d|private_key|account_key|api_key|access_key"
    r"|connection_string|\b(?:access|auth|bearer|sas|session|refresh)_?token)\Z"
)
_QUERY_VALUE = re.compile(r"[^&;\s'\"#]++")
_ASSIGNED_VALUE = re.compile(
    r"'[^']*+(?:'|\Z)|\"[^\"]*+(?:\"|\Z)|[^\s,;)}\]]++"  # an open quote: to the end
)
_HEADER = re.compile(r"(?i)\b(?:bearer|basic)\s++([\w.~+/=-]{8,})")
# The longest credential that is masked whole at the end of what is shown.
_LONGEST = 1 << 16


def mask(text: str, most: int | None = None) -> str:
    """Replace what looks like a credential, and those that the environment holds.

    The time grows with the length of the text, and of no more than what is shown.

    Args:
      text: any text.
      most: give no more than so many of its first characters. A credential among them
        is masked whole, wherever it ends.

    >>> mask("cannot open https://me:hunter2@host/a?X-Amz-Signature=ab12&b=1")
    'cannot open https://***@host/a?X-Amz-Signature=***&b=1'
    """
    end = len(text) if most is None else min(most, len(text))
    text = text[: end + _LONGEST]
    masked, at = "", 0
    for start, stop in sorted(_credentials(text)):
        if start >= end:
            break
        if start >= at:
            masked += text[at:start] + _MASK
        at = max(at, stop)
    return masked + text[at:end]


def holds_credentials(uri: str) -> bool:
    """Whether a URI holds a password, a token or a signature.

    >>> holds_credentials("s3://key:secret@bucket/a"), holds_credentials("s3://bucket/a")
    (True, False)
    """
    if "://" not in uri:
        return False
    return any(True for _ in chain(_user_info(uri), _values(uri, of_queries=True)))


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether something of this name is likely to be a credential.

    >>> is_secret_name("aws_secret_access_key"), is_secret_name("pad_token")
    (True, False)
    """
    return bool(_SECRET_NAME.search(name)) and not _NO_SECRET.search(name)


@cache
def mask_logs() -> None:
    """Keep credentials out of whatever any library of this process logs."""
    make = logging.getLogRecordFactory()

    def masked(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        with suppress(TypeError, ValueError):  # a message that does not fit its values
            record.msg, record.args = mask(record.getMessage()), ()
        if record.exc_info and record.exc_info[0]:
            lines = traceback.format_exception(*record.exc_info)
            record.exc_text = mask("".join(lines))
        return record

    logging.setLogRecordFactory(masked)


def _credentials(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each credential begins and ends; they may overlap."""
    for secret in _environment():
        at = text.find(secret)
        while at >= 0:
            yield at, at + len(secret)
            at = text.find(secret, at + len(secret))
    yield from _user_info(text)
    yield from _values(text)
    yield from (found.span(1) for found in _HEADER.finditer(text))


def _user_info(text: str) -> Iterator[tuple[int, int]]:
    """Find `name:password` and tokens in front of an @ in URIs."""
    for run in _BEFORE_AT.finditer(text) if "@" in text else ():
        info = _NAME_AND_PASSWORD.search(run[1]) or _NAME_ALONE.search(run[1])
        if run[2] and info:
            start = info.start() if info.re is _NAME_AND_PASSWORD else info.end()
            yield run.start() + start, run.end(1)


def _values(text: str, *, of_queries: bool = False) -> Iterator[tuple[int, int]]:
    """Find values such as those of `?sig=` in URIs and, elsewhere, of `password: `."""
    at = 0
    for named in _NAMED.finditer(text):
        name, sign = named.groups()
        before = text[named.start() - 1 : named.start()] if sign == "=" else ""
        is_query = before in ("?", "&", ";") and _QUERY_NAME.search(name)
        is_assigned = not of_queries and _ASSIGNED_NAME.search(name)
        if named.start() < at or not (is_query or is_assigned):
            continue
        in_query = is_query and (before != ";" or not is_assigned)
        kind = _QUERY_VALUE if in_query else _ASSIGNED_VALUE
        if value := kind.match(text, named.end()):
            at = value.end()
            yield value.span()


def _environment() -> Iterator[str]:
    """Yield the values of credentials that this process has been given."""
    for name in filter(is_secret_name, os.environ):  # many messages come at once
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST_SECRET:
            yield value
    from fsspec.config import conf

    yield from _inside(conf)


def _inside(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _inside(value)
        elif (
            isinstance(value, str)
            and is_secret_name(name)
            and len(value) >= _SHORTEST_SECRET
        ):
            yield value
