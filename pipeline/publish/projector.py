"""TensorBoard's projector: a directory with vectors and labels of a sample of rows."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from pipeline.publish.columns import Columns
from pipeline.publish.finished import FinishedTable, float32_matrix
from pipeline.publish.placed import is_free, place_of
from pipeline.publish.sample import at_least_one, smallest_hashes
from pipeline.publish.target import read_object
from transforms import storage
from transforms.column_names import KEY
from transforms.table.columns import Column

_CONFIG = "projector_config.pbtxt"
_BEGIN = "# featuretap "
_FILE = re.compile(r"(labels|vectors-.+)-[0-9a-f]{8}\.tsv")
_ESCAPED = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_MEANT = {escape: text for text, escape in _ESCAPED.items()}


class Projector:
    """A log directory: `projector_config.pbtxt`, and the text files that it names.

    The files of vectors have a line for each row, and so has the file of labels, after
    a line of names if there are several.
    """

    normalizes = False

    def __init__(
        self,
        table: str,
        *,
        path: str | None = None,
        column: str | None = None,
        rows: int = 10_000,
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          path: URI of the directory; beside the table by default.
          column: of vectors; all of them by default.
          rows: how many at most.
        """
        self._path = place_of(table, path, "projector")
        self._column = column
        self.sample = at_least_one(rows, "target projector.rows")

    @property
    def location(self) -> str:
        """The directory."""
        return self._path

    def check(self, columns: Columns) -> None:
        """Refuse a column that holds no vectors."""
        self._vectors(columns)

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the properties that the first line of the configuration holds."""
        try:
            config = storage.read(self._file(_CONFIG))
        except FileNotFoundError:
            return None if is_free(self._path, _FILE.fullmatch) else {}
        return read_object(config.partition(b"\n")[0].partition(_BEGIN.encode())[2])

    def write(self, table: FinishedTable) -> None:
        """Write vectors and labels, then the configuration, which names them."""
        vectors, labels = self._vectors(table.columns), table.columns.labels()
        names = [*labels, *(column.name for column in vectors)]
        rows = smallest_hashes(table.batches(names), self.sample)
        config = [f"{_BEGIN}{json.dumps(table.properties)}"]
        label_file = f"labels-{table.tag}.tsv"
        storage.replace(self._file(label_file), _label_lines(rows.select(labels)))
        for column in vectors:
            shape = (len(rows), column.width or 0)
            file = f"vectors-{column.name}-{table.tag}.tsv"
            lines = _vector_lines(rows[column.name], column.width or 0)
            storage.replace(self._file(file), lines)
            config += _embedding(column.name, shape, file, label_file)
        storage.replace(self._file(_CONFIG), "\n".join([*config, ""]).encode())

    def remove_older(self, table: FinishedTable) -> None:
        """Remove files that the configuration does not name."""
        config = self._read(_CONFIG)
        for name in storage.list_names(self._path):
            if _FILE.fullmatch(name) and f'"{name}"' not in config:
                storage.remove(self._file(name))

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys that the labels begin with."""
        yield self._keys(table)

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read some lines of the files of vectors."""
        there = self._keys(table)
        found = pc.index_in(keys, there).drop_null()
        columns: dict[str, Any] = {KEY: there.take(found)}
        for column in self._vectors(table.columns):
            text = self._read(self._named(rf"vectors-{column.name}-\w+\.tsv"))
            lines = text.splitlines()
            some = [lines[place].split("\t") for place in found.to_pylist()]
            columns[column.name] = [list(map(float, line)) for line in some]
        return pa.table(columns)

    def _vectors(self, columns: Columns) -> list[Column]:
        if self._column is None and (found := columns.vectors()):
            return found
        return [columns.vector(self._column, "target projector.column")]

    def _keys(self, table: FinishedTable) -> pa.Array:
        lines = self._read(self._named(r"labels-\w+\.tsv")).split("\n")[:-1]
        first = [_meant(line.split("\t")[0]) for line in lines]
        found = first[1:] if len(table.columns.labels()) > 1 else first
        return pa.array(found, pa.string()).cast(table.columns.key.arrow_type)

    def _named(self, pattern: str) -> str:
        """Give the name of a file that the configuration names."""
        return str(re.findall(f'"({pattern})"', self._read(_CONFIG))[0])

    def _file(self, name: str) -> str:
        return storage.join(self._path, name)

    def _read(self, name: str) -> str:
        return storage.read(self._file(name)).decode()


def _embedding(
    name: str, shape: tuple[int, int], vectors: str, labels: str
) -> list[str]:
    """Give lines of a ProjectorConfig, in the text format of protocol buffers."""
    return [
        "embeddings {",
        f'  tensor_name: "{name}"',
        *(f"  tensor_shape: {size}" for size in shape),
        f'  tensor_path: "{vectors}"',
        f'  metadata_path: "{labels}"',
        "}",
    ]


def _label_lines(rows: pa.Table) -> bytes:
    """Write values as text without tabs and line ends; nulls are empty.

    The names come first if there are several columns, as TensorBoard expects.
    """
    texts = [_escaped(column) for column in rows.columns]
    lines = pc.binary_join_element_wise(*texts, "\t").to_pylist()
    names = ["\t".join(rows.column_names)] if len(texts) > 1 else []
    return "\n".join([*names, *lines, ""]).encode()


def _escaped(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    texts = pc.fill_null(column.cast(pa.string()), "")
    for text, escape in _ESCAPED.items():
        texts = pc.replace_substring(texts, text, escape)
    return texts


def _meant(text: str) -> str:
    return re.sub(r"\\.", lambda found: _MEANT[found[0]], text)


def _vector_lines(column: pa.ChunkedArray, width: int) -> bytes:
    """Write vectors as the shortest text that reads as the same float32 values."""
    values = float32_matrix(column, width)
    rows = pa.table({str(i): values[:, i] for i in range(width)})
    lines = io.BytesIO()
    csv.write_csv(rows, lines, csv.WriteOptions(include_header=False, delimiter="\t"))
    return lines.getvalue()
