"""Read Parquet files, a row group or part of one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms import storage
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.base import Feature, File, list_files

if TYPE_CHECKING:
    import tensorflow as tf

_READ_ROWS = 4096
_PARALLEL_FOOTERS = 16


@dataclass(frozen=True, slots=True)
class Parquet:
    """Parquet files on any filesystem; only the columns that are needed are read.

    Numbers, booleans, text, binary and timestamps are scalars; lists of them are
    vectors. A list column without a fixed size is as long as its first row, or as
    `lengths` says; rows of another length are bad rows.

    Attributes:
      path: path, directory or glob, one or a list.
      lengths: column name to the length that its lists have.
    """

    path: str | list[str]
    lengths: dict[str, int] | None = None

    default_key: ClassVar[str | None] = None

    def files(self) -> list[File]:
        """List the files with their row groups, from the footers."""
        files = list_files(self.path)
        with ThreadPoolExecutor(_PARALLEL_FOOTERS) as pool:
            return list(pool.map(_with_row_groups, files))

    def describe(self) -> Mapping[str, Feature]:
        """Take the features' types from the first file's schema."""
        file = list_files(self.path)[0]
        opened = _open(file.uri)
        lengths = self.lengths or {}
        features = {}
        for field in opened.schema_arrow:
            length = lengths.get(field.name)
            if length is None and pa.types.is_list(field.type):
                length = _first_length(opened, field.name)
            feature = _feature(field.type, length)
            if feature:
                features[field.name] = feature
        for name in lengths:
            if name not in features:
                raise ConfigError(
                    f"source.lengths must name list columns of {file.uri!r}, got"
                    f" {name!r}"
                )
        return features

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read rows through Arrow; buffers become tensors without Python values."""
        import tensorflow as tf

        signature = (
            tf.TensorSpec([None], tf.int64),
            {
                name: tf.TensorSpec([None, *feature.shape], feature.tensor_dtype)
                for name, feature in features.items()
            },
            tf.TensorSpec([None], tf.string),
        )

        def checked(row: Any, example: Any, fault: Any) -> tuple[Any, Any]:
            sound = tf.debugging.Assert(tf.reduce_all(fault == ""), [fault])
            with tf.control_dependencies([sound]):
                return tf.identity(row), example

        batches = tf.data.Dataset.from_generator(
            lambda: _batches(pieces, features, batch_rows or _READ_ROWS),
            output_signature=signature,
        )
        elements = batches.unbatch() if batch_rows is None else batches
        return elements.map(checked)


def _with_row_groups(file: File) -> File:
    return replace(file, blocks=tuple(_group_rows(_open(file.uri))), divisible=False)


def _open(uri: str) -> pq.ParquetFile:
    fs, path = storage.filesystem(uri)
    try:
        return pq.ParquetFile(
            fs.open(path, "rb"), pre_buffer=True, page_checksum_verification=True
        )
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"source.path must hold Parquet files, cannot read the footer of {uri!r}:"
            f" {error}; remove or replace the file"
        ) from error


def _first_length(file: pq.ParquetFile, name: str) -> int | None:
    """Length of a column's first list; None if there is none."""
    first = next(file.iter_batches(batch_size=1, columns=[name]), None)
    return pc.list_value_length(first[name])[0].as_py() if first else None


def _feature(kind: pa.DataType, length: int | None) -> Feature | None:
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        element = _feature(kind.value_type, None)
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else length
        if element is None or element.shape or size is None:
            return None
        return Feature(element.dtype, (size,))
    if pa.types.is_dictionary(kind):
        return _feature(kind.value_type, None)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Feature("string")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Feature("bytes")
    if pa.types.is_timestamp(kind):
        return Feature("timestamp")
    if (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
    ):
        return Feature(np.dtype(kind.to_pandas_dtype()).name)
    return None


