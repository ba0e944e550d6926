"""Read directories of image files, a row for each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from transforms import device
from transforms.dtypes import Feature
from transforms.shard import Piece, position
from transforms.sources.files import Listing, list_files
from transforms.sources.left_out import suffix_remedy
from transforms.sources.source import File, traced_once, unconverted
from transforms.sources.staging import copied

if TYPE_CHECKING:
    import tensorflow as tf

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".gif",
    ".bmp",
    ".webp",
)
"""Of files that are read unless the config says otherwise."""


@dataclass(frozen=True)
class Images:
    """Image files, as the bytes that they hold; the step `decode_image` decodes them.

    Features are `image` (bytes), `path` (relative, the key unless the config names
    another) and, if asked for, `label`.

    Attributes:
      path: directory or glob, one or a list; on any filesystem. A directory stands for
        all JPEG, PNG, GIF, BMP and WebP files below it, by their suffix.
      suffixes: of the files to read, in place of those of these formats; an empty list
        stands for all files. `decode_image` tells formats by content, not by suffix.
      label: `folder` adds the feature `label`, the name of the directory that a file
        lies in. If absent, there is no such feature.
    """

    path: str | list[str]
    suffixes: list[str] | None = None
    label: Literal["folder"] | None = None

    default_key: ClassVar[str | None] = "path"
    localize = staticmethod(copied)

    def files(self) -> list[File]:
        """List the files; each is one row."""
        return [replace(file, blocks=(1,)) for file in self._files]

    def notes(self) -> list[str]:
        """Say which files of the listing are not read."""
        return self._files.left_out.notes(
            f"{suffix_remedy(self._files.suffixes)}; decode_image decodes JPEG, PNG,"
            " GIF, BMP and WebP, other formats must be converted first"
        )

    def describe(self) -> Mapping[str, Feature]:
        """Give the features `image`, `path` and `label`; no file is opened."""
        found = {"image": Feature("bytes"), "path": Feature("string")}
        return found | ({"label": Feature("string")} if self.label else {})

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read files, several at a time where there are threads for it."""
        import tensorflow as tf

        threads = device.reader_threads()
        columns = {
            "at": tf.constant([position(i) for i in range(len(pieces))], tf.int64),
            "file": [piece.file for piece in pieces],
            "path": [piece.name for piece in pieces],
            "label": [folder_of(piece.name) for piece in pieces],
        }

        def read_file(row: Mapping[str, Any]) -> tuple[Any, Any]:
            found = {"path": row["path"], "label": row["label"]}
            if "image" in features:
                found["image"] = tf.io.read_file(row["file"])
            return row["at"], {name: found[name] for name in features}

        def build(rows: tf.data.Dataset) -> tf.data.Dataset:
            parallel = threads if threads > 1 else None
            examples = rows.map(unconverted(read_file), parallel)
            return examples if batch_rows is None else examples.batch(batch_rows)

        rows = tf.data.Dataset.from_tensor_slices(columns)
        key = (*features, batch_rows, threads)
        return traced_once(self, key, build)(rows)

    @cached_property
    def _files(self) -> Listing:
        return list_files(self.path, suffixes=SUFFIXES, chosen=self.suffixes)


def folder_of(name: str) -> str:
    """Give the name of the directory that a file lies in.

    >>> folder_of("train/cat/1.jpg")
    'cat'
    """
    return PurePosixPath(name).parent.name
