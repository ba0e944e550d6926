"""Read the lines of text files; large files are cut into spans of bytes.

A line belongs to the span in which its first byte lies.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import lzma
import zlib
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from fsspec.core import OpenFile

from transforms import storage
from transforms.dtypes import Feature
from transforms.errors.failure import REST_LOST
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.blocks import Block, dataset
from transforms.sources.files import Listing, list_files
from transforms.sources.line_rows import (
    ROW_ID,
    Blame,
    Parser,
    TextLines,
    escaped,
    rows_of,
    sound_lines,
)
from transforms.sources.source import File, GivenFeature, given_features
from transforms.sources.staging import in_place

if TYPE_CHECKING:
    import tensorflow as tf

_SPAN_BYTES = 32 << 20
_CHUNK_BYTES = 4 << 20
_SAMPLE_BYTES = 1 << 20
_SUFFIXES = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
BOM = b"\xef\xbb\xbf"


class _Chunk(NamedTuple):
    """Whole lines of a file.

    Attributes:
      offset: byte in the file at which `data` begins.
      data: the bytes: UTF-8, or another encoding in which bytes below 128 are ASCII.
      starts: first byte in `data` of each line that is not empty, int64 `[lines]`.
      ends: byte after each of these lines, their line ends not counted, int64
        `[lines]`.
      fault: what is wrong with the line after them; empty if nothing is.
    """

    offset: int
    data: bytes
    starts: np.ndarray
    ends: np.ndarray
    fault: str = ""


@dataclass(frozen=True)
class Lines:
    """What CSV and JSON Lines have in common: options, and finding lines.

    Attributes:
      path: path, directory or glob, one or a list; on any filesystem.
      features: name to dtype, or to `{dtype, shape}`. If absent, the types are taken
        from the head of the first file.
      encoding: encoding of the files' text.
      max_line_bytes: a longer line is a bad row.
    """

    path: str | list[str]
    features: dict[str, GivenFeature | str] | None = None
    encoding: str = "utf-8"
    max_line_bytes: int = 16 << 20

    default_key: ClassVar[str | None] = ROW_ID
    localize = staticmethod(in_place)

    def files(self) -> list[File]:
        """List the files, large ones cut into spans of bytes; rows are not known."""
        return [
            replace(file, spans=tuple(_spans(file.bytes)))
            if self._can_be_cut(file.uri)
            else file
            for file in self._files
        ]

    def notes(self) -> list[str]:
        """Say which files of the listing are not read."""
        return self._files.left_out.notes()

    def describe(self) -> Mapping[str, Feature]:
        """Give the config's features, else those of the head of the first file.

        Raises:
          ConfigError: the encoding is unknown, or the features cannot be told.
        """
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ConfigError(
                f"source.encoding must be one that Python knows, got {self.encoding!r}"
            ) from None
        found = self._given() if self.features is not None else self._inferred()
        nullable = {
            name: replace(
                feature, nullable=self._text_may_be_null or feature.family != "text"
            )
            for name, feature in found.items()
        }
        return {**nullable, ROW_ID: Feature("string")}

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Parse lines with Arrow; a line that cannot be parsed fails alone."""
        return dataset(
            pieces, features, batch_rows, lambda piece: self._blocks(piece, features)
        )

    def _given(self) -> dict[str, Feature]:
        return given_features(self.features or {})

    def _inferred(self) -> dict[str, Feature]:
        """Tell the features from the head of the first file, by its sound lines."""
        uri, head = self._head()
        try:
            return self._infer(self._as_utf8(head))
        except (ValueError, csv.Error) as error:
            with contextlib.suppress(ValueError, csv.Error):
                if sound := self._sound(head):
                    return self._infer(sound)
            raise ConfigError(
                f"source.features must be given, since the head of {uri!r} does not"
                f" tell them: {error}"
            ) from error

    def _sound(self, head: bytes) -> bytes:
        """Leave out the lines that will be bad rows, and give the rest as UTF-8.

        If these are most lines, the options are wrong rather than the lines, and
        nothing is given.
        """
        starts, ends, _ = self._bounds(head, ended=True)
        lines = TextLines("", head, starts, ends, starts, self._as_utf8)
        top = lines.take(np.arange(int(self._starts_with_header))).each()
        header = b"".join(top).decode()
        parse, blame = self._parser(header, {}), self._blame(header, {})
        rest = lines.take(np.arange(len(top), len(lines)))
        sound = self._alike(sound_lines(parse, blame, rest))
        is_most = 2 * len(sound) > len(lines) - len(top)
        return b"\n".join([*top, *sound, b""]) if is_most else b""

    def _alike(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """Keep the sound lines whose values have the types that most have."""
        return lines

    def _head(self) -> tuple[str, bytes]:
        """Give the first file that has a line, by URI, and its first whole lines.

        Damaged files are passed over: reading makes bad rows of them.

        Raises:
          ConfigError: none has a line, though one is needed or a file is damaged.
        """
        damaged = []
        for file in self._files:
            with self._open(file.uri, 0) as stream:
                sample, broken = self._more(stream, _SAMPLE_BYTES)
            whole = sample[: sample.rfind(b"\n") + 1] or sample
            if whole.strip():
                return file.uri, whole.removeprefix(BOM)
            if broken:
                damaged.append(f"{file.uri!r}: {broken.partition(';')[0]}")
        if damaged:
            raise ConfigError(
                f"source.path must hold a file that can be read, got {damaged[0]};"
                " replace it with a whole one"
            )
        if self.features is None or self._starts_with_header:
            raise ConfigError(
                f"source.path must hold a line, got only empty files in {self.path!r}"
            )
        return self._files[0].uri, b""

    def _infer(self, lines: bytes) -> dict[str, Feature]:
        """Tell the features from the first lines of a file, given as UTF-8."""
        raise NotImplementedError

    def _parser(self, first_line: str, features: Mapping[str, Feature]) -> Parser:
        """Make a function from lines to an Arrow table.

        Raises:
          ConfigError: no line of this file can be parsed.
        """
        raise NotImplementedError

    def _blame(self, first_line: str, features: Mapping[str, Feature]) -> Blame:
        """Make a function that tells of many lines at once which are bad."""
        raise NotImplementedError

    # What only CSV has.
    _starts_with_header: ClassVar[bool] = False
    _quote: ClassVar[str] = ""
    _escape: ClassVar[str] = ""
    _joins_lines: ClassVar[bool] = False
    _text_may_be_null: ClassVar[bool] = True

    @cached_property
    def _files(self) -> Listing:
        return list_files(self.path)

    @cached_property
    def _is_like_ascii(self) -> bool:
        """Whether bytes below 128 mean what they mean in ASCII, such as line ends."""
        ascii_bytes = bytes(range(128))
        try:
            return ascii_bytes.decode(self.encoding).encode() == ascii_bytes
        except UnicodeDecodeError:
            return False

    def _can_be_cut(self, uri: str) -> bool:
        return (
            _compression(uri) is None and self._is_like_ascii and not self._joins_lines
        )

    def _as_utf8(self, data: bytes) -> bytes:
        if self.encoding.lower() in ("utf-8", "utf8", "ascii", "utf-8-sig"):
            return data
        return data.decode(self.encoding).encode() if self._is_like_ascii else data

    @contextlib.contextmanager
    def _open(self, uri: str, start: int) -> Iterator[Any]:
        """Open a file at a byte; encodings that are not like ASCII become UTF-8."""
        fs, path = storage.filesystem(uri)
        with OpenFile(fs, path, compression=_compression(uri)) as stream:
            if start:
                stream.seek(start)
            yield stream if self._is_like_ascii else _Recoded(stream, self.encoding)

    def _blocks(self, piece: Piece, features: Mapping[str, Feature]) -> Iterator[Block]:
        """Parse the lines of a piece, some megabytes at a time."""
        first, last = piece.span or (0, None)
        header, fault, parse = "", "", None
        try:
            if self._starts_with_header:
                header = self._first_line(piece.file)
            parse = self._parser(header, features)
            blame = self._blame(header, features)
        except ConfigError as error:
            fault = str(error)
        count = -piece.start
        most = np.inf if piece.rows is None else piece.rows
        header_is_ahead = self._starts_with_header and first == 0
        for chunk in self._chunks(piece.file, first, last):
            starts, ends = chunk.starts, chunk.ends
            if header_is_ahead and len(starts):
                starts, ends, header_is_ahead = starts[1:], ends[1:], False
            rows = np.arange(count, count + len(starts), dtype=np.int64)
            count += len(rows)
            wanted = (rows >= 0) & (rows < most)
            rows, starts, ends = rows[wanted], starts[wanted], ends[wanted]
            if fault:
                yield Block.of_faults(rows, fault, features)
            elif len(rows) and parse:
                places = chunk.offset + starts
                lines = TextLines(
                    piece.name, chunk.data, starts, ends, places, self._as_utf8
                )
                yield from rows_of(parse, blame, lines, rows, features)
            if count >= most:
                return
            if chunk.fault:
                if count >= 0:
                    row = np.array([count], np.int64)
                    yield Block.of_faults(row, chunk.fault, features)
                count += 1

    def _first_line(self, uri: str) -> str:
        for chunk in self._chunks(uri, 0, None):
            if len(chunk.starts):
                line = chunk.data[chunk.starts[0] : chunk.ends[0]]
                return self._as_utf8(line).decode(errors="replace")
        return ""

    def _chunks(self, uri: str, first: int, last: int | None) -> Iterator[_Chunk]:
        """Yield the lines that begin in a span of bytes; `last` None: to the end."""
        offset = max(first - 1, 0)
        with self._open(uri, offset) as stream:
            data, skipping = b"", first > 0
            while True:
                more, broken = self._more(stream)
                data += more
                if offset == 0 and data.startswith(BOM):
                    offset, data = len(BOM), data[len(BOM) :]
                if skipping:
                    cut = data.find(b"\n") + 1 or len(data)
                    skipping = data[cut - 1 : cut] != b"\n" and bool(more)
                    offset, data = offset + cut, data[cut:]
                starts, ends, used = self._bounds(data, ended=not more and not broken)
                if last is not None:
                    inside = offset + starts < last
                    starts, ends = starts[inside], ends[inside]
                if not used and len(data) > self.max_line_bytes:
                    broken = (
                        f"the line at byte {offset} is longer than"
                        f" source.max_line_bytes = {self.max_line_bytes}"
                    )
                    if self._joins_lines:
                        broken += f"; {REST_LOST}"
                    used, skipping = len(data), True
                yield _Chunk(offset, data, starts, ends, broken)
                offset, data = offset + used, data[used:]
                if not more or REST_LOST in broken:
                    return
                if last is not None and offset >= last and not skipping:
                    return

    def _more(self, stream: Any, most: int = _CHUNK_BYTES) -> tuple[bytes, str]:
        """Read some more bytes.

        Returns:
          The bytes, and what is wrong with the stored data, else empty text.
        """
        try:
            return stream.read(most), ""
        except (*_DAMAGE, UnicodeDecodeError) as error:
            return b"", f"{error}; {REST_LOST}"
        except OSError as error:  # bz2 gives no number
            if error.errno is not None:
                raise
            return b"", f"{error}; {REST_LOST}"

    def _bounds(self, data: bytes, ended: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """Find the lines: where they begin and end, and how many bytes they use."""
        values = np.frombuffer(data, np.uint8)
        newlines = np.flatnonzero(values == ord("\n"))
        if self._joins_lines:
            newlines = self._outside_fields(values, newlines)
        used = int(newlines[-1]) + 1 if len(newlines) else 0
        starts = np.concatenate([[0], newlines[:-1] + 1]).astype(np.int64)
        starts, ends = starts[: len(newlines)], newlines.astype(np.int64)
        if ended and used < len(data):
            starts, ends = np.append(starts, used), np.append(ends, len(data))
            used = len(data)
        ends = ends - ((ends > starts) & (values[ends - 1] == ord("\r")))
        filled = ends > starts
        return starts[filled], ends[filled], used

    def _outside_fields(self, values: np.ndarray, newlines: np.ndarray) -> np.ndarray:
        """Keep the line ends that are neither quoted nor escaped."""
        quotes = (
            values == ord(self._quote) if self._quote else np.zeros(len(values), bool)
        )
        if self._escape:
            taken = escaped(values, self._escape)[:-1]
            newlines, quotes = newlines[~taken[newlines]], quotes & ~taken
        before = np.searchsorted(np.flatnonzero(quotes), newlines)
        outside: np.ndarray = newlines[before % 2 == 0]
        return outside


class _Recoded:
    """A stream that gives the text of another stream as UTF-8."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._decoder = getincrementaldecoder(encoding)()

    def read(self, size: int) -> bytes:
        while data := self._stream.read(size):
            if text := self._decoder.decode(data):
                return text.encode()
        return self._decoder.decode(b"", final=True).encode()


def _spans(size: int) -> Iterator[tuple[int, int]]:
    """Cut a file into spans of about equal size."""
    count = max(1, -(-size // _SPAN_BYTES))
    for index in range(count):
        yield size * index // count, size * (index + 1) // count


def _compression(uri: str) -> str | None:
    return _SUFFIXES.get("." + uri.rpartition(".")[2])
