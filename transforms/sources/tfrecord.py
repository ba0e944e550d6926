"""Read TFRecord files of tf.Example messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from transforms import storage
from transforms.lookup import ConfigError, nearest
from transforms.shard import Piece
from transforms.sources.base import Feature, File, list_files, numbered_records

if TYPE_CHECKING:
    import tensorflow as tf

_READABLE = {"file", "local", "gs", "gcs"}
_COMPRESSION = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}
_SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zlib": "zlib"}
_DTYPES = {
    **dict.fromkeys(("string", "bytes"), "string"),
    **dict.fromkeys(("float32", "float16", "float64"), "float32"),
    **dict.fromkeys(
        ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "bool"),
        "int64",
    ),
}


@dataclass(frozen=True, slots=True)
class TfRecord:
    """TFRecord files; how many rows a file holds is known only when it has been read.

    Attributes:
      path: path, directory or glob, one or a list; local or gs://.
      features: name to dtype, or to `{dtype, shape}`. If absent, the first record
        tells: one value is a scalar, text is a string, other bytes are bytes.
      compression: of the files; if absent, their names tell (`.gz`, `.zlib`).
    """

    path: str | list[str]
    features: dict[str, Feature | str] | None = None
    compression: Literal["none", "gzip", "zlib"] | None = None

    default_key: ClassVar[str | None] = None

    def files(self) -> list[File]:
        """List the files; the rows they hold are not known."""
        found = list_files(self.path)
        for file in found:
            protocol = storage.filesystem(file.uri)[0].protocol
            if _READABLE.isdisjoint(
                [protocol] if isinstance(protocol, str) else protocol
            ):
                raise ConfigError(
                    "source.path must be local or gs:// for TFRecord files, which"
                    f" TensorFlow opens itself, got {file.uri!r}; copy the files there"
                )
        return found

    def describe(self) -> Mapping[str, Feature]:
        """Give the features of the config, or those of the first record."""
        if self.features is None:
            return self._infer()
        spec = {
            name: Feature(given) if isinstance(given, str) else given
            for name, given in self.features.items()
        }
        for name, feature in spec.items():
            if feature.dtype not in _DTYPES:
                raise ConfigError(
                    f"source.features.{name} must be one of {', '.join(_DTYPES)}, got"
                    f" {feature.dtype!r}{nearest(feature.dtype, _DTYPES)}"
                )
            if None in feature.shape:
                raise ConfigError(
                    f"source.features.{name} must have a fixed shape, got"
                    f" {list(feature.shape)}"
                )
        return spec

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read records and parse them, whole batches where batches are asked for."""
        import tensorflow as tf

        wanted = {
            name: tf.io.FixedLenFeature(feature.shape, _DTYPES[feature.dtype])
            for name, feature in features.items()
        }

        def cast(parsed: dict[str, Any]) -> dict[str, Any]:
            return {
                name: value
                if value.dtype == features[name].tensor_dtype
                else tf.cast(value, features[name].tensor_dtype)
                for name, value in parsed.items()
            }

        records = numbered_records(pieces, self._open(pieces[0].file))
        if batch_rows is None:
            return records.map(
                lambda row, record: (
                    row,
                    cast(tf.io.parse_single_example(record, wanted)),
                )
            )
        return records.batch(batch_rows).map(
            lambda row, record: (row, cast(tf.io.parse_example(record, wanted)))
        )

    def _open(self, file: str) -> Any:
        import tensorflow as tf

        suffix = "." + file.rpartition(".")[2]
        compression = self.compression or _SUFFIXES.get(suffix, "none")
        return lambda uri: tf.data.TFRecordDataset(
            uri, _COMPRESSION[compression], buffer_size=8 << 20
        )

    def _infer(self) -> dict[str, Feature]:
        import tensorflow as tf

        for file in self.files():
            records = self._open(file.uri)(file.uri)
            try:
                record = next(iter(records.take(1).as_numpy_iterator()), None)
                example = tf.train.Example.FromString(record) if record else None
            except Exception as error:
                raise ConfigError(
                    "source.path must hold TFRecord files of tf.Example messages,"
                    f" cannot read the first record of {file.uri!r}: {error}; check"
                    " source.compression, or give source.features"
                ) from error
            if example is not None:
                found = example.features.feature
                return {name: _feature(name, found[name]) for name in sorted(found)}
        raise ConfigError(
            f"source.path must hold at least one record, got only empty files in"
            f" {self.path!r}"
        )


def _feature(name: str, value: Any) -> Feature:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise ConfigError(
            f"source.features must be given, since feature {name!r} of the first record"
            f" holds no value that its type could be told from"
        )
    values = getattr(value, kind).value
    dtype = {"int64_list": "int64", "float_list": "float32"}.get(kind)
    if dtype is None:
        dtype = "string" if all(_is_text(item) for item in values) else "bytes"
    return Feature(dtype, () if len(values) == 1 else (len(values),))


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\n\r" for c in text)
