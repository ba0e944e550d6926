"""Give local directories for unfinished files; remove those of dead processes."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """Give an empty directory for the length of a block, then remove it.

    It lies under the system's temporary directory (`TMPDIR`). If a process dies and
    leaves its directories, the next process that asks for one removes them.
    """
    path = _own(os.getpid()) / uuid.uuid4().hex
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def hold(name: str) -> int | None:
    """Take a lock that only one of this user's processes on this machine can hold.

    Args:
      name: name of the lock, which is a file name.

    Returns:
      A file descriptor; closing it releases the lock, and so does the end of the
      process. None if another process holds the lock.
    """
    try:
        return _lock(_root() / name, fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _root() -> Path:
    """Make the directory that all of this user's processes share."""
    root = Path(tempfile.gettempdir()) / f"featuretap-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise OSError(
            f"the directory for temporary files must be this user's own, {root} is"
            " somebody else's; set TMPDIR to another place"
        )
    return root


@cache
def _own(pid: int) -> Path:
    """Make this process's directory, and hold a lock on it as long as it lives.

    The operating system releases the lock when the process ends, however it ends; that
    is how others tell that the directory is of no use any more.
    """
    root = _root()
    with _locked(root / "sweep.lock"):
        _sweep(root)
        own = root / f"{pid}-{uuid.uuid4().hex[:8]}"
        own.mkdir()
        _lock(own / "lock")
    atexit.register(_remove, own, pid)
    return own


def _sweep(root: Path) -> None:
    """Remove the directories of processes that have ended."""
    for other in root.iterdir():
        if not other.is_dir():
            continue
        with contextlib.suppress(OSError), _locked(other / "lock", fcntl.LOCK_NB):
            shutil.rmtree(other, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[None]:
    """Hold a lock on a file for the length of a block."""
    descriptor = _lock(path, flags)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, flags: int = 0) -> int:
    """Lock a file until the descriptor is closed.

    Raises:
      BlockingIOError: another process holds the lock, and `flags` is `LOCK_NB`.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(own: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked child runs its parent's exit handlers too
        shutil.rmtree(own, ignore_errors=True)
