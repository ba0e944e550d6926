"""What children do: run jobs with a fault built in, at a chosen step."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam.runners.portability.fn_api_runner  # noqa: F401
import fsspec
import keras  # noqa: F401
import tensorflow as tf  # noqa: F401
import toolbox  # noqa: F401

from pipeline import make_plan, prepare_table, run_plan
from pipeline.config_file import parse_config
from transforms import extract, storage
from transforms.extract import extract_shard
from transforms.sources.batches import InputPipeline
from transforms.table import commit, directory, parquet_writer
from transforms.table.directory import Table
from transforms.table.plan_file import read_plan, read_shards
from transforms.worker import worker_for

Event = Callable[[str], None]


def run(
    config: dict[str, Any],
    *,
    earlier: Sequence[str] = (),
    die_at: int | str = 0,
    count: str = "",
    plant: str = "",
    disk: str = "",
    ready: str = "",
    stores: dict[str, Any] | None = None,
    uid: int = 0,
    room: int = 0,
) -> None:
    """Plan and run a job.

    Args:
      config: of the job.
      earlier: tables that rows are taken over from.
      die_at: step at which to be killed, by number or name.
      count: file to which the names of all steps are written.
      plant: bug to build in.
      disk: directory for what a loss of power would leave, at each step.
      ready: file to touch when the plan is made.
      stores: configuration of fsspec.
      uid: user to become.
      room: bytes of memory to take at most, beyond what is taken now.
    """
    _enter(stores, uid)
    _limit(room)
    plan = make_plan(parse_config(config), earlier)
    if plant:
        PLANTED[plant]()
    steps: list[str] = []
    power = _Power(Path(config["table"]["path"]), Path(disk)) if disk else None

    def event(name: str) -> None:
        steps.append(name)
        if power:
            power.lose(len(steps))
        if die_at in (len(steps), name):
            os.kill(os.getpid(), signal.SIGKILL)

    instrument(event, power)
    if ready:
        Path(ready).touch()
    run_plan(plan, beam_args=["--direct_num_workers=1"])
    if count:
        Path(count).write_text("\n".join(steps))


def command(config: str, ready: str, go: str) -> None:
    """Run the command line; wait before the second part is published.

    Args:
      config: a TOML file.
      ready: file to touch there.
      go: file to wait for.
    """
    from pipeline.cli import main

    published: list[str] = []

    def event(name: str) -> None:
        published.extend([name] * (name == "before publish"))
        if name == "before publish" and len(published) == 3:  # part, statistics, part
            Path(ready).touch()
            while not Path(go).exists():
                time.sleep(0.01)

    instrument(event)
    sys.argv = ["featuretap", "run", config, "--", "--direct_num_workers=1"]
    main()


def command_line(arguments: list[str], environment: dict[str, str]) -> None:
    """Run the command line."""
    from pipeline.cli import main

    os.environ.update(environment)
    sys.argv = ["featuretap", *arguments]
    main()


def one_shard(
    config: dict[str, Any],
    shard: int,
    *,
    stores: dict[str, Any] | None = None,
    plant: str = "",
    stop_before: str = "",
    level: int = 0,
) -> None:
    """Extract one shard of a planned table, as one worker of many.

    Args:
      config: of the job.
      shard: which one.
      stores: configuration of fsspec.
      plant: bug to build in.
      stop_before: step before which the process stops until it is continued.
      level: of compression, so that this process's bytes are its own.
    """
    _enter(stores, 0)
    checked = parse_config(config)
    if level:
        parquet_writer._COMPRESSION_LEVEL = level
    place = Table(checked.table.path)
    worker = worker_for(place, read_plan(place).seal)
    if plant:
        PLANTED[plant]()

    def event(name: str) -> None:
        nonlocal stop_before
        if name == stop_before:
            stop_before = ""
            os.kill(os.getpid(), signal.SIGSTOP)

    instrument(event)
    extract_shard(worker, read_shards(worker.table)[shard])


def prepare(
    config: dict[str, Any],
    stores: dict[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Plan a job and claim its directory."""
    _enter(stores, 0)
    prepare_table(make_plan(parse_config(config)), overwrite=overwrite)


def finish(config: dict[str, Any], stores: dict[str, Any] | None = None) -> None:
    """Finish a table whose shards are committed."""
    _enter(stores, 0)
    commit.commit_table(Table(config["table"]["path"]), 0.0)


def instrument(event: Event, power: _Power | None = None) -> None:
    """Call `event` before and after each step of a shard and of finishing a table."""
    for home, name in (
        (os, "fsync"),
        (os, "link"),
        (os, "replace"),
        (os, "unlink"),
        (os, "rmdir"),
        (os, "mkdir"),
        (InputPipeline, "batches"),
        (parquet_writer.PartWriter, "write"),
        (extract, "check_part"),
        (storage, "publish"),
        (directory.Table, "create_commit"),
        (commit, "_tidy"),
        (commit, "_check_keys"),
        (storage, "replace"),
    ):
        setattr(home, name, _around(getattr(home, name), name, event, power))


def _around(
    function: Any, name: str, event: Event, power: _Power | None
) -> Callable[..., Any]:
    def instrumented(*args: Any, **kwargs: Any) -> Any:
        event(f"before {name}")
        if power and name in ("unlink", "rmdir"):
            power.unlinked(args[0], kwargs.get("dir_fd"))
        result = function(*args, **kwargs)
        if power and name == "fsync":
            power.synced(args[0])
        event(f"after {name}")
        return result

    return instrumented


class _Power:
    """Keeps account of what has reached the disk.

    A loss of power leaves, at worst, the names that a directory had when it was last
    synced and the bytes that a file had then (`all`), or all names but only synced
    bytes (`bytes`).
    """

    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root, out
        self._bytes: dict[tuple[int, int], bytes] = {}
        self._names: dict[tuple[int, int], dict[str, tuple[int, int]]] = {}
        self._directories: set[tuple[int, int]] = set()
        self._age: dict[int, int] = {}

    def _key(self, path: str | Path) -> tuple[int, int]:
        number = os.stat(path).st_ino
        return number, self._age.get(number, 0)

    def synced(self, descriptor: int) -> None:
        """Take note of what is on disk now."""
        path = f"/proc/self/fd/{descriptor}"
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            real = os.readlink(path)
            names = os.listdir(real)
            self._names[self._key(path)] = {n: self._key(f"{real}/{n}") for n in names}
            self._directories |= {
                self._key(f"{real}/{n}") for n in names if Path(real, n).is_dir()
            }
        else:
            self._bytes[self._key(path)] = Path(path).read_bytes()

    def unlinked(self, path: str | Path, directory: int | None) -> None:
        """Numbers of inodes are used again."""
        found = os.stat(path, dir_fd=directory, follow_symlinks=False)
        if found.st_nlink == 1 or stat.S_ISDIR(found.st_mode):
            self._age[found.st_ino] = self._age.get(found.st_ino, 0) + 1

    def lose(self, step: int) -> None:
        """Lay out what a loss of power would leave now."""
        parent = self._names.get(self._key(self.root.parent), {})
        if self.root.name in parent:
            self._lay(parent[self.root.name], self.out / f"{step}-all")
        if self.root.exists():
            self._copy(self.root, self.out / f"{step}-bytes")

    def _lay(self, key: tuple[int, int], target: Path) -> None:
        if key in self._directories:
            _make(target)
            for name, inner in self._names.get(key, {}).items():
                self._lay(inner, target / name)
        else:
            target.write_bytes(self._bytes.get(key, b""))

    def _copy(self, source: Path, target: Path) -> None:
        _make(target)
        for path in list(source.iterdir()):
            if path.is_dir():
                self._copy(path, target / path.name)
            else:
                data = self._bytes.get(self._key(path), b"")
                (target / path.name).write_bytes(data)


_mkdir = os.mkdir


def _make(path: Path) -> None:
    for one in [*reversed(path.parents), path]:
        if not one.exists():
            _mkdir(one)


def _enter(stores: dict[str, Any] | None, uid: int) -> None:
    if stores:
        os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
        fsspec.config.conf.update(stores)
    if uid:
        os.setgid(uid)
        os.setuid(uid)


def _limit(room: int) -> None:
    if room:
        status = Path("/proc/self/status").read_text()
        taken = int(re.search(r"VmData:\s*(\d+)", status)[1]) << 10  # type: ignore[index]
        resource.setrlimit(resource.RLIMIT_DATA, (taken + room, taken + room))


def take(room: int, size: int) -> None:
    """Take memory under a limit."""
    _limit(room)
    bytearray(size)


def _skip_fsync_of_files() -> None:
    storage._sync = lambda stream: stream.flush()  # type: ignore[assignment]


def _skip_fsync_of_directories() -> None:
    storage._sync_directory = lambda directory: None  # type: ignore[assignment]


def _skip_fsync_of_data() -> None:
    sync = storage._sync_directory

    def skip(directory: Path) -> None:
        if directory.name != "data":
            sync(directory)

    storage._sync_directory = skip


def _commit_before_upload() -> None:
    publish = storage.publish
    create = directory.Table.create_commit
    waiting: list[tuple[Path, str]] = []

    def later(source: Path, uri: str) -> None:
        kept = source.parent.parent / f"{source.parent.name}-{source.name}"
        os.rename(source, kept)
        waiting.append((kept, uri))

    def early(self: Table, record: Any) -> bool:
        won = create(self, record)
        while waiting:
            publish(*waiting.pop())
        return won

    storage.publish = later  # type: ignore[assignment]
    directory.Table.create_commit = early  # type: ignore[method-assign]


def _drop_create_only() -> None:
    def create(uri: str, data: bytes) -> bool:
        storage.replace(uri, data)
        return True

    storage.create = create  # type: ignore[assignment]


PLANTED = {
    "skip fsync of files": _skip_fsync_of_files,
    "skip fsync of directories": _skip_fsync_of_directories,
    "skip fsync of the part's directory": _skip_fsync_of_data,
    "commit before upload": _commit_before_upload,
    "drop create-only": _drop_create_only,
}
