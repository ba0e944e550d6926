"""Embedding Atlas: a Parquet file of a sample, with coordinates and neighbours."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.health.directions import cosine_blocks, unit_vectors
from pipeline.health.spectrum import principal_components
from pipeline.publish.columns import Columns, refuse
from pipeline.publish.finished import FinishedTable, float32_matrix, rows_of
from pipeline.publish.placed import place_of
from pipeline.publish.sample import at_least_one, smallest_hashes
from transforms import storage
from transforms.column_names import KEY
from transforms.table.columns import Column
from transforms.table.directory import open_parquet, to_parquet
from transforms.values import finite_rows

_MADE = ("x", "y", "neighbors")
_NEIGHBOURS = 15


class Atlas:
    """A Parquet file: key, scalars, vector, `x` and `y`, and `neighbors`.

    Coordinates are the first two principal components; neighbours are the nearest by
    cosine, exactly, as places of rows of the file.
    """

    normalizes = False

    def __init__(
        self,
        table: str,
        *,
        path: str | None = None,
        column: str | None = None,
        rows: int = 4_096,
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          path: URI of the file; beside the table by default.
          column: of vectors; the only one by default.
          rows: how many at most; all pairs of them are compared.
        """
        self._path = place_of(table, path, "atlas.parquet")
        self._column = column
        self.sample = at_least_one(rows, "target atlas.rows")

    @property
    def location(self) -> str:
        """The file."""
        return self._path

    def check(self, columns: Columns) -> None:
        """Refuse a column that holds no vectors, and names that the file needs."""
        self._vector(columns)
        taken = (c for c in columns.all if c.name in _MADE)
        refuse(taken, f"an atlas has columns {', '.join(_MADE)} of its own")

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the properties that the file's schema holds."""
        if not storage.exists(self._path):
            return None
        try:
            with self._open() as file:
                metadata = file.schema_arrow.metadata or {}
        except (pa.ArrowInvalid, IsADirectoryError):  # no Parquet file
            return {}
        ours = {n: v for n, v in metadata.items() if n.startswith(b"featuretap.")}
        return {name.decode(): value.decode() for name, value in ours.items()}

    def write(self, table: FinishedTable) -> None:
        """Replace the file."""
        column = self._vector(table.columns)
        names = [*table.columns.labels(), column.name]
        rows = smallest_hashes(table.batches(names), self.sample)
        vectors = float32_matrix(rows[column.name], column.width or 0).astype(
            np.float64
        )
        finite = finite_rows(vectors)
        at = np.zeros((len(rows), 2), np.float32)
        at[finite] = principal_components(vectors[finite]).scores
        for name, axis in zip(_MADE[:2], at.T, strict=True):
            rows = rows.append_column(name, pa.array(axis, mask=~finite))
        near = neighbours(vectors, np.flatnonzero(finite), _NEIGHBOURS)
        rows = rows.append_column(_MADE[2], near)
        rows = rows.replace_schema_metadata(table.properties)
        storage.replace(self._path, to_parquet(rows))

    def remove_older(self, table: FinishedTable) -> None:
        """Nothing is left of a file that is replaced."""

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys of the file."""
        yield from self._read([KEY])[KEY].chunks

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows of the file."""
        return rows_of([self._read([KEY, self._vector(table.columns).name])], keys)

    def _vector(self, columns: Columns) -> Column:
        return columns.vector(self._column, "target atlas.column")

    def _open(self) -> pq.ParquetFile:
        return open_parquet(io.BytesIO(storage.read(self._path)))

    def _read(self, columns: list[str]) -> pa.Table:
        with self._open() as file:
            return file.read(columns, use_threads=False)


def neighbours(vectors: np.ndarray, places: np.ndarray, most: int) -> pa.StructArray:
    """Find the nearest rows of each row, by cosine, comparing all pairs.

    Args:
      vectors: float64 `[rows, width]`.
      places: rows that are compared, ascending; others have no neighbours.
      most: how many to find.

    Returns:
      Per row `ids`, places of the nearest other rows, and `distances`: one less the
      cosine, ascending. Vectors of zeros are at distance 1 from all.
    """
    compared = unit_vectors(vectors[places])
    most = max(min(most, len(compared) - 1), 0)
    ids, distances = [], []
    for _, cosines in cosine_blocks(compared):
        far = np.maximum(1 - cosines, 0)
        some = np.sort(np.argpartition(far, most, axis=1)[:, :most], axis=1)
        found = np.take_along_axis(far, some, axis=1)
        order = np.argsort(found, axis=1, kind="stable")
        ids.append(places[np.take_along_axis(some, order, axis=1)].ravel())
        distances.append(np.take_along_axis(found, order, axis=1).ravel())
    counts = np.zeros(len(vectors) + 1, np.int32)
    counts[places + 1] = most
    ends = pa.array(counts.cumsum(dtype=np.int32))
    lists = [
        pa.ListArray.from_arrays(
            ends, pa.array(np.concatenate([[], *all]).astype(kind))
        )
        for all, kind in ((ids, np.int32), (distances, np.float32))
    ]
    return pa.StructArray.from_arrays(lists, ["ids", "distances"])
