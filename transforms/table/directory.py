"""Know what lies where in a table's directory, and read and write its documents.

data/part-00012-1f9c44d2.parquet          features; parts and nothing else
_SUCCESS                                  the table exists when this does
_featuretap/config.json                   config, fingerprint, what it is made of
_featuretap/schema.json                   columns, taps, and source features
_featuretap/plan.parquet                  shards
_featuretap/commits/00012.json            one record for each finished shard
_featuretap/errors/00012-1f9c44d2.parquet quarantined rows
_featuretap/statistics/00012-3ab5f8e1.parquet what a part's columns are like
_featuretap/samples/00012-5d70c2b4.parquet  rows of a part that are in the sample
_featuretap/attempts/00012-6f0e3d21.json  a worker is at this shard, or died at it
_featuretap/first_bad_row.json            which bad row the run has told of
_featuretap/uploads/                      unfinished files of local workers
_featuretap/manifest.parquet              parts of the finished table
_featuretap/statistics/table.parquet      what its columns are like
_featuretap/gates.json                    how they were judged
_featuretap/report.html                   a page that shows what it is like
_featuretap/parity.json                   deviations from an independent computation
_featuretap/published/                    where the table has gone
_featuretap/follows.json                  which table was current when it was begun
_featuretap/removing                      `prune` is removing the table
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.lookup import ConfigError, TableError
from transforms.messages import first_line
from transforms.table.commit_record import Commit, parse_commit
from transforms.table.names import (
    ATTEMPT,
    BESIDE_PARTS,
    COMMIT,
    DATA,
    FOLLOWS,
    GATES,
    INTERNAL,
    NOTICE,
    OF_SHARD,
    PART,
    REMOVING,
    REPORT,
    STATISTICS,
    commit_name,
)

FORMAT_VERSION = 2
"""Of the table's layout; a table of another version is refused by every command."""
SUMMARY: dict[str, type] = {
    **dict.fromkeys(("rows", "quarantined", "parts", "bytes"), int),
    "non_finite": dict,
    "made": dict,
    **dict.fromkeys(("seconds", "saved_seconds"), float),
    "saved_bytes": int,
    "format_version": int,
    "fingerprint": str,
    "versions": dict,
    "claim": str,
}
"""What `_SUCCESS` says of a finished table."""
WRITE_AGAIN = (
    "the table is damaged: run the command that made it again, which writes the file"
    " anew"
)
"""How to mend what a run writes from its plan."""
BEGIN_AGAIN = (
    "the table is damaged: put the file back, or start afresh with --overwrite"
)
"""How to mend what says whose table it is."""
REPAIR = "the table is damaged: run again with --repair, which writes the file anew"
"""How to mend what is made of commit records."""
_DOCUMENTS = (
    *("parity.json", "manifest.parquet", STATISTICS, GATES, REPORT, NOTICE),
    *("plan.parquet", "schema.json"),
)
_HIDDEN = ("_", ".")  # what readers of a directory pass over


@dataclass(frozen=True, slots=True)
class Table:
    """A table's directory.

    Attributes:
      uri: of the directory, on any filesystem of fsspec.
    """

    uri: str

    def path(self, name: str) -> str:
        """Give the URI of a file, from its path relative to the table."""
        return storage.join(self.uri, name)

    def internal(self, name: str = "") -> str:
        """Give the URI of one of featuretap's own files."""
        return self.path(f"{INTERNAL}/{name}".rstrip("/"))

    def read_config(self, *, written: bool = False) -> dict[str, Any]:
        """Read `config.json`, which says whose table this is, and of which format.

        Args:
          written: it is known to be there; wait for a store that shows it late.

        Raises:
          FileNotFoundError: this is not a table.
          ConfigError: it is one of another format.
          TableError: the document is damaged.
        """
        document = self.read_json("config.json", written=written)
        version = document.get("format_version")
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            remedy = (
                "use a newer featuretap"
                if newer
                else "make the table again at another path; remove the old one yourself"
            )
            raise ConfigError(
                f"this featuretap works on tables of format {FORMAT_VERSION}, the one"
                f" in {self.uri!r} has format {version}; {remedy}"
            )
        return document

    def read_json(self, name: str, *, written: bool = False) -> dict[str, Any]:
        """Read one of featuretap's own documents.

        Args:
          name: relative to `_featuretap`.
          written: it is known to be there; wait for a store that shows it late.

        Raises:
          FileNotFoundError: this is not a table, or it has no such document.
          TableError: the document is damaged.
        """
        try:
            data = storage.read(self.internal(name), written=written)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"a table must hold {INTERNAL}/{name}, found none in {self.uri!r};"
                " check the path, or start the table with featuretap run CONFIG"
            ) from None
        remedy = BEGIN_AGAIN if name == "config.json" else WRITE_AGAIN
        return parse_document(self.internal(name), data, remedy)

    def read_parquet(
        self,
        name: str,
        schema: pa.Schema,
        remedy: str,
        *,
        filled: Collection[str] = (),
        written: bool = False,
    ) -> pa.Table:
        """Read a small Parquet file whole.

        Args:
          name: relative to the table.
          schema: that it must have, but for its metadata.
          remedy: how to mend it, for error messages.
          filled: columns that must not have nulls.
          written: it is known to be there; wait for a store that shows it late.

        Raises:
          FileNotFoundError: there is no such file.
          TableError: it is damaged, or holds something else.
        """
        try:
            data = storage.read(self.path(name), written=written)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.path(name)} must be there, found none; {remedy}"
            ) from None
        return parse_parquet(self.path(name), data, schema, remedy, filled)

    def part_names(self) -> list[str]:
        """List every file that is named as a part, relative to the table."""
        names = storage.list_names(self.path(DATA))
        return [f"{DATA}/{name}" for name in names if PART.fullmatch(name)]

    def visible_names(self) -> list[str]:
        """List what readers of the directory may come across, relative to the table.

        That is all that lies in `data/`, and in the root all but `data/` and what
        readers pass over. Directories end with a slash.
        """
        inside = _entries(self.path(DATA))
        return [f"{DATA}/{name}" for name in inside] + [
            name
            for name in _entries(self.uri)
            if name != f"{DATA}/" and not name.startswith(_HIDDEN)
        ]

    def names_beside_parts(self) -> list[str]:
        """List every file of errors, statistics or a sample, relative to the table."""
        return [
            f"{INTERNAL}/{directory}/{name}"
            for directory in BESIDE_PARTS
            for name in storage.list_names(self.internal(directory))
            if OF_SHARD.fullmatch(name)
        ]

    def committed(self) -> list[int]:
        """List the indexes of the shards that have a commit record, sorted."""
        names = storage.list_names(self.internal("commits"))
        matches = [COMMIT.fullmatch(name) for name in names]
        return sorted(int(match[1]) for match in matches if match)

    def read_commits(self, shards: Collection[int]) -> Iterator[Commit]:
        """Yield the commit records of some shards, in order.

        Raises:
          TableError: one is no such record, or names files that are not its shard's.
        """
        uris = (self.path(commit_name(shard)) for shard in shards)
        yield from map(parse_commit, shards, storage.read_many(uris))

    def read_commit(self, shard: int, *, written: bool = False) -> Commit | None:
        """Read one commit record, None if the shard has none yet.

        Raises:
          TableError: as for `read_commits`.
        """
        uri = self.path(commit_name(shard))
        try:
            return parse_commit(shard, storage.read(uri, written=written))
        except FileNotFoundError:
            return None

    def create_commit(self, commit: Commit) -> bool:
        """Commit a shard, unless it is committed already; say whether this did it."""
        uri = self.path(commit_name(commit.shard))
        return storage.create(uri, to_json(commit.to_json()))

    def remove_commit(self, shard: int) -> None:
        """Take a shard's commit back, so that it is computed again."""
        storage.remove(self.path(commit_name(shard)))

    def attempts(self, shard: int | None = None) -> list[str]:
        """List the notes of workers that are at a shard, or died at it, by URI."""
        matches = map(ATTEMPT.fullmatch, storage.list_names(self.internal("attempts")))
        found = [m[0] for m in matches if m and shard in (None, int(m[1]))]
        return [self.internal(f"attempts/{name}") for name in found]

    def read_success(self, *, written: bool = False) -> dict[str, Any] | None:
        """Read the summary of a finished table; None while it is not finished.

        Raises:
          TableError: it is damaged, or says too little.
        """
        uri = self.path("_SUCCESS")
        try:
            document = parse_document(uri, storage.read(uri, written=written), REPAIR)
        except FileNotFoundError:
            return None
        check_says(document, SUMMARY, uri, REPAIR)
        return document

    def clear(self, check: Callable[[], None]) -> None:
        """Remove what featuretap wrote here but the claim, and nothing else.

        In such an order that nothing is committed whose files are gone. Workers that
        saw an earlier claim may commit for as long as it takes them to: so what they
        write is looked for once more at the end.

        Args:
          check: called before each step; raises an error once the table is somebody
            else's, whose files these may be.
        """
        check()
        storage.remove(self.path("_SUCCESS"))
        self._clear_shards(check)
        for name in ("uploads", "published"):
            storage.remove_tree(self.internal(name))
        for name in _DOCUMENTS:
            check()
            storage.remove(self.internal(name))
        self._clear_shards(check)
        for name in ("commits", "attempts", *BESIDE_PARTS):
            storage.remove_empty(self.internal(name))
        storage.remove_empty(self.path(DATA))

    def remove(self) -> None:
        """Remove the table; what is not featuretap's stays, and with it the directory.

        It stops being a table first, and holds nothing else when its claim goes.
        """
        storage.replace(self.internal(REMOVING), b"")  # says so until the end
        self.clear(lambda: None)
        for name in ("config.json", FOLLOWS, REMOVING):
            storage.remove(self.internal(name))
        storage.remove_empty(self.internal())
        storage.remove_empty(self.uri)

    def _clear_shards(self, check: Callable[[], None]) -> None:
        commits = (self.path(commit_name(shard)) for shard in self.committed())
        files = map(self.path, self.part_names() + self.names_beside_parts())
        for uri in [*commits, *self.attempts(), *files]:
            check()
            storage.remove(uri)


