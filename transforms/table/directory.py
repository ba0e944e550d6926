"""Know what lies where in a table's directory, and read and write its documents.

part-00012-of-00512-1f9c44d2.parquet      features, named by content
_SUCCESS                                  the table exists when this does
_featuretap/config.json                   config, fingerprint, what it is made of
_featuretap/schema.json                   columns and source features
_featuretap/plan.parquet                  shards
_featuretap/commits/00012.json            one record for each finished shard
_featuretap/errors/00012-1f9c44d2.parquet quarantined rows
_featuretap/attempts/00012-6f0e3d21.json  a worker is at this shard, or died at it
_featuretap/uploads/                      unfinished files of local workers
_featuretap/manifest.parquet              parts of the finished table
_featuretap/parity.json                   deviations from an independent computation
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.shard import Shards
from transforms.table.commit_record import Commit, parse_commit
from transforms.table.names import ERRORS, INTERNAL, PART

FORMAT_VERSION = 1
_COMMIT = re.compile(r"(\d{5,})\.json")
_ATTEMPT = re.compile(r"(\d{5,})-[0-9a-f]{8}\.json")
_DOCUMENTS = ("parity.json", "manifest.parquet", "plan.parquet", "schema.json")


@dataclass(frozen=True, slots=True)
class Table:
    """A table's directory, by its URI."""

    uri: str

    def path(self, name: str) -> str:
        """URI of a file, from its path relative to the table."""
        return storage.join(self.uri, name)

    def internal(self, name: str = "") -> str:
        """URI of one of featuretap's own files."""
        return self.path(f"{INTERNAL}/{name}".rstrip("/"))

    def read_json(self, name: str, *, written: bool = False) -> dict[str, Any]:
        """Read one of featuretap's own documents; `written` as for `storage.read`.

        Raises:
          FileNotFoundError: this is not a table, or it has no such document.
          ValueError: the document is damaged.
        """
        try:
            data = storage.read(self.internal(name), written=written)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"a table must hold {INTERNAL}/{name}, found none in {self.uri!r};"
                " check the path, or start the table with featuretap run CONFIG"
            ) from None
        try:
            document: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise ValueError(
                f"{self.internal(name)} must hold JSON, it does not: {error}; the table"
                " is damaged, put the file back or start afresh elsewhere"
            ) from error
        return document

    def read_parquet(self, name: str, *, written: bool = False) -> pa.Table:
        """Read a Parquet file whole, by its path relative to the table."""
        data = storage.read(self.path(name), written=written)
        return pq.read_table(io.BytesIO(data))

    def shards(self, *, written: bool = False) -> Shards:
        """The planned shards, in order."""
        name = f"{INTERNAL}/plan.parquet"
        return Shards(self.read_parquet(name, written=written))

    def part_names(self, shards: int | None = None) -> list[str]:
        """Every file that is named as a part, committed or not.

        Args:
          shards: only names of a table with so many shards; others are not ours.
        """
        matches = [PART.fullmatch(name) for name in storage.list_names(self.uri)]
        return [m[0] for m in matches if m and shards in (None, int(m[1]))]

    def error_names(self) -> list[str]:
        """Every errors file, committed or not, relative to the table."""
        names = storage.list_names(self.internal("errors"))
        return [f"{INTERNAL}/errors/{n}" for n in names if ERRORS.fullmatch(n)]

    def committed(self) -> list[int]:
        """Indexes of the shards that have a commit record, sorted."""
        names = storage.list_names(self.internal("commits"))
        matches = [_COMMIT.fullmatch(name) for name in names]
        return sorted(int(match[1]) for match in matches if match)

    def read_commits(self, shards: Collection[int]) -> Iterator[Commit]:
        """Yield the commit records of some shards, in order.

        Raises:
          ValueError: one is no such record, or names files that are not its shard's.
        """
        records = storage.read_many(map(self._commit, shards))
        yield from map(parse_commit, shards, records)

    def read_commit(self, shard: int, *, written: bool = False) -> Commit | None:
        """Read one commit record, None if the shard has none yet.

        Raises:
          ValueError: as for `read_commits`.
        """
        try:
            return parse_commit(
                shard, storage.read(self._commit(shard), written=written)
            )
        except FileNotFoundError:
            return None

    def create_commit(self, commit: Commit) -> bool:
        """Commit a shard, unless it is committed already; say whether this did it."""
        return storage.create(self._commit(commit.shard), to_json(commit.to_json()))

    def remove_commit(self, shard: int) -> None:
        """Take a shard's commit back, so that it is computed again."""
        storage.remove(self._commit(shard))

    def attempts(self, shard: int | None = None) -> list[str]:
        """URIs of the notes of workers that are at a shard, or died at it."""
        matches = map(_ATTEMPT.fullmatch, storage.list_names(self.internal("attempts")))
        found = [m[0] for m in matches if m and shard in (None, int(m[1]))]
        return [self.internal(f"attempts/{name}") for name in found]

    def read_success(self, *, written: bool = False) -> dict[str, Any] | None:
        """The summary of a finished table, None while it is not finished."""
        try:
            data = storage.read(self.path("_SUCCESS"), written=written)
        except FileNotFoundError:
            return None
        document: dict[str, Any] = json.loads(data)
        return document

    def clear(self) -> None:
        """Remove what featuretap wrote here, and nothing else.

        In such an order that what is left, if this is cut off, is a table to resume or
        to clear again: nothing is committed whose files are gone.
        """
        storage.remove(self.path("_SUCCESS"))
        for shard in self.committed():
            self.remove_commit(shard)
        for uri in self.attempts():
            storage.remove(uri)
        shards = self._planned_shards()
        names = [] if shards is None else self.part_names(shards)
        for name in names + self.error_names():
            storage.remove(self.path(name))
        storage.remove_tree(self.internal("uploads"))
        for name in _DOCUMENTS:
            storage.remove(self.internal(name))
        storage.remove(self.internal("config.json"))  # says that the parts are ours
        for name in ("commits", "attempts", "errors", ""):
            storage.remove_empty(self.internal(name))

    def _planned_shards(self) -> int | None:
        """How many shards the table has; None if there is no plan, and so no part."""
        try:
            return int(self.read_json("schema.json")["shards"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError):  # damaged
            return len(self.shards())

    def _commit(self, shard: int) -> str:
        return self.internal(f"commits/{shard:05d}.json")


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
