"""Find credentials in text, and keep them out of messages and logs."""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
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
# Names alone are user info only in these; abfs://container@account is no secret.
_USER_INFO = re.compile(
    r"(?i)(?:(?<=http://)|(?<=https://)|(?<=ftp://))[^/\s@'\"]+(?=@)"
    r"|(?<=://)[^/\s@:'\"]*:(?!\d+/)[^\s@'\"]+(?=@)"
)
_QUERY = re.compile(
    r"(?i)([?&;](?:[\w.-]*(?:signature|token|secret|passw|credential|accesskey|apikey)"
    r"[\w.-]*|sig|key|api[_-]key|access[_-]key)=)([^&;\s'\"#]+)"
)
_ASSIGNED = re.compile(
    r"(?i)(['\"]?\b(?:[\w-]*(?:secret|passw(?:or)?d|private_key|account_key|api_key"
    r"|access_key|connection_string)|(?:access|auth|bearer|sas|session|refresh)_?token)"
    r"\b['\"]?\s*[:=]\s*)('[^']*'|\"[^\"]*\"|[^\s,;)}\]]+)"
)
_HEADER = re.compile(r"(?i)\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}")


def mask(text: str) -> str:
    """Replace what looks like a credential, and those that the environment holds.

    >>> mask("cannot open https://me:hunter2@host/a?X-Amz-Signature=ab12&b=1")
    'cannot open https://***@host/a?X-Amz-Signature=***&b=1'
    """
    for secret in _environment():
        text = text.replace(secret, _MASK)
    if "@" in text:
        text = _USER_INFO.sub(_MASK, text)
    text = _QUERY.sub(rf"\1{_MASK}", text)
    text = _ASSIGNED.sub(rf"\1{_MASK}", text)
    return _HEADER.sub(rf"\1{_MASK}", text)


def holds_credentials(uri: str) -> bool:
    """Whether a URI holds a password, a token or a signature.

    >>> holds_credentials("s3://key:secret@bucket/a"), holds_credentials("s3://bucket/a")
    (True, False)
    """
    if "://" not in uri:
        return False
    return bool(_USER_INFO.search(uri) or _QUERY.search(uri))


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


def _environment() -> Iterator[str]:
    """Yield the values of credentials that this process has been given."""
    for name, value in os.environ.items():
        if is_secret_name(name) and len(value) >= _SHORTEST_SECRET:
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
