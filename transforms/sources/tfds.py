"""Read datasets prepared by TensorFlow Datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from transforms import storage
from transforms.lookup import ConfigError, nearest
from transforms.shard import Piece
from transforms.sources.base import Feature, File, file_version

if TYPE_CHECKING:
    import tensorflow as tf

_ID = "tfds_id"


@dataclass(frozen=True)
class Tfds:
    """One split of a prepared TFDS dataset; the code of its builder is not needed.

    Attributes:
      name: `dataset`, `dataset/config` or `dataset/config:version`.
      data_dir: the TFDS data directory; TFDS's own default if absent.
      split: name of a split.
    """

    name: str
    data_dir: str | None = None
    split: str = "train"

    default_key: ClassVar[str | None] = _ID

    def files(self) -> list[File]:
        """List the split's files with the row counts that TFDS recorded."""
        info = self._split_info
        names = sorted(info.filenames)
        files = []
        for name, rows in zip(names, info.shard_lengths, strict=True):
            uri = storage.join(str(self._builder.data_dir), name)
            fs, path = storage.filesystem(uri)
            try:
                details = fs.info(path)
            except FileNotFoundError:
                raise ConfigError(
                    f"source.name must be a prepared dataset, {uri!r} is missing; run"
                    " the builder's download_and_prepare() again"
                ) from None
            version = f"{self._builder.info.full_name} {file_version(details)}"
            files.append(File(uri, name, int(details["size"]), version, (rows,)))
        return files

    def describe(self) -> Mapping[str, Feature]:
        """Take the features' types from the dataset's metadata."""
        import tensorflow as tf
        import tensorflow_datasets as tfds

        features = self._builder.info.features
        found = {_ID: Feature("string")}
        for name, spec in features.get_tensor_spec().items():
            if isinstance(spec, tf.TensorSpec):
                dtype = spec.dtype.name
                if dtype == "string" and not isinstance(
                    features[name], tfds.features.Text
                ):
                    dtype = "string" if spec.shape.rank == 0 else "bytes"
                found[name] = Feature(dtype, tuple(spec.shape.as_list()))
        return found

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read examples as TFDS decodes them."""
        import tensorflow_datasets as tfds

        config = tfds.ReadConfig(
            add_tfds_id=True,
            try_autocache=False,
            interleave_cycle_length=1,
            assert_cardinality=False,
            skip_prefetch=True,
        )
        decoders = tfds.decode.PartialDecoding(
            {name: True for name in features if name != _ID}
        )
        info = self._split_info
        lengths = dict(zip(sorted(info.filenames), info.shard_lengths, strict=True))
        first_row = dict(zip(lengths, _starts(lengths.values()), strict=True))
        numbered: tf.data.Dataset | None = None
        position = 0
        for piece in pieces:
            assert piece.rows is not None
            start = first_row[PurePosixPath(piece.file).name] + piece.start
            examples = self._builder.as_dataset(
                split=tfds.core.ReadInstruction(self.split, start, start + piece.rows),
                read_config=config,
                decoders=decoders,
                shuffle_files=False,
            )
            piece_examples = examples.enumerate(position)
            numbered = (
                piece_examples
                if numbered is None
                else numbered.concatenate(piece_examples)
            )
            position += piece.rows
        assert numbered is not None
        chosen = numbered.map(
            lambda row, example: (row, {name: example[name] for name in features})
        )
        return chosen if batch_rows is None else chosen.batch(batch_rows)

    @cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        try:
            return tfds.core.read_only_builder.builder_from_files(
                self.name, **({"data_dir": self.data_dir} if self.data_dir else {})
            )
        except tfds.core.registered.DatasetNotFoundError as error:
            raise ConfigError(
                f"source.name must be a dataset that is prepared under source.data_dir,"
                f" got {self.name!r} under {self.data_dir!r}; prepare it with tfds"
                " build, or correct data_dir"
            ) from error

    @cached_property
    def _split_info(self) -> Any:
        splits = self._builder.info.splits
        if self.split not in splits:
            raise ConfigError(
                f"source.split must be one of {', '.join(splits)}, got {self.split!r}"
                f"{nearest(self.split, splits)}"
            )
        return splits[self.split]


def _starts(lengths: Any) -> list[int]:
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts
