"""Read datasets prepared by TensorFlow Datasets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from transforms import scratch, storage
from transforms.dtypes import Feature
from transforms.lookup import ConfigError, nearest, resolve
from transforms.shard import ROW_BITS, Piece
from transforms.sources.array_record import array_records
from transforms.sources.files import find_file
from transforms.sources.parquet import Parquet
from transforms.sources.source import File, traced_once, unconverted
from transforms.sources.staging import copied
from transforms.sources.tfds_features import (
    at,
    checked,
    element,
    is_dataset,
    is_one_tensor,
    leaves,
    tree,
)
from transforms.sources.tfrecord import tfrecords

if TYPE_CHECKING:
    import tensorflow as tf

_ID = "tfds_id"
_METADATA_SUFFIXES = (".json", ".txt")
_STORED = {"data": Feature("bytes")}  # TFDS's column of messages in Parquet files


@dataclass(frozen=True)
class Tfds:
    """A prepared TFDS dataset; the code of its builder is not needed.

    Features inside of others are named `outer/inner`, also the languages of a
    translation. Nested datasets, and features with several axes whose length differs
    between rows, are left out.

    Attributes:
      name: `dataset`, `dataset/config` or `dataset/config:version`; without a version
        the newest. If absent, `data_dir` is the dataset's own directory, which holds
        `dataset_info.json`.
      data_dir: the TFDS data directory, on any filesystem. If absent, the one that TFDS
        uses by default.
      split: a split, or an expression such as `train[:10%]+test` that names no row
        twice.
      even_split: `[index, count]`: cut the split into `count` parts of equal size and
        read the one at `index`. If absent, the whole split is read.
      decoders: feature to `skip`, which leaves images and the like as they are stored,
        or to `package.module:function`, which returns a TFDS decoder. If absent, TFDS
        decodes all features.
    """

    name: str | None = None
    data_dir: str | None = None
    split: str = "train"
    even_split: tuple[int, int] | None = None
    decoders: dict[str, str] | None = None

    default_key: ClassVar[str | None] = _ID
    localize = staticmethod(copied)

    def files(self) -> list[File]:
        """List the split's files with the row counts that TFDS recorded.

        Raises:
          ConfigError: the dataset or split does not exist, or names a row twice.
        """
        files = []
        covered: dict[str, list[tuple[int, int]]] = {}
        for instruction in self._instructions():
            name = PurePosixPath(instruction.filename).name
            first, take = instruction.skip, instruction.take
            if take < 0:
                take = instruction.examples_in_shard - first
            others = covered.setdefault(name, [])
            if any(first < stop and start < first + take for start, stop in others):
                raise ConfigError(
                    f"source.split must name no row twice, {self.split!r} does: rows of"
                    f" {name}"
                )
            others.append((first, first + take))
            uri = storage.join(self._directory, name)
            try:
                file = find_file(uri)
            except FileNotFoundError:
                raise ConfigError(
                    f"source.name must be a prepared dataset, {uri!r} is missing; run"
                    " the builder's download_and_prepare() again"
                ) from None
            files.append(replace(file, blocks=(take,), first=first))
        return files

    def describe(self) -> Mapping[str, Feature]:
        """Take the features' types from the dataset's metadata."""
        self._decoders()
        found = {_ID: Feature("string")}
        for name, spec in self._specs.items():
            if is_one_tensor(spec):
                shape = tuple(spec.shape.as_list())
                found[name] = Feature(self._dtype(name, spec.dtype.name, shape), shape)
        return found

    def other_columns(self) -> Mapping[str, str]:
        """Say what the features are that are left out."""
        nested = "is a nested dataset, whose steps are no rows of a table"
        uneven = "has several axes whose length differs between rows"
        found = {n: nested for n, (_, c) in self._connectors.items() if is_dataset(c)}
        for name, spec in self._specs.items():
            if not is_one_tensor(spec):
                found[name] = uneven
        return found

    def notes(self) -> list[str]:
        """Say which features are left out."""
        return [
            f"feature {name!r} of the dataset is left out: it {why}"
            for name, why in self.other_columns().items()
        ]

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read examples as TFDS decodes them."""
        import tensorflow as tf

        names = tf.constant([piece.name for piece in pieces])
        starts = tf.constant([piece.start for piece in pieces], tf.int64)

        def build(records: tf.data.Dataset, names: Any, starts: Any) -> tf.data.Dataset:
            def example(at: Any, record: Any) -> tuple[Any, Any]:
                found = self._decoded(record, [n for n in features if n != _ID])
                if _ID in features:
                    index = tf.bitwise.right_shift(at, ROW_BITS)
                    row = tf.strings.as_string(starts[index] + at % (1 << ROW_BITS))
                    found[_ID] = tf.strings.join([names[index], "__", row])
                return at, {name: found[name] for name in features}

            examples = records.map(unconverted(example))
            return examples if batch_rows is None else examples.batch(batch_rows)

        make = traced_once(self, (*features, batch_rows), build)
        return make(self._records(pieces), names, starts)

    def _records(self, pieces: Sequence[Piece]) -> tf.data.Dataset:
        """Read the stored messages: a dataset of `(position, message)`."""
        kind = self._builder.info.file_format.value
        if kind == "tfrecord":
            return tfrecords(pieces)
        if kind == "array_record":
            return array_records(pieces)
        if kind == "parquet":
            stored = Parquet([]).read(pieces, _STORED, None)
            return stored.map(unconverted(lambda at, example: (at, example["data"])))
        raise ConfigError(
            "source.name must be a dataset in TFRecord, ArrayRecord or Parquet files,"
            f" {self._builder.info.full_name} is in {kind}; prepare it again with"
            " file_format"
        )

    @cached_property
    def _specs(self) -> dict[str, Any]:
        """What TFDS decodes to, `{feature: specification of a tensor}`."""
        import tensorflow as tf

        names = [n for n, (_, c) in self._connectors.items() if not is_dataset(c)]
        function = tf.function(
            lambda record: self._decoded(record, names), autograph=False
        )
        record = tf.TensorSpec([], tf.string)
        return dict(function.get_concrete_function(record).structured_outputs)

    def _decoded(self, record: Any, names: Sequence[str]) -> dict[str, Any]:
        """Decode some features of a message to `{feature: tensor}`."""
        import tensorflow_datasets as tfds

        if not names:
            return {}
        decoders = self._decoders()
        known = [(name, self._connectors[name][0]) for name in names]
        wanted = tree(self._builder.info.features, [path for _, path in known])
        partial = tfds.decode.PartialDecoding(wanted, decoders)
        features = partial.extract_features(self._builder.info.features)
        chosen = {path[0] for _, path in known}
        decoders = {n: one for n, one in decoders.items() if n in chosen}
        record = checked(record, features)
        found = features.deserialize_example(record, decoders=decoders)
        return {name: at(found, path) for name, path in known}

    @cached_property
    def _connectors(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Each feature that holds no others: its path and what TFDS says of it."""
        found = leaves(self._builder.info.features)
        return {"/".join(path): (path, connector) for path, connector in found}

    def _decoders(self) -> dict[str, Any]:
        import tensorflow_datasets as tfds

        table = {"skip": tfds.decode.SkipDecoding}
        made: dict[str, Any] = {}
        known = self._builder.info.features
        for name, given in (self.decoders or {}).items():
            if name not in known:
                raise ConfigError(
                    f"source.decoders must name features of the dataset, got {name!r}"
                    f"{nearest(name, known)}"
                )
            made[name] = resolve(given, table, f"source.decoders.{name}")()
        return made

    def _dtype(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> str:
        """Name a feature's type; string tensors may be of type string or bytes."""
        import tensorflow_datasets as tfds

        if dtype != "string" or name in (self.decoders or {}):
            return "bytes" if dtype == "string" else dtype
        connector = element(self._connectors[name][1])
        is_text = isinstance(connector, tfds.features.Text) or not connector.shape
        return "string" if is_text else "bytes"

    def _instructions(self) -> list[Any]:
        import tensorflow_datasets as tfds

        splits = self._builder.info.splits
        wanted: Any = self.split
        if self.even_split is not None:
            index, count = self.even_split
            if not 0 <= index < count:
                raise ConfigError(
                    "source.even_split must be [index, count] with an index from 0 to"
                    f" below count, got {list(self.even_split)}"
                )
            wanted = tfds.even_splits(self.split, count)[index]
        try:
            return list(splits[wanted].file_instructions)
        except (KeyError, ValueError, AssertionError) as error:
            raise ConfigError(
                f"source.split must be one of {', '.join(splits)}, or made of them, got"
                f" {self.split!r}{nearest(self.split, splits)}"
            ) from error

    @cached_property
    def _directory(self) -> str:
        """URI of the directory that holds the files."""
        import tensorflow_datasets as tfds

        if self.name is None:
            if self.data_dir is None:
                raise ConfigError("source.name or source.data_dir is required")
            return self.data_dir
        if self.data_dir is None or storage.local_path(self.data_dir) is not None:
            where = {"data_dir": self.data_dir} if self.data_dir else {}
            try:
                builder = tfds.core.read_only_builder.builder_from_files(
                    self.name, **where
                )
            except tfds.core.registered.DatasetNotFoundError as error:
                raise self._not_found() from error
            return str(builder.data_dir)
        path, _, version = self.name.partition(":")
        directory = storage.join(self.data_dir, path)
        if version:
            return storage.join(directory, version)
        versions = [
            tuple(map(int, name.split(".")))
            for name in storage.list_directories(directory)
            if re.fullmatch(r"\d+\.\d+\.\d+", name)
        ]
        if not versions:
            raise self._not_found()
        return storage.join(directory, ".".join(map(str, max(versions))))

    @cached_property
    def _builder(self) -> Any:
        """The dataset as its metadata describe it; remote metadata are copied first."""
        import tensorflow_datasets as tfds

        try:
            if storage.local_path(self._directory) is not None:
                return tfds.builder_from_directory(self._directory)
            with scratch.directory() as copy:
                for name in storage.list_names(self._directory):
                    if name.endswith(_METADATA_SUFFIXES):
                        uri = storage.join(self._directory, name)
                        (copy / name).write_bytes(storage.read(uri))
                return tfds.builder_from_directory(copy)
        except (
            FileNotFoundError,
            tfds.core.dataset_info.DatasetInfoFileError,
        ) as error:
            raise self._not_found() from error

    def _not_found(self) -> ConfigError:
        return ConfigError(
            "source.name must be a dataset that is prepared under source.data_dir, got"
            f" {self.name!r} under {self.data_dir!r}; prepare it with tfds build, or"
            " correct data_dir"
        )
