"""Tables that follow each other under one root: which is current, which may go.

A root is a directory of tables. `_versions/00007.json` says which of them became the
current one as the seventh; such a record is created once and never changes, so of two
runs that end together one wins. `current.json` is a copy of the newest, for readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.differences import check_config, with_wiring
from transforms import storage
from transforms.config import Config
from transforms.lookup import ConfigError, TableError
from transforms.table.directory import Table, check_says, parse_document, to_json
from transforms.table.names import FOLLOWS, POINTER, REMOVING
from transforms.table.plan_file import TablePlan, read_plan

_VERSIONS = "_versions"
_RECORD = re.compile(r"(\d{5,})\.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
_SAYS: dict[str, type] = {"number": int, "table": str, "fingerprint": str, "rows": int}


@dataclass(frozen=True, slots=True)
class Version:
    """A table that is, or was, the current one of its root.

    Attributes:
      number: counts from 1, each time another table becomes current.
      table: name of the table's directory in the root.
      fingerprint: of its plan.
      rows: that it holds.
    """

    number: int
    table: str
    fingerprint: str
    rows: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune_tables` has done.

    Attributes:
      removed: names of tables.
      kept: names of tables, the newest first.
      spared: names of older tables that an unfinished one takes rows over from.
    """

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    spared: tuple[str, ...]


def current_version(root: str) -> Version | None:
    """Read which table of a root is current; None if none has been yet.

    Raises:
      TableError: the record that says so is damaged.
    """
    newest = max(_numbers(root), default=0)
    return _read(root, newest) if newest else None


def no_version(root: str) -> FileNotFoundError:
    """Say that a directory is no root of tables."""
    return FileNotFoundError(
        f"a root of tables must hold {POINTER}, found none in {root!r}; tables get"
        " there by featuretap run CONFIG --as NAME"
    )


def resolve(uri: str) -> str:
    """Give the URI of a table: the current one's, if a root of tables is named."""
    newest = current_version(uri)
    return uri if newest is None else storage.join(uri, newest.table)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new table goes, and what it follows.

    Attributes:
      config: with the table's own path.
      earlier: tables to take rows over from.
      root: directory of tables that it is in; empty if it stands alone.
      after: number of the version that it follows; 0 if it is the first.
      done: what `_SUCCESS` of the table holds, if it is finished and has been current.
    """

    config: Config
    earlier: tuple[str, ...]
    root: str = ""
    after: int = 0
    done: Mapping[str, Any] | None = None


def place(
    config: Config, name: str, earlier: Sequence[str] = (), *, overwrite: bool = False
) -> Place:
    """Put the table of a config under its path, which becomes a root of tables.

    A table that was begun before goes on with the tables that it was begun with.

    Args:
      config: whose `table.path` is the root.
      name: of the new table's directory in the root.
      earlier: tables to take rows over from; the current one if there are none.
      overwrite: what is at this name will be replaced.

    Raises:
      ConfigError: it is no name of a directory, or the root is itself a table, or the
        table is the current one and to be replaced, or was made by another config.
    """
    root = config.table.path
    _check_name(name)
    _check_root(config)
    table = Table(storage.join(root, name))
    spec = config.table.model_copy(update={"path": table.uri})
    config = config.model_copy(update={"table": spec})
    newest = current_version(root)
    after = newest.number if newest else 0
    if overwrite and newest and newest.table == name:
        raise ConfigError(
            f"{name!r} is the current table of {root!r}, which readers look at;"
            " give the new one another name"
        )
    begun = None if overwrite else _begun(table)
    if begun is None:
        if newest and not earlier:
            earlier = [_uri_of(root, newest)]
        return Place(config, tuple(earlier), root, after)
    follows = _follows(table)
    if done := _recorded(root, table, begun):
        check_config(table, with_wiring(config, begun), begun)
    before = [one.uri for one in begun.earlier]
    return Place(
        config,
        tuple(earlier or before),
        root,
        after if follows is None else follows,
        done,
    )


def begin(place: Place, *, overwrite: bool = False) -> None:
    """Note which version a table follows, unless it was begun before.

    Args:
      place: of the table, which is about to be planned and run.
      overwrite: what is at this name will be replaced.
    """
    table = Table(place.config.table.path)
    note = to_json({"after": place.after})
    if overwrite or _begun(table) is None:
        storage.replace(table.internal(FOLLOWS), note)
    else:
        storage.create(table.internal(FOLLOWS), note)


def _check_root(config: Config) -> None:
    root = config.table.path
    if config.limit:
        raise ConfigError(
            "either --as or --limit, got both: a table of some rows does not follow one"
            " of all"
        )
    if _is_there(Table(root)):
        raise ConfigError(
            f"with --as table.path must be a directory of tables, {root!r} is itself a"
            " table; choose another path"
        )


def _begun(table: Table) -> TablePlan | None:
    """Read the plan of a table; None if there is none, or not yet all of it."""
    try:
        return read_plan(table)
    except FileNotFoundError:
        return None


def _follows(table: Table) -> int | None:
    """Read the number of the version that a table follows; None if nobody noted it."""
    try:
        number = table.read_json(FOLLOWS).get("after")
    except FileNotFoundError:
        return None
    return number if isinstance(number, int) else None


def _recorded(root: str, table: Table, plan: TablePlan) -> Mapping[str, Any] | None:
    """Read `_SUCCESS` of a table that is or was the current one."""
    summary = table.read_success()
    if summary is None:
        return None
    name = table.uri.rpartition("/")[2]
    made = (name, plan.fingerprint)
    return next((summary for v in _all(root) if (v.table, v.fingerprint) == made), None)


def _uri_of(root: str, version: Version) -> str:
    """Give the URI of a table that is to be taken over.

    Raises:
      ConfigError: it is gone.
    """
    uri = storage.join(root, version.table)
    if not _is_there(Table(uri)):
        raise ConfigError(
            f"the current table of {root!r} must be there, {version.table!r} is gone;"
            f" make another one current: featuretap current {root} NAME"
        )
    return uri


def point_at(root: str, name: str, after: int | None = None) -> Version:
    """Make a finished table of a root the current one.

    Args:
      root: URI of the directory of tables.
      name: of the table's directory in there.
      after: number of the version that must still be current, 0 for none; None to
        point at the table whatever is current.

    Returns:
      The version; the current one if it is this table already.

    Raises:
      FileNotFoundError: there is no such table.
      ConfigError: it is not finished.
      RuntimeError: another table has become current.
    """
    _check_name(name)
    table = Table(storage.join(root, name))
    fingerprint = table.read_config()["fingerprint"]
    summary = table.read_success()
    if summary is None:
        raise ConfigError(
            f"the current table must be finished, {table.uri!r} has no _SUCCESS; go on"
            " with the command that began it"
        )
    newest = current_version(root)
    if newest and (newest.table, newest.fingerprint) == (name, fingerprint):
        _show_newest(root, newest.number)
        return newest
    last = newest.number if newest else 0
    version = Version(last + 1, name, fingerprint, summary["rows"])
    is_expected = after is None or after == last
    if not is_expected or not storage.create(
        _record(root, version.number), to_json(asdict(version))
    ):
        now = current_version(root)
        raise RuntimeError(
            f"{table.uri} is finished, but meanwhile {now and now.table!r} has become"
            f" the current table of {root!r}; that stays, unless you point at this one:"
            f" featuretap current {root} {name}"
        )
    _show_newest(root, version.number)
    return version


def prune_tables(root: str, keep: int) -> Pruned:
    """Remove tables of a root that have been current, but for the newest.

    Parts that a newer table carries are its own: links and copies stand alone. A table
    that an unfinished one of the root takes rows over from is spared.

    Args:
      root: URI of the directory of tables.
      keep: how many tables to keep, the current one included.

    Raises:
      FileNotFoundError: no table of the root has become current.
      ConfigError: none would be kept.
    """
    if keep < 1:
        raise ConfigError(f"--keep must be at least 1, got {keep}")
    names = dict.fromkeys(version.table for version in _all(root))
    if not names:
        raise no_version(root)
    there = [name for name in names if _is_there(Table(storage.join(root, name)))]
    needed = set(_needed(root))
    removed, spared = [], []
    for name in there[keep:]:
        table = Table(storage.join(root, name))
        if storage.absolute(table.uri) in needed or _is_being_made(table):
            spared.append(name)
            continue
        table.remove()
        removed.append(name)
    return Pruned(tuple(removed), tuple(there[:keep]), tuple(spared))


def _is_there(table: Table) -> bool:
    return storage.exists(table.internal("config.json"))


def _is_being_made(table: Table) -> bool:
    """Whether it is not finished, for another reason than that it is being removed."""
    if table.read_success() is not None:
        return False
    return not storage.exists(table.internal(REMOVING))


def _needed(root: str) -> Iterator[str]:
    """Yield the URIs of tables that unfinished ones of a root take rows over from."""
    for name in storage.list_directories(root):
        table = Table(storage.join(root, name))
        if table.read_success() is not None:
            continue
        plan, follows = _begun(table), _follows(table)
        for earlier in plan.earlier if plan else ():
            yield storage.absolute(earlier.uri)
        if plan is None and follows:  # it is being planned
            yield storage.absolute(storage.join(root, _read(root, follows).table))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == POINTER:
        raise ConfigError(
            "a table must be named by letters, digits and . _ = + -, such as"
            f" 2026-01-31, got {name!r}"
        )


def _record(root: str, number: int) -> str:
    return storage.join(root, _VERSIONS, f"{number:05d}.json")


def _numbers(root: str) -> list[int]:
    names = storage.list_names(storage.join(root, _VERSIONS))
    return [int(found[1]) for found in map(_RECORD.fullmatch, names) if found]


def _read(root: str, number: int) -> Version:
    uri = _record(root, number)
    document = parse_document(uri, storage.read(uri, written=True), _REMEDY)
    check_says(document, _SAYS, uri, _REMEDY)
    version = Version(**{name: document[name] for name in _SAYS})
    if not _NAME.fullmatch(version.table):
        raise TableError(f"{uri} must name a table beside it, got {version.table!r}")
    return version


def _all(root: str) -> Iterator[Version]:
    """Read all versions, the newest first."""
    for number in sorted(_numbers(root), reverse=True):
        yield _read(root, number)


def _show_newest(root: str, number: int) -> None:
    """Copy the newest record for readers; again if there is a newer one by then.

    Args:
      root: of the tables.
      number: of a record that is there, whether or not the store lists it yet.
    """
    shown = 0
    while (newest := max([number, *_numbers(root)])) > shown:
        version = to_json(asdict(_read(root, newest)))
        storage.replace(storage.join(root, POINTER), version)
        shown = newest


_REMEDY = "remove it, and point at a table with featuretap current ROOT NAME"