def _batches(
    pieces: Sequence[Piece], features: Mapping[str, Feature], rows: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]]:
    """Yield batches of `rows` rows across pieces; only the last is shorter.

    Yields:
      Positions int64 `[rows]`, features `[rows, ...]`, and what is wrong with each row,
      empty text if nothing is. Nothing is raised for a bad row: that would end the
      generator, and with it the rows that follow.
    """
    waiting: list[pa.Table] = []
    count = position = 0

    def take(size: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        nonlocal waiting, count, position
        table = pa.concat_tables(waiting)
        head, rest = table.slice(0, size), table.slice(size)
        waiting, count = [rest], rest.num_rows
        numbers = np.arange(position, position + head.num_rows, dtype=np.int64)
        position += head.num_rows
        faults = np.full(head.num_rows, "", dtype=object)
        columns = {}
        for name, feature in features.items():
            columns[name], whole = _to_numpy(head[name], feature)
            faults[~whole] = f"{name} is null or has another length than planned"
        return numbers, columns, faults

    uri, file, groups = "", None, [0]
    for piece in pieces:
        if piece.file != uri:
            uri, file = piece.file, _open(piece.file)
            groups = _group_rows(file)
        for table in _read_piece(file, groups, piece, list(features)):
            waiting.append(table)
            count += table.num_rows
            while count >= rows:
                yield take(rows)
    if count:
        yield take(count)


def _read_piece(
    file: Any, groups: Sequence[int], piece: Piece, names: list[str]
) -> Iterator[pa.Table]:
    """Yield the piece's rows, one row group after the other."""
    assert piece.rows is not None
    first, last = piece.start, piece.start + piece.rows
    start = 0
    for index, rows in enumerate(groups):
        stop = start + rows
        if start < last and stop > first:
            group = _read_group(file, index, names)
            begin = max(first - start, 0)
            yield group.slice(begin, min(last, stop) - start - begin)
        start = stop
        if start >= last:
            return


def _read_group(file: Any, index: int, names: list[str]) -> pa.Table:
    """Read a row group.

    Raises:
      ValueError: its bytes are damaged. Arrow says so by a bare OSError; one with a
        number, or of another class, is the storage's.
    """
    try:
        return file.read_row_group(index, columns=names)
    except OSError as error:
        if type(error) is OSError and error.errno is None:
            raise ValueError(f"row group {index} is damaged: {error}") from error
        raise


def _group_rows(file: pq.ParquetFile) -> list[int]:
    metadata = file.metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _to_numpy(
    column: pa.ChunkedArray, feature: Feature
) -> tuple[np.ndarray, np.ndarray]:
    """Convert a column; say which rows are whole, and put zeros in the others.

    Returns:
      Values `[rows, *shape]`, and bool `[rows]`.
    """
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not feature.shape:
        whole = array.is_valid().to_numpy(zero_copy_only=False)
        return _values(array, feature), whole
    (length,) = feature.shape
    assert length is not None
    sizes = pc.list_value_length(array).fill_null(-1).to_numpy(zero_copy_only=False)
    whole = sizes == length
    elements = array.filter(pa.array(whole)).flatten()
    kept = _values(elements, feature).reshape(-1, length)
    if elements.null_count:
        valid = elements.is_valid().to_numpy(zero_copy_only=False)
        whole[whole] = valid.reshape(-1, length).all(axis=1)
        kept = kept[valid.reshape(-1, length).all(axis=1)]
    if whole.all():
        return kept, whole
    filled = np.full(
        (len(array), length), b"" if kept.dtype == object else 0, kept.dtype
    )
    filled[whole] = kept
    return filled, whole


def _values(array: pa.Array, feature: Feature) -> np.ndarray:
    if feature.dtype == "timestamp":
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
        array = array.cast(pa.int64())
    if array.null_count:
        text = feature.dtype in ("string", "bytes")
        array = array.fill_null(pa.scalar("" if text else 0).cast(array.type))
    return np.asarray(array.to_numpy(zero_copy_only=False))
