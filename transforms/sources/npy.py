"""Read rows of NumPy's .npy and .npz files."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from transforms import storage
from transforms.dtypes import DTYPES, Feature
from transforms.lookup import ConfigError
from transforms.preprocess.arrays import read_npy_header
from transforms.shard import Piece
from transforms.sources.blocks import Block, dataset
from transforms.sources.files import Listing, check_unchanged, find_file, list_files
from transforms.sources.left_out import LeftOut
from transforms.sources.source import File

if TYPE_CHECKING:
    import tensorflow as tf

_READ_BYTES = 8 << 20
_LONGER_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms")
_DAMAGE = (ValueError, EOFError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Numpy:
    """NumPy files; the first axis of every array counts rows.

    Each array of an `.npz` file is a feature of the array's name. Local `.npy` files
    are mapped into memory, all others are read in ranges of rows.

    Attributes:
      path: path, directory or glob of `.npz` files, or of `.npy` files that hold one
        feature; or `{feature = "x.npy", …}`, one file for each feature, all with the
        same number of rows.
      feature: name of the feature that `.npy` files hold; without effect for `.npz`
        files and where `path` names features itself.
    """

    path: str | list[str] | dict[str, str]
    feature: str = "array"

    default_key: ClassVar[str | None] = None

    def files(self) -> list[File]:
        """List the files, and open their headers to count the rows.

        Raises:
          ConfigError: there are none, one is damaged, or its arrays differ in rows.
        """
        return [self._with_rows(file) for file in self._files]

    def notes(self) -> list[str]:
        """Say which files of the listing are not read."""
        return self._files.left_out.notes("numpy reads .npy and .npz")

    def describe(self) -> Mapping[str, Feature]:
        """Take the features' types from the first file's headers."""
        uri = self._files[0].uri
        with ExitStack() as stack:
            arrays = self._planned(uri, stack)
            found = {name: _feature(array) for name, array in arrays.items()}
        if missing := [name for name, feature in found.items() if feature is None]:
            raise ConfigError(
                "source.path must hold arrays of numbers and text, array"
                f" {missing[0]!r} of {uri!r} is {arrays[missing[0]].dtype}; convert it"
            )
        return {name: feature for name, feature in found.items() if feature}

    def localize(self, pieces: Sequence[Piece], directory: Path) -> Sequence[Piece]:
        """Check that no file has changed; files are read in place, never copied."""
        if isinstance(self.path, dict):
            check_unchanged(pieces, self._identity_now)
        else:
            check_unchanged(pieces)
        return pieces

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read the pieces' rows, some megabytes at a time."""
        return dataset(
            pieces, features, batch_rows, lambda piece: _blocks(self, piece, features)
        )

    def open(self, uri: str, stack: ExitStack) -> dict[str, Any]:
        """Open the arrays of a file, or of all files that share its rows.

        Args:
          uri: URI of the file.
          stack: closes what was opened.

        Returns:
          `{feature: array}`; slices of an array read just these rows.

        Raises:
          ValueError, zipfile.BadZipFile: what is stored is damaged, or pickled.
        """
        if not uri.endswith(".npz"):
            places = self.path if isinstance(self.path, dict) else {self.feature: uri}
            return {name: _open_npy(place, stack) for name, place in places.items()}
        fs, path = storage.filesystem(uri)
        archive = zipfile.ZipFile(stack.enter_context(fs.open(path, "rb")))
        stack.enter_context(archive)
        return {
            entry.removesuffix(".npy"): _Stored(
                stack.enter_context(archive.open(entry))
            )
            for entry in archive.namelist()
        }

    @cached_property
    def _files(self) -> Listing:
        if isinstance(self.path, dict):
            return Listing(self._row_set(), LeftOut())
        return list_files(self.path, suffixes=(".npy", ".npz"))

    def _identity_now(self, uri: str) -> str:
        try:
            return self._row_set()[0].identity
        except ConfigError as error:  # a file is gone
            return str(error)

    def _row_set(self) -> list[File]:
        """Give the files that share their rows as one, with their present versions."""
        assert isinstance(self.path, dict)
        try:
            files = [find_file(uri) for uri in self.path.values()]
        except FileNotFoundError as error:
            raise ConfigError(
                f"source.path must name existing files: {error}"
            ) from None
        if not files:
            raise ConfigError("source.path must name at least one file, got none")
        # The first stands for all, and has changed when any has.
        identities = "; ".join(file.identity for file in files)
        size = sum(file.bytes for file in files)
        return [replace(files[0], bytes=size, version=identities)]

    def _with_rows(self, file: File) -> File:
        with ExitStack() as stack:
            arrays = self._planned(file.uri, stack)
            rows = {name: array.shape[0] for name, array in arrays.items()}
        if len(set(rows.values())) != 1:
            raise ConfigError(
                f"source.path must hold arrays of the same number of rows, those of"
                f" {file.uri!r} have {rows}"
            )
        return replace(file, blocks=(next(iter(rows.values())),))

    def _planned(self, uri: str, stack: ExitStack) -> dict[str, Any]:
        try:
            arrays = self.open(uri, stack)
            scalars = [name for name, array in arrays.items() if not array.shape]
            if scalars:
                raise ValueError(f"array {scalars[0]!r} has no axis of rows")
        except _DAMAGE as error:
            raise ConfigError(
                "source.path must hold .npy and .npz files of numbers and text, cannot"
                f" read {uri!r}: {error}; remove or replace the file"
            ) from error
        return arrays


