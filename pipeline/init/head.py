"""Read the first rows of a source, to see what its features hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.cut import cut_shards
from transforms.dtypes import KEY_DTYPES, Feature, null_name
from transforms.errors.stages import read_errors
from transforms.sources.line_rows import ROW_ID
from transforms.sources.source import Source
from transforms.sources.staging import readable

_ROWS = 100
_PIECES = 8  # of which some may be whole recordings
_KEYS = ("id", "key", "__key__", "uuid", "guid", "example_id", "index", "filename")
_LABELS = ("label", "labels", "class", "cls", "category", "target", "y", "caption")


@dataclass(frozen=True, slots=True)
class Head:
    """The features of a source, and their values in its first rows.

    Attributes:
      features: by name.
      rows: the first rows that can be read, `{feature: value}`.
      bad: how many rows before them could not be read.
      default_key: the reader's own key, if it has one that says more than the place.
    """

    features: Mapping[str, Feature]
    rows: list[dict[str, Any]]
    bad: int
    default_key: str | None

    def values(self, name: str) -> list[Any]:
        """Give a feature's values, without nulls."""
        flag = null_name(name)
        return [row[name] for row in self.rows if not row.get(flag, False)]

    def bad_share(self, names: Iterable[str]) -> float:
        """Give the share of rows that are bad, or lack a value of some features."""
        flags = [null_name(name) for name in names]
        lacking = sum(any(row.get(flag, False) for flag in flags) for row in self.rows)
        return (self.bad + lacking) / max(len(self.rows) + self.bad, 1)

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
    for shard in cut_shards(source.files(), _ROWS):
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
    return Head(features, rows, bad, key)
