"""Read the first rows of a source, to see what its features hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.cut import cut_shards
from transforms import storage
from transforms.dtypes import KEY_DTYPES, Feature, null_name
from transforms.errors.stages import read_errors
from transforms.sources.line_rows import ROW_ID
from transforms.sources.source import File, Source
from transforms.sources.staging import readable

_ROWS = 100
_PIECES = 8  # of which some may be whole recordings
_SPREAD = 64  # files, of which the beginning is read
_EXIF_BYTES = 1 << 17  # in front of the pixels of a JPEG file
_PARALLEL_READS = 16
_KEYS = ("id", "key", "__key__", "uuid", "guid", "example_id", "index", "filename")
_LABELS = ("label", "labels", "class", "cls", "category", "target", "y", "caption")


@dataclass(frozen=True, slots=True)
class Head:
    """The features of a source, and their values in its first rows.

    Attributes:
      features: by name.
      rows: the first rows that can be read, `{feature: value}`.
      bad: how many rows before them could not be read.
      files: of the source.
      default_key: the reader's own key, if it has one that says more than the place.
    """

    features: Mapping[str, Feature]
    rows: list[dict[str, Any]]
    bad: int
    files: Sequence[File]
    default_key: str | None

    def values(self, name: str) -> list[Any]:
        """Give a feature's values, without nulls."""
        flag = null_name(name)
        return [row[name] for row in self.rows if not row.get(flag, False)]

    def images(self, name: str) -> list[bytes]:
        """Give encoded images of a feature, or as much of them as holds EXIF data.

        Where each file is an image, they are of files all over the source; else of the
        first rows.
        """
        if any(file.blocks != (1,) for file in self.files):
            return [bytes(value) for value in self.values(name)]
        spread = self.files[:: -(-len(self.files) // _SPREAD) or 1]
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            return [head for head in pool.map(_beginning, spread) if head]

    def nulls(self, name: str) -> int:
        """Count the rows that have no value of a feature."""
        return sum(row.get(null_name(name), False) for row in self.rows)

    def keys(self) -> list[str]:
        """Name features that could be the key, the likeliest first."""
        if self.default_key:
            return []
        found = [name for name in self.features if self._identifies(name)]
        return sorted(found, key=lambda name: _key_rank(name.lower()))

    def labels(self) -> list[str]:
        """Name scalar features that say what an example is."""
        return [
            name
            for name, feature in self.features.items()
            if name.lower() in _LABELS and not feature.shape
        ]

    def _identifies(self, name: str) -> bool:
        feature, values = self.features[name], self.values(name)
        return (
            _key_rank(name.lower()) < len(_KEYS) + 1
            and feature.dtype in KEY_DTYPES
            and not feature.shape
            and len(values) == len({*values}) == len(self.rows) > 0
        )


def _beginning(file: File) -> bytes:
    """Read the first bytes of a file; none if it cannot be read."""
    with suppress(
        OSError, ValueError
    ):  # of a reader of somebody's own, perhaps no file
        fs, path = storage.filesystem(file.uri)
        found: bytes = fs.cat_file(path, 0, min(file.bytes, _EXIF_BYTES))
        return found
    return b""


def _key_rank(name: str) -> int:
    if name in _KEYS:
        return _KEYS.index(name)
    return len(_KEYS) + (not name.endswith(("_id", "-id", "_key", "path", "url")))


def read_head(source: Source, features: Mapping[str, Feature]) -> Head:
    """Read the first rows of the first file that has some.

    Raises:
      ConfigError: the source cannot be listed.
    """
    rows: list[dict[str, Any]] = []
    bad = 0
    files = source.files()
    for shard in cut_shards(files, _ROWS):
        with readable(source, shard.pieces[:_PIECES]) as pieces:
            elements = iter(source.read(pieces, features, None))
            while len(rows) + bad < _ROWS:
                try:
                    element = next(elements, None)
                except read_errors():
                    bad += 1
                    continue
                if element is None:
                    break
                rows.append({name: one.numpy() for name, one in element[1].items()})
        if rows:
            break
    key = source.default_key
    if key == ROW_ID:  # made of file and place, of no use outside of the table
        features, key = {n: one for n, one in features.items() if n != key}, None
    return Head(features, rows, bad, files, key)