class _Stored:
    """An array in an open file; a slice of rows reads just these rows.

    Raises:
      ValueError: it is no array, or holds pickled objects.
    """

    def __init__(self, stream: Any) -> None:
        self.shape, fortran, self.dtype = read_npy_header(stream)
        if fortran and len(self.shape) > 1:
            raise ValueError(
                "arrays must be in C order to be read in rows; save"
                " numpy.ascontiguousarray(array)"
            )
        self._stream, self._first = stream, stream.tell()

    def __getitem__(self, rows: slice) -> np.ndarray:
        shape = (rows.stop - rows.start, *self.shape[1:])
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._stream.seek(self._first + rows.start * row_bytes)
        data = self._stream.read(math.prod(shape) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(shape)


def _open_npy(uri: str, stack: ExitStack) -> Any:
    local = storage.local_path(uri)
    if local is not None:
        return np.load(local, mmap_mode="r", allow_pickle=False)
    fs, path = storage.filesystem(uri)
    return _Stored(stack.enter_context(fs.open(path, "rb")))


def _blocks(
    source: Numpy, piece: Piece, features: Mapping[str, Feature]
) -> Iterator[Block]:
    """Read the rows of a piece, some megabytes at a time."""
    assert piece.rows is not None
    done = 0
    try:
        with ExitStack() as stack:
            arrays = source.open(piece.file, stack)
            _check(arrays, features)
            chosen = [arrays[name] for name in features] or [np.zeros([1], np.int8)]
            row_bytes = sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in chosen)
            step = max(_READ_BYTES // max(row_bytes, 1), 1)
            while done < piece.rows:
                stop = min(done + step, piece.rows)
                rows = slice(piece.start + done, piece.start + stop)
                values = {}
                faults = np.full(stop - done, "", object)
                for name, feature in features.items():
                    found = arrays[name][rows]
                    values[name] = _values(found, feature)
                    if feature.dtype == "timestamp":
                        faults[_are_no_times(found)] = (
                            f"{name} must hold times that microseconds can tell, got"
                            " none, or one too far away"
                        )
                yield Block(np.arange(done, stop), values, {}, faults)
                done = stop
    except _DAMAGE as error:
        rest = np.arange(done, piece.rows)
        yield Block.of_faults(rest, f"the arrays cannot be read: {error}", features)


def _check(arrays: Mapping[str, Any], features: Mapping[str, Feature]) -> None:
    for name, feature in features.items():
        if name not in arrays:
            raise ValueError(f"no array {name!r} (there are {', '.join(arrays)})")
        found = _feature(arrays[name])
        if found != replace(feature, fill=None):
            raise ValueError(f"array {name!r} is {found}, planned was {feature}")


def _feature(array: Any) -> Feature | None:
    shape = tuple(array.shape[1:])
    if array.dtype.kind == "U":
        return Feature("string", shape)
    if array.dtype.kind == "S" or (array.dtype.kind == "V" and not array.dtype.names):
        return Feature("bytes", shape)
    if array.dtype.kind == "M":
        return Feature("timestamp", shape)
    return Feature(array.dtype.name, shape) if array.dtype.name in DTYPES else None


def _are_no_times(values: Any) -> np.ndarray:
    """Mark rows of times that are not there, or that microseconds do not reach.

    What is less than a microsecond is cut off.
    """
    wrong = np.isnat(values)
    if np.datetime_data(values.dtype)[0] in _LONGER_UNITS:
        back = values.astype("datetime64[us]").astype(values.dtype)
        wrong = wrong | (back != values)
    return np.asarray(wrong.reshape(len(values), -1).any(axis=1))


def _values(rows: Any, feature: Feature) -> np.ndarray:
    if feature.dtype == "timestamp":
        return np.asarray(rows).astype("datetime64[us]").astype(np.int64)
    if feature.family != "text":
        return np.ascontiguousarray(rows, feature.dtype)
    text = np.char.encode(rows, "utf-8") if rows.dtype.kind == "U" else rows
    return np.asarray(text).astype(object)
