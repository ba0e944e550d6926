"""Postgres with pgvector: a table that is replaced within one transaction."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish.columns import Columns, refuse
from pipeline.publish.finished import FinishedTable
from pipeline.publish.target import read_object
from transforms.column_names import KEY
from transforms.credentials import mask
from transforms.lookup import ConfigError, need
from transforms.table.columns import Column

_KINDS = {
    "string": "text",
    "bytes": "bytea",
    "bool": "boolean",
    "int8": "smallint",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "uint8": "smallint",
    "uint16": "integer",
    "uint32": "bigint",
    "float16": "real",
    "float32": "real",
    "float64": "double precision",
    "timestamp": "timestamptz",
}
_MOST = {"vector": 16_000, "hnsw": 2_000}
_NAME_BYTES = 63
_RESERVED = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
_OPERATORS = {"cosine": "vector_cosine_ops", "l2": "vector_l2_ops"}


class PgVector:
    """A table of a Postgres database: key, time, kept scalars, columns of vectors."""

    normalizes = False

    def __init__(
        self,
        table: str,
        *,
        name: str = "features",
        dsn: str = "",
        index: Literal["cosine", "l2"] | None = None,
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          name: of the table in the database, `table` or `schema.table`.
          dsn: where the database is, as libpq takes it. A password is taken from
            PGPASSWORD or ~/.pgpass, other settings from PGHOST and the like.
          index: kind of neighbours that an HNSW index of each column of vectors finds.
        """
        need("psycopg", "pgvector")
        need("pgvector", "pgvector")
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            given = conninfo_to_dict(dsn)
        except ProgrammingError as error:
            raise ConfigError(
                f"target pgvector.dsn must be as libpq takes it: {mask(str(error))}"
            ) from None
        if "password" in given:
            raise ConfigError(
                "target pgvector.dsn must not hold a password; set PGPASSWORD, or use"
                " ~/.pgpass"
            )
        self._dsn = dsn
        self._name = name.split(".")
        if len(self._name) > 2 or not all(map(_is_name, self._name)):
            raise ConfigError(
                "target pgvector.name must be table or schema.table, each of 1 to"
                f" {_NAME_BYTES} bytes, got {name!r}"
            )
        self._index = index

    @property
    def location(self) -> str:
        """Database and table."""
        return f"{'.'.join(self._name)} in {mask(self._dsn) or 'the default database'}"

    def check(self, columns: Columns) -> None:
        """Refuse vectors that are too long, and names that Postgres does not take."""
        limit = _MOST["hnsw" if self._index else "vector"]
        wide = (c for c in columns.vectors() if (c.width or 0) > limit)
        where = " in an index" if self._index else ""
        refuse(wide, f"pgvector takes vectors of at most {limit} values{where}")
        kept = _kept(columns)
        long = (c for c in kept if not _is_name(c.name))
        refuse(long, f"Postgres takes names of at most {_NAME_BYTES} bytes")
        system = (c for c in kept if c.name in _RESERVED)
        refuse(system, "Postgres keeps some names of columns for itself")

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the comment of the table that is there."""
        with self._connect() as connection:
            query = "SELECT obj_description(to_regclass(%s)::oid), to_regclass(%s)"
            text = self._quoted().as_string(connection)
            row = connection.execute(query, [text, text]).fetchone()
        if row[1] is None:
            return None
        return read_object(row[0] or "")

    def write(self, table: FinishedTable) -> None:
        """Make another table, fill it, and let it take the place of the one there."""
        from pgvector.psycopg import register_vector
        from psycopg import sql

        columns = _kept(table.columns)
        table.refuse_non_finite(table.columns.vectors(), "pgvector")
        here, new = self._quoted(), self._quoted(f"featuretap_{uuid.uuid4().hex[:12]}")
        with self._connect() as connection:  # one transaction
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)
            fields = [
                sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(_kind(c)))
                for c in columns
            ]
            connection.execute(
                sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
                    new, sql.SQL(", ").join(fields), sql.Identifier(KEY)
                )
            )
            self._fill(connection, new, table, columns)
            for column in table.columns.vectors() if self._index else ():
                connection.execute(
                    sql.SQL("CREATE INDEX ON {} USING hnsw ({} {})").format(
                        new,
                        sql.Identifier(column.name),
                        sql.SQL(_OPERATORS[self._index or "cosine"]),
                    )
                )
            comment = sql.Literal(json.dumps(table.properties))
            connection.execute(
                sql.SQL("COMMENT ON TABLE {} IS {}").format(new, comment)
            )
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(here))
            connection.execute(
                sql.SQL("ALTER TABLE {} RENAME TO {}").format(
                    new, sql.Identifier(self._name[-1])
                )
            )

    def remove_older(self, table: FinishedTable) -> None:
        """Leave nothing to do: the table before went in the same transaction."""

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys of the table in the database."""
        from psycopg import sql

        query = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(KEY), self._quoted())
        with self._connect() as connection, connection.cursor("keys") as cursor:
            cursor.execute(query)
            while rows := cursor.fetchmany(10_000):
                yield pa.array([row[0] for row in rows], table.columns.key.arrow_type)

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows of the table in the database."""
        from pgvector.psycopg import register_vector
        from psycopg import sql

        names = table.columns.compared()
        query = sql.SQL("SELECT {} FROM {} WHERE {} = ANY(%s)").format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            self._quoted(),
            sql.Identifier(KEY),
        )
        with self._connect() as connection:
            register_vector(connection)
            rows = connection.execute(query, [keys.to_pylist()]).fetchall()
        found = {KEY: pa.array([row[0] for row in rows], table.columns.key.arrow_type)}
        for i, name in enumerate(names[1:], 1):
            found[name] = pa.array([_list(row[i]) for row in rows])
        return pa.table(found)

    def _fill(
        self, connection: Any, new: Any, table: FinishedTable, columns: list[Column]
    ) -> None:
        """Copy the rows in binary form."""
        from pgvector import Vector
        from psycopg import sql

        vectors = {column.name for column in table.columns.vectors()}
        names = [column.name for column in columns]
        copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            new, sql.SQL(", ").join(map(sql.Identifier, names))
        )
        kinds = ["vector" if c.name in vectors else _KINDS[c.dtype] for c in columns]
        with connection.cursor() as cursor, cursor.copy(copy) as stream:
            stream.set_types(kinds)
            for batch in table.batches(names):
                _refuse_zeros(batch, columns)
                lists = [column.to_pylist() for column in batch.columns]
                for row in zip(*lists, strict=True):
                    stream.write_row(
                        [
                            Vector(value) if name in vectors else value
                            for name, value in zip(names, row, strict=True)
                        ]
                    )

    def _quoted(self, name: str | None = None) -> Any:
        """Quote the table's name, or another one in its schema."""
        from psycopg import sql

        *schema, own = self._name
        return sql.Identifier(*schema, name or own)

    def _connect(self) -> Any:
        import psycopg

        try:
            return psycopg.connect(self._dsn)
        except psycopg.OperationalError as error:
            raise ConfigError(
                f"target pgvector.dsn must lead to a database: {mask(str(error))}"
            ) from None


def _kept(columns: Columns) -> list[Column]:
    """Choose what Postgres has types for: scalars, and vectors of floats."""
    vectors = {column.name for column in columns.vectors()}
    return [
        column
        for column in columns.all
        if column.name in vectors or (not column.is_vector and column.dtype in _KINDS)
    ]


def _refuse_zeros(batch: pa.Table, columns: list[Column]) -> None:
    """Refuse text with zero characters, which Postgres cannot hold."""
    for column in columns:
        if column.dtype != "string":
            continue
        found = pc.match_substring(batch[column.name], "\0")
        if pc.any(found).as_py():
            key = batch.filter(found)[KEY][0].as_py()
            raise ConfigError(
                "text in Postgres cannot hold the character \\0, column"
                f" {column.name!r} of row {key!r} does; keep the column no longer, or"
                " take the character out of the data"
            )


def _is_name(text: str) -> bool:
    return 0 < len(text.encode()) <= _NAME_BYTES


def _kind(column: Column) -> str:
    if column.is_vector:
        return f"vector({column.width})"
    return _KINDS[column.dtype]


def _list(value: Any) -> list[float]:
    return list(map(float, value.to_list() if hasattr(value, "to_list") else value))
