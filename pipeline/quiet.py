"""Keep TensorFlow and Beam from talking over what the user should see."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from transforms.credentials import mask, mask_logs
from transforms.imports import quick_imports

TRACEBACK = "Traceback (most recent call last)"


def start_tensorflow(*, compute: bool) -> None:
    """Import TensorFlow and set its devices, as quietly as it can be done.

    Args:
      compute: as for `device.configure`.
    """
    with _held_back():
        from transforms import device

        device.configure(compute=compute)


def default_processes() -> int:
    """Tell how many processes fill this machine, as `device.default_processes` does."""
    with _held_back():
        from transforms import device

        return device.default_processes()


@contextmanager
def _held_back() -> Iterator[None]:
    """Hold back what is said in a block before TensorFlow can be told to be quiet.

    With FEATURETAP_DEBUG set, or if the block fails, nothing is held back.
    """
    mask_logs()
    if is_debugging():
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "tensorflow", "apache_beam"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Beam leaves out arguments that it does not know: say so.
    logging.getLogger("apache_beam.options").setLevel(logging.WARNING)
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextmanager
def quiet_import() -> Iterator[None]:
    """Import Beam quickly, and keep it from warning of extras that are not needed."""
    logging.disable(logging.WARNING)
    try:
        with quick_imports():
            yield
    finally:
        logging.disable(logging.NOTSET)


def is_debugging() -> bool:
    """Whether tracebacks and logs are asked for, by FEATURETAP_DEBUG."""
    return bool(os.environ.get("FEATURETAP_DEBUG"))


class Discreet:
    """A stderr that shows no credentials, and no tracebacks unless asked for.

    Beam prints tracebacks besides raising them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text without credentials, unless it is a traceback."""
        if text.startswith(TRACEBACK) and not is_debugging():
            return len(text)
        return self._stream.write(mask(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