def check_says(
    document: dict[str, Any], kinds: Mapping[str, type], uri: str, remedy: str
) -> None:
    """See that a document has the keys that it must have, and values of their types.

    Raises:
      TableError: it has not.
    """
    for name, kind in kinds.items():
        if not isinstance(document.get(name), kind):
            found = type(document[name]).__name__ if name in document else "nothing"
            raise TableError(
                f"{uri} must say {name}, as {kind.__name__}, it says {found}; {remedy}"
            )


def parse_document(uri: str, data: bytes, remedy: str) -> dict[str, Any]:
    """Parse one of featuretap's own documents.

    Raises:
      TableError: it is damaged.
    """
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError(f"it is a {type(document).__name__}")
    except (ValueError, RecursionError) as error:
        raise TableError(
            f"{uri} must hold a JSON object, it does not: {error}; {remedy}"
        ) from error
    return document


def parse_parquet(
    uri: str, data: bytes, schema: pa.Schema, remedy: str, filled: Collection[str] = ()
) -> pa.Table:
    """Parse a small Parquet file that has been read from `uri`, as `read_parquet` does.

    Raises:
      TableError: it is damaged, or holds something else.
    """
    try:
        with open_parquet(io.BytesIO(data)) as file:
            found = file.read(use_threads=False)
        made = found.cast(schema.with_metadata(found.schema.metadata))
        nulls = [column for column in filled if made[column].null_count]
        if nulls:
            raise ValueError(f"nulls in {', '.join(nulls)}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TableError(
            f"{uri} must be a Parquet file with the columns"
            f" {', '.join(schema.names)}, it is not: {first_line(error)}; {remedy}"
        ) from error
    return made


def _entries(uri: str) -> list[str]:
    directories = [f"{name}/" for name in storage.list_directories(uri)]
    return sorted(storage.list_names(uri) + directories)


def open_parquet(stream: Any, *, check_pages: bool = False) -> pq.ParquetFile:
    """Open a Parquet file that Python holds or reads; read with `use_threads=False`.

    Nothing is then left to Arrow's own threads. One of them that lets go of Python's
    memory when Python has begun to end aborts the process, after all went well.

    Args:
      stream: a file object.
      check_pages: compare each page with its checksum.
    """
    return pq.ParquetFile(
        stream, pre_buffer=False, page_checksum_verification=check_pages
    )


def to_json(document: dict[str, Any]) -> bytes:
    """Serialize a document for people: indented, key order as given, newline at end."""
    return (
        json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def to_parquet(table: pa.Table) -> bytes:
    """Serialize a small table."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
