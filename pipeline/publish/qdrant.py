"""Qdrant: a collection for each publication, and an alias that moves to the newest."""

from __future__ import annotations

import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from pipeline.publish.columns import Columns, refuse
from pipeline.publish.finished import MODEL, FinishedTable
from pipeline.publish.placed import place_of
from transforms import storage
from transforms.column_names import KEY
from transforms.credentials import mask
from transforms.lookup import ConfigError, need
from transforms.table.columns import Column

_POINTS = 512
_MOST = 65_536
_SPACE = uuid.UUID("6c7e2bb1-55a1-4f53-9d0a-1d2c1f5c9b0e")


class Qdrant:
    """An alias; what is searched through it is one table whole, before and after."""

    def __init__(
        self,
        table: str,
        *,
        alias: str = "features",
        url: str | None = None,
        path: str | None = None,
        column: str | None = None,
        distance: Literal["Cosine", "Dot", "Euclid", "Manhattan"] = "Cosine",
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          alias: by which the vectors are searched.
          url: of a server; an API key is taken from QDRANT_API_KEY.
          path: of a database in a local directory, where there is no server.
          column: of vectors; the only one by default.
          distance: by which neighbours are found; `Cosine` stores length 1.
        """
        need("qdrant_client", "qdrant")
        self._alias = alias
        self._url = url
        local = storage.local_path(place_of(table, path, "qdrant"))
        if local is None and not url:
            raise ConfigError(
                "target qdrant must have the url of a server, or path, a local"
                " directory; got neither"
            )
        self._path = str(local)
        self._column = column
        self._distance = distance
        self.normalizes = distance == "Cosine"

    @property
    def location(self) -> str:
        """Server or directory, and alias."""
        return f"{self._alias} in {mask(self._url or self._path)}"

    def check(self, columns: Columns) -> None:
        """Refuse a column that holds no vectors, or too long ones."""
        column = columns.vector(self._column, "target qdrant.column")
        if (column.width or 0) > _MOST:
            refuse([column], f"Qdrant takes vectors of at most {_MOST} values")

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the properties of the collection that the alias leads to."""
        with self._client() as client:
            name = self._collection(client)
            if name is None:
                return {} if client.collection_exists(self._alias) else None
            return dict(client.get_collection(name).config.metadata or {})

    def write(self, table: FinishedTable) -> None:
        """Fill a collection of its own, and move the alias to it."""
        column = table.columns.vector(self._column, "target qdrant.column")
        table.refuse_non_finite([column], "Qdrant")
        name = f"{self._alias}-{table.tag}"
        with self._client() as client:
            before = self._collection(client)
            self._fill(client, name, table)
            self._move(client, name, before)

    def remove_older(self, table: FinishedTable) -> None:
        """Remove collections that were filled for this alias, and none leads to."""
        ours = re.compile(rf"{re.escape(self._alias)}-[0-9a-f]{{8}}")
        with self._client() as client:
            used = {one.collection_name for one in client.get_aliases().aliases}
            for one in client.get_collections().collections:
                if one.name in used or not ours.fullmatch(one.name):
                    continue
                if MODEL in (client.get_collection(one.name).config.metadata or {}):
                    client.delete_collection(one.name)

    def _fill(self, client: Any, name: str, table: FinishedTable) -> None:
        from qdrant_client import models

        column = table.columns.vector(self._column, "target qdrant.column")
        if client.collection_exists(name):  # of a call that was cut off
            client.delete_collection(name)
        client.create_collection(
            name,
            vectors_config=models.VectorParams(
                size=column.width or 0, distance=models.Distance(self._distance)
            ),
            metadata=table.properties,
        )
        beside = [c.name for c in table.columns.all if _is_payload(c)]
        for batch in table.batches([*beside, column.name]):
            vectors = batch[column.name].to_pylist()
            rows = batch.select(beside).to_pylist()
            points = [
                models.PointStruct(
                    id=point_id(row[KEY]),
                    vector=vector,
                    payload={name: _plain(value) for name, value in row.items()},
                )
                for row, vector in zip(rows, vectors, strict=True)
            ]
            for start in range(0, len(points), _POINTS):
                client.upsert(name, points[start : start + _POINTS], wait=True)

    def _move(self, client: Any, name: str, before: str | None) -> None:
        from qdrant_client import models

        moves: list[Any] = []
        if before:
            old = models.DeleteAlias(alias_name=self._alias)
            moves.append(models.DeleteAliasOperation(delete_alias=old))
        new = models.CreateAlias(collection_name=name, alias_name=self._alias)
        moves.append(models.CreateAliasOperation(create_alias=new))
        client.update_collection_aliases(moves)

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys that are found through the alias."""
        kind, offset = table.columns.key.arrow_type, None
        with self._client() as client:
            while True:
                points, offset = client.scroll(
                    self._alias, limit=_POINTS, offset=offset, with_payload=[KEY]
                )
                yield pa.array([point.payload[KEY] for point in points], kind)
                if offset is None:
                    return

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read points by their ids."""
        column = table.columns.vector(self._column, "target qdrant.column")
        with self._client() as client:
            points = client.retrieve(
                self._alias,
                [point_id(key) for key in keys.to_pylist()],
                with_payload=[KEY],
                with_vectors=True,
            )
        found = pa.array([p.payload[KEY] for p in points], table.columns.key.arrow_type)
        return pa.table({KEY: found, column.name: [p.vector for p in points]})

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """Open the database; one in a directory can be open once only."""
        from qdrant_client import QdrantClient
        from qdrant_client.http.exceptions import ResponseHandlingException

        key = os.environ.get("QDRANT_API_KEY")
        client = (
            QdrantClient(self._url, api_key=key)
            if self._url
            else QdrantClient(path=self._path)
        )
        try:
            yield client
        except ResponseHandlingException as error:
            raise ConfigError(
                f"target qdrant.url must lead to a server, {mask(str(self._url))}"
                f" cannot be asked: {mask(str(error))}"
            ) from None
        finally:
            client.close()

    def _collection(self, client: Any) -> str | None:
        """Name the collection that the alias leads to."""
        for one in client.get_aliases().aliases:
            if one.alias_name == self._alias:
                return str(one.collection_name)
        return None


def _is_payload(column: Column) -> bool:
    return not column.is_computed and column.dtype != "bytes"


def _plain(value: Any) -> Any:
    """Give a value as JSON has it: times as RFC 3339, null for what is not finite."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def point_id(key: Any) -> str:
    """Give the id of a key's point: Qdrant takes UUIDs or numbers only."""
    return str(uuid.uuid5(_SPACE, str(key)))
