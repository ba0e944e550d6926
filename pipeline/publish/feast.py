"""Feast: a feature repository whose offline store is the table itself.

Feast's own dependencies fit no other package's, so it lives in an environment of its
own: what this writes is text, and Feast is run as a program.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish.columns import Columns, refuse
from pipeline.publish.finished import FINGERPRINT, FinishedTable, rows_of
from pipeline.publish.placed import is_free, place_of
from pipeline.publish.target import read_object
from transforms import storage
from transforms.column_names import KEY, TIME
from transforms.lookup import ConfigError
from transforms.table.columns import Column
from transforms.table.directory import to_json
from transforms.table.names import DATA

_NOTE = "featuretap.json"
_YAML = "feature_store.yaml"
_DEFINITIONS = "features.py"
_KINDS = {
    "string": "String",
    "bytes": "Bytes",
    "bool": "Bool",
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), "Int32"),
    **dict.fromkeys(("int64", "uint32"), "Int64"),
    **dict.fromkeys(("float16", "float32"), "Float32"),
    "float64": "Float64",
    "timestamp": "UnixTimestamp",
}
_RESERVED = ("event_ts", "created_ts")
_BATCH = 10_000
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_STORE = re.compile(r"(sqlite|milvus|registry)-[0-9a-f]{8}\.db")
_TEXT = """# Written by featuretap publish --to feast.
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)

TAGS = {tags!r}
{entities}
source = FileSource(
    name={source!r},
    path={data!r},
    file_format=ParquetFormat(),
    timestamp_field={time!r},
)
view = FeatureView(
    name={view!r},
    entities=[{names}],
    source=source,
    ttl=None,
    schema=[
{fields}
    ],
    tags=TAGS,
)
service = FeatureService(name={service!r}, features=[view], tags=TAGS)
"""


class Feast:
    """A directory with a feature repository: settings, definitions, Feast's files."""

    normalizes = False

    def __init__(
        self,
        table: str,
        *,
        path: str | None = None,
        name: str = "features",
        online: Literal["sqlite", "milvus"] = "sqlite",
        apply: bool = False,
        materialize: bool = False,
        command: str = "feast",
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          path: a local directory for the repository; beside the table by default.
          name: of the project and of the feature view.
          online: store that serves the newest row of each entity; `milvus` also finds
            nearest vectors.
          apply: run `feast apply`, which registers the definitions.
          materialize: run `feast materialize`, too, which fills the online store.
          command: Feast's own program, in its environment.
        """
        self._path = place_of(table, path, "feast")
        self._name = name
        self._online = online
        self._apply = apply or materialize
        self._materialize = materialize
        self._command = command
        if storage.local_path(self._path) is None:
            raise ConfigError(
                f"target feast.path must be a local directory, got {self._path!r}"
            )
        if not _NAME.fullmatch(name):
            raise ConfigError(f"target feast.name must be in lower_snake, got {name!r}")

    @property
    def location(self) -> str:
        """The repository."""
        return self._path

    def check(self, columns: Columns) -> None:
        """Refuse rows without times, and what Feast has no types for."""
        if not any(column.role == "timestamp" for column in columns.all):
            raise ConfigError(
                "Feast needs the time of each row, the table has none; set"
                " table.event_timestamp"
            )
        unknown = (c for c in columns.all if c.dtype not in _KINDS)
        refuse(unknown, "Feast has no type for some columns")
        if self._online == "milvus":
            taken = (c for c in columns.all if c.name in _RESERVED)
            refuse(taken, "Feast's Milvus keeps some names of columns for itself")
        widths = {column.width for column in columns.vectors()}
        if self._online == "milvus" and len(widths) > 1:
            raise ConfigError(
                "Feast's Milvus takes vectors of one length, the table has lengths"
                f" {', '.join(map(str, sorted(map(int, filter(None, widths)))))}; take"
                " fewer taps, or online = 'sqlite'"
            )

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the note that lies in the repository."""
        try:
            note = read_object(storage.read(self._file(_NOTE)))
        except FileNotFoundError:
            return None if is_free(self._path, lambda _: False) else {}
        if not self._is_whole(table):
            note.pop(FINGERPRINT, None)  # it is to be made anew
        return note

    def _is_whole(self, table: FinishedTable) -> bool:
        """Whether the repository is as it was written, with its online store."""
        texts = {
            _YAML: self._settings(table),
            _DEFINITIONS: self._definitions(table),
        }
        try:
            written = {n: storage.read(self._file(n)).decode() for n in texts}
        except FileNotFoundError:
            return False
        online = storage.exists(self._file(self._of(table, self._online)))
        return written == texts and (online or not self._materialize)

    def write(self, table: FinishedTable) -> None:
        """Write the repository, let Feast read it, and note what was done."""
        properties = table.properties
        begun = {k: v for k, v in properties.items() if k != FINGERPRINT}
        storage.replace(self._file(_NOTE), to_json(begun))
        storage.replace(self._file(_YAML), self._settings(table).encode())
        storage.replace(self._file(_DEFINITIONS), self._definitions(table).encode())
        if self._apply:
            self._run("apply")
        if self._materialize:
            first, last = _times(table)
            self._run("materialize", first.isoformat(), last.isoformat())
            self._count(table)
        storage.replace(self._file(_NOTE), to_json(properties))

    def remove_older(self, table: FinishedTable) -> None:
        """Remove registries and online stores of tables before."""
        for name in storage.list_names(self._path):
            if _STORE.fullmatch(name) and table.plan.fingerprint[:8] not in name:
                storage.remove(self._file(name))

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys of the directory that the definitions name."""
        for batch in table.batches([KEY]):
            yield from batch[KEY].chunks

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows of the directory that the definitions name."""
        return rows_of(table.batches(table.columns.compared()), keys)

    def _file(self, name: str) -> str:
        return storage.join(self._path, name)

    def _of(self, table: FinishedTable, what: str) -> str:
        """Name a file of Feast's; each table has its own, so that what left is gone."""
        return f"{what}-{table.plan.fingerprint[:8]}.db"

    def _settings(self, table: FinishedTable) -> str:
        """Write feature_store.yaml; its paths are absolute."""
        place = storage.local_path(self._path)
        assert place is not None
        online = [f"  type: {self._online}"]
        online += [f"  path: {_quoted(place / self._of(table, self._online))}"]
        if self._online == "milvus":
            online += ["  vector_enabled: true", "  metric_type: COSINE"]
            online += ["  index_type: FLAT"]
            online += [
                f"  embedding_dim: {c.width}" for c in table.columns.vectors()[:1]
            ]
        return "\n".join(
            [
                "# Written by featuretap publish --to feast.",
                f"project: {json.dumps(self._name)}",
                f"registry: {_quoted(place / self._of(table, 'registry'))}",
                "provider: local",
                "offline_store:",
                "  type: duckdb",
                "online_store:",
                *online,
                "entity_key_serialization_version: 3",
                "materialization:",
                f"  online_write_batch_size: {_BATCH}",
                "",
            ]
        )

    def _definitions(self, table: FinishedTable) -> str:
        """Write features.py: an entity, a source, a view with its schema, a service."""
        entity = _entity(table)
        kinds = {c.name: _KINDS.get(c.dtype, "") for c in table.columns.all}
        shapes = {
            c.name: list(c.shape) for c in table.columns.all if c.role == "feature"
        }
        fields = [
            f"        {_field(column, searched=self._online == 'milvus')},"
            for column in table.columns.all
            if column.name != TIME
        ]
        entities = [
            f"entity_{i} = Entity(name={n!r}, join_keys=[{n!r}],"
            f" value_type=ValueType.{kinds[n].upper()})"
            for i, n in enumerate(entity)
        ]
        return _TEXT.format(
            entities="\n".join(entities),
            names=", ".join(f"entity_{i}" for i in range(len(entity))),
            fields="\n".join(fields),
            source=f"{self._name}_source",
            data=_data(table),
            time=TIME,
            view=self._name,
            service=f"{self._name}_{table.plan.fingerprint[:8]}",
            tags={**table.properties, "featuretap.shapes": json.dumps(shapes)},
        )

    def _run(self, *arguments: str) -> None:
        """Run Feast in the repository.

        Raises:
          ConfigError: there is no such program.
          RuntimeError: it fails.
        """
        command = [self._command, "-c", str(storage.local_path(self._path)), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise ConfigError(
                "target feast.command must be Feast's own program, in an environment"
                f" of its own, {self._command!r} cannot be run: {error.strerror}"
            ) from None
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-15:]
            raise RuntimeError("\n".join([f"{' '.join(command)} failed:", *last]))

    def _count(self, table: FinishedTable) -> None:
        """See that the online store has all entities.

        Raises:
          RuntimeError: it has fewer.
        """
        if self._online != "sqlite":
            return
        entity = _entity(table)
        rows = pa.concat_tables(table.batches(entity))
        wanted = rows.group_by(entity, use_threads=False).aggregate([]).num_rows
        place = storage.local_path(self._file(self._of(table, self._online)))
        with closing(sqlite3.connect(str(place))) as online:
            name = f'"{self._name}_{self._name}"'
            query = f"SELECT count(DISTINCT entity_key) FROM {name}"
            (found,) = online.execute(query).fetchone()
        if found != wanted:
            raise RuntimeError(
                f"the online store of {self._path} must have {wanted} entities, Feast"
                f" has materialized {found}"
            )


def _entity(table: FinishedTable) -> list[str]:
    """Name the columns that join: the table's entity, else its key."""
    return list(table.columns.entity) or [KEY]


def _field(column: Column, *, searched: bool) -> str:
    kind = _KINDS[column.dtype]
    if not column.is_vector:
        return f"Field(name={column.name!r}, dtype={kind})"
    options = ""
    if searched and column.role == "feature" and column.width:
        options = f", vector_index=True, vector_length={column.width}"
        options += ", vector_search_metric='COSINE'"
    return f"Field(name={column.name!r}, dtype=Array({kind}){options})"


def _times(table: FinishedTable) -> tuple[datetime, datetime]:
    """Give the first time of a row, and one after the last."""
    found: Sequence[Any] = [pc.min_max(rows[TIME]) for rows in table.batches([TIME])]
    first = min(one["min"].as_py() for one in found)
    last = max(one["max"].as_py() for one in found)
    return first, last + timedelta(seconds=1)


def _data(table: FinishedTable) -> str:
    """Give the directory of the parts; a local one as Feast takes it."""
    uri = table.table.path(DATA)
    local = storage.local_path(uri)
    return uri if local is None else str(local.absolute())


def _quoted(path: Any) -> str:
    return json.dumps(str(path.absolute()))
