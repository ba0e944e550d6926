"""Know what lies where in a table's directory, and read and write its documents.

part-00012-of-00512-1f9c44d2.parquet      features, named by content
_SUCCESS                                  the table exists when this does
_featuretap/config.json                   config, fingerprint, what it is made of
_featuretap/schema.json                   columns and source features
_featuretap/plan.parquet                  shards
_featuretap/commits/00012.json            one record for each finished shard
_featuretap/errors/00012-1f9c44d2.parquet quarantined rows
_featuretap/manifest.parquet              parts of the finished table
_featuretap/parity.json                   deviations from an independent computation
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.shard import Commit, Shards

FORMAT_VERSION = 1
_INTERNAL = "_featuretap"
_PART = re.compile(r"part-\d{5,}-of-\d{5,}-[0-9a-f]{8}\.parquet")
_COMMIT = re.compile(r"(\d{5,})\.json")


@dataclass(frozen=True, slots=True)
class Table:
    """A table's directory, by its URI."""

    uri: str

    def path(self, name: str) -> str:
        """URI of a file, from its path relative to the table."""
        return storage.join(self.uri, name)

    def internal(self, name: str = "") -> str:
        """URI of one of featuretap's own files."""
        return self.path(f"{_INTERNAL}/{name}".rstrip("/"))

    @staticmethod
    def part_name(shard: int, shards: int, sha256: str) -> str:
        """Name of a part, relative to the table."""
        return f"part-{shard:05d}-of-{shards:05d}-{sha256[:8]}.parquet"

    @staticmethod
    def errors_name(shard: int, sha256: str) -> str:
        """Name of a shard's quarantined rows, relative to the table."""
        return f"{_INTERNAL}/errors/{shard:05d}-{sha256[:8]}.parquet"

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of featuretap's own documents.

        Raises:
          FileNotFoundError: this is not a table, or it has no such document.
        """
        try:
            document: dict[str, Any] = json.loads(storage.read(self.internal(name)))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"a table must hold {_INTERNAL}/{name}, found none in {self.uri!r};"
                " check the path, or start the table with featuretap run CONFIG"
            ) from None
        return document

    def read_parquet(self, name: str) -> pa.Table:
        """Read a Parquet file whole, by its path relative to the table."""
        return pq.read_table(io.BytesIO(storage.read(self.path(name))))

    def shards(self) -> Shards:
        """The planned shards, in order."""
        return Shards(self.read_parquet(f"{_INTERNAL}/plan.parquet"))

    def part_names(self) -> list[str]:
        """Every file that is named as a part, committed or not."""
        return [n for n in storage.list_names(self.uri) if _PART.fullmatch(n)]

    def error_names(self) -> list[str]:
        """Every errors file, committed or not, relative to the table."""
        names = storage.list_names(self.internal("errors"))
        return [f"{_INTERNAL}/errors/{name}" for name in names]

    def committed(self) -> list[int]:
        """Indexes of the shards that have a commit record, sorted."""
        names = storage.list_names(self.internal("commits"))
        matches = [_COMMIT.fullmatch(name) for name in names]
        return sorted(int(match[1]) for match in matches if match)

    def read_commits(self, shards: list[int]) -> list[Commit]:
        """Read the commit records of some shards, in order."""
        uris = [self._commit(shard) for shard in shards]
        return [Commit.from_json(json.loads(d)) for d in storage.read_many(uris)]

    def read_commit(self, shard: int) -> Commit | None:
        """Read one commit record, None if the shard has none yet."""
        try:
            return Commit.from_json(json.loads(storage.read(self._commit(shard))))
        except FileNotFoundError:
            return None

    def create_commit(self, commit: Commit) -> bool:
        """Commit a shard, unless it is committed already; say whether this did it."""
        return storage.create(self._commit(commit.shard), to_json(commit.to_json()))

    def read_success(self) -> dict[str, Any] | None:
        """The summary of a finished table, None while it is not finished."""
        try:
            document: dict[str, Any] = json.loads(storage.read(self.path("_SUCCESS")))
        except FileNotFoundError:
            return None
        return document

    def clear(self) -> None:
        """Remove what featuretap wrote here, and nothing else."""
        storage.remove(self.path("_SUCCESS"))
        for name in self.part_names():
            storage.remove(self.path(name))
        storage.remove(self.internal())  # last: it says that the parts are ours

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
