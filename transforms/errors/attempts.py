"""Note which worker is at which shard, so that shards that kill workers are noticed.

A note is a file in the table's `_featuretap/attempts`. It is removed when the worker is
done with the shard, whether that went well or not; so a note whose worker is not alive
tells of a death.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from collections.abc import Iterator, Sequence

from transforms import storage

_own_notes: set[str] = set()


@contextlib.contextmanager
def attempt(directory: str, shard: int) -> Iterator[None]:
    """Note for the length of a block that this process is at a shard.

    Args:
      directory: URI of the table's `attempts`.
      shard: index of the shard.
    """
    note = storage.join(directory, f"{shard:05d}-{uuid.uuid4().hex[:8]}.json")
    document = {"shard": shard, "host": socket.gethostname(), "pid": os.getpid()}
    _own_notes.add(note)
    try:
        storage.replace(note, json.dumps(document).encode())
        yield
    finally:
        _own_notes.discard(note)
        # A note too many costs time, an error here would hide another.
        with contextlib.suppress(Exception):
            storage.remove(note)


def forget_attempts() -> None:
    """Remove the notes of this process, which is about to end itself."""
    for note in list(_own_notes):
        storage.remove(note)


def count_deaths(notes: Sequence[str]) -> int:
    """Count the notes whose workers are not known to be alive.

    Only processes of this machine can be asked.

    Args:
      notes: their URIs, as `Table.attempts` gives them.
    """
    found = 0
    for uri in notes:
        if uri in _own_notes:  # of another thread
            continue
        with contextlib.suppress(FileNotFoundError):  # it has just finished
            found += not _is_alive(storage.read(uri))
    return found


def _is_alive(note: bytes) -> bool:
    """Whether the worker that left a note is a living process of this machine."""
    try:
        document = json.loads(note)
        if document["host"] != socket.gethostname():
            return False
        if document["pid"] == os.getpid():
            return False  # numbers come again; this one has just begun with the shard
        os.kill(int(document["pid"]), 0)
    except PermissionError:
        return True  # somebody else's
    except (ValueError, KeyError, TypeError, OSError, OverflowError):
        return False
    return True
