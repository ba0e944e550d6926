"""FAISS: a flat index of one column, and the keys of its rows."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish.columns import Columns
from pipeline.publish.finished import FinishedTable, float32_matrix
from pipeline.publish.placed import is_free, place_of
from pipeline.publish.target import read_object
from transforms import scratch, storage
from transforms.column_names import KEY
from transforms.lookup import need
from transforms.sources.staging import readable_copy
from transforms.table.directory import open_parquet, to_json, to_parquet

_ABOUT = "about.json"
_FILE = re.compile(r"(index-[0-9a-f]{8}\.faiss)|(keys-[0-9a-f]{8}\.parquet)")


class Faiss:
    """A directory with `about.json`, which names an index and a table of its keys.

    Row i of the index has the i-th key.
    """

    def __init__(
        self,
        table: str,
        *,
        path: str | None = None,
        column: str | None = None,
        metric: Literal["l2", "inner_product", "cosine"] = "cosine",
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          path: URI of the directory; beside the table by default.
          column: of vectors; the only one by default.
          metric: by which neighbours are found; `cosine` stores vectors of length 1.
        """
        need("faiss", "faiss")
        self._path = place_of(table, path, "faiss")
        self._column = column
        self._metric = metric
        self.normalizes = metric == "cosine"

    @property
    def location(self) -> str:
        """The directory."""
        return self._path

    def check(self, columns: Columns) -> None:
        """Refuse a column that holds no vectors."""
        columns.vector(self._column, "target faiss.column")

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the properties that `about.json` holds."""
        try:
            found = self._about().get("properties")
        except FileNotFoundError:
            return None if is_free(self._path, _FILE.fullmatch) else {}
        return found if isinstance(found, dict) else {}

    def write(self, table: FinishedTable) -> None:
        """Write index and keys, then `about.json`, which names them."""
        import faiss

        column = table.columns.vector(self._column, "target faiss.column")
        if self.normalizes:
            table.refuse_non_finite([column], "a FAISS index for cosine")
        kind = faiss.IndexFlatL2 if self._metric == "l2" else faiss.IndexFlatIP
        index: Any = kind(column.width or 0)
        keys = []
        for batch in table.batches([KEY, column.name]):
            vectors = float32_matrix(batch[column.name], column.width or 0)
            if self.normalizes:
                faiss.normalize_L2(vectors)
            index.add(vectors)
            keys.append(batch.select([KEY]))
        names = {
            "index": f"index-{table.tag}.faiss",
            "keys": f"keys-{table.tag}.parquet",
        }
        with scratch.directory() as directory:
            faiss.write_index(index, str(directory / "index"))
            storage.publish(directory / "index", self._file(names["index"]))
        storage.replace(self._file(names["keys"]), to_parquet(pa.concat_tables(keys)))
        about = {
            **names,
            "column": column.name,
            "metric": self._metric,
            "properties": table.properties,
        }
        storage.replace(self._file(_ABOUT), to_json(about))

    def remove_older(self, table: FinishedTable) -> None:
        """Remove files that `about.json` does not name."""
        about = self._about()
        for name in storage.list_names(self._path):
            if _FILE.fullmatch(name) and name not in (about["index"], about["keys"]):
                storage.remove(self._file(name))

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys, as many as the index has rows."""
        keys = self._keys()
        if len(keys) != self._index().ntotal:
            raise RuntimeError(
                f"{self._path} must have a key for each row of its index"
            )
        yield from keys.chunks

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows of the index."""
        column, index = self._about()["column"], self._index()
        places = pc.index_in(keys, self._keys().combine_chunks()).to_pylist()
        some = [i for i in places if i is not None]
        vectors = [index.reconstruct(i) for i in some]
        return pa.table({KEY: self._keys().take(pa.array(some)), column: vectors})

    def _file(self, name: str) -> str:
        return storage.join(self._path, name)

    def _about(self) -> dict[str, Any]:
        return read_object(storage.read(self._file(_ABOUT)))

    def _keys(self) -> pa.ChunkedArray:
        data = storage.read(self._file(self._about()["keys"]))
        with open_parquet(io.BytesIO(data)) as file:
            return file.read(use_threads=False)[KEY]

    def _index(self) -> Any:
        import faiss

        with readable_copy(self._file(self._about()["index"])) as path:
            return faiss.read_index(path)
