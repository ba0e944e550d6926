"""Parse tf.Example and tf.SequenceExample messages into features."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from transforms.casts import cast
from transforms.dtypes import Feature
from transforms.lookup import ConfigError, nearest
from transforms.sources.source import (
    GivenFeature,
    given_features,
    traced_once,
    unconverted,
)

if TYPE_CHECKING:
    import tensorflow as tf

FIRST_RECORDS = 10
RECORD = "record"


@dataclass(frozen=True)
class Examples:
    """What readers of messages have in common: how an example is stored in a message.

    The feature `record` is the message itself, for models that parse it, unless a
    stored feature has this name.

    Attributes:
      path: path, directory or glob, one or a list; on any filesystem.
      features: name to dtype, or to `{dtype, shape}`, -1 for a length that differs
        between rows. If absent, the types are taken from the first record.
      sequence_features: for tf.SequenceExample messages the features of their lists,
        with the shape of one entry. If absent, taken from the first record.
    """

    path: str | list[str]
    features: dict[str, GivenFeature | str] | None = None
    sequence_features: dict[str, GivenFeature | str] | None = None

    default_key: ClassVar[str | None] = None

    def describe(self) -> Mapping[str, Feature]:
        """Give the features that the config names, else those of the first record.

        Raises:
          ConfigError: they do not fit the first records, or none can be read.
        """
        if self._types_are_given:
            context, sequences = self._given()
        else:
            context, sequences = self._inferred()
        message = {RECORD: Feature("bytes")} if self._record_is_message else {}
        return context | sequences | message

    def _given(self) -> tuple[dict[str, Feature], dict[str, Feature]]:
        context = given_features(self.features or {})
        sequences = given_features(
            self.sequence_features or {}, "source.sequence_features"
        )
        for name, feature in {**context, **sequences}.items():
            if feature.dtype == "timestamp" or None in feature.shape[1:]:
                option = "features" if name in context else "sequence_features"
                raise ConfigError(
                    f"source.{option}.{name} must be text, bytes or numbers, whose"
                    " length may differ between rows in the first axis only, got"
                    f" {feature.dtype} {list(feature.shape)}"
                )
        self._explain_missing(context, "features", 0)
        if sequences:
            self._explain_missing(sequences, "sequence_features", 1)
        return context, {
            name: replace(feature, shape=(None, *feature.shape))
            for name, feature in sequences.items()
        }

    def _explain_missing(
        self, given: Mapping[str, Feature], option: str, part: int
    ) -> None:
        """Refuse features that none of the first records has."""
        try:
            found = [parts_of(record)[part] for record in self._head]
        except Exception:  # a bad record, or none: reading them says what is wrong
            return
        names = {name for one in found for name in one}
        for name in given if found else ():
            if name not in names | {RECORD}:
                raise ConfigError(
                    f"source.{option} must name features of the records, got {name!r}"
                    f"{nearest(name, names)} (the first {len(found)} hold"
                    f" {', '.join(sorted(names)) or 'none'})"
                )

    def _inferred(self) -> tuple[dict[str, Feature], dict[str, Feature]]:
        try:
            record = next(iter(self._head), None)
            parts = parts_of(record) if record is not None else None
        except Exception as error:
            raise ConfigError(
                "source.path must hold files of tf.Example messages, cannot read the"
                f" first record of {self.path!r}: {error}; check source.compression, or"
                " give source.features ({} if records are to be read as they are, as"
                " feature record)"
            ) from error
        if parts is None:
            raise ConfigError(
                f"source.path must hold at least one record, got only empty files in"
                f" {self.path!r}"
            )
        context, lists = parts
        features = {name: _feature(name, [context[name]]) for name in sorted(context)}
        sequences = {
            name: _feature(name, lists[name].feature) for name in sorted(lists)
        }
        return features, {
            name: replace(feature, shape=(None, *feature.shape))
            for name, feature in sequences.items()
        }

    @cached_property
    def _head(self) -> list[bytes]:
        return self._first_records()

    def _first_records(self) -> list[bytes]:
        """Give the first few records of the first file that has any."""
        raise NotImplementedError

    def _parsed(
        self,
        records: tf.data.Dataset,
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Parse a dataset of `(position, record)` into examples, or batches of them."""
        import tensorflow as tf

        whole = {RECORD} if self._record_is_message else set()
        stored = {n: one for n, one in features.items() if n not in whole}
        lists = {name for name in stored if name in self._sequence_names}

        def read(records: Any, parse: Callable[[Any], Any]) -> Any:
            def example(at: Any, record: Any) -> Any:
                found = _cast(parse(record), stored) if stored else {}
                return at, found | dict.fromkeys(whole & features.keys(), record)

            return records.map(unconverted(example))

        def build(records: Any) -> Any:
            if lists:
                examples = read(records, _sequence_parser(stored, lists))
                return examples if batch_rows is None else examples.batch(batch_rows)
            specs = {name: _spec(feature) for name, feature in stored.items()}
            if batch_rows is None:
                return read(records, lambda one: tf.io.parse_single_example(one, specs))
            batches = records.batch(batch_rows)
            return read(batches, lambda many: tf.io.parse_example(many, specs))

        key = (*features.items(), batch_rows)
        return traced_once(self, key, build)(records)

    @cached_property
    def _record_is_message(self) -> bool:
        """Whether feature `record` is the message, as none in it has this name."""
        given = {*(self.features or ()), *(self.sequence_features or ())}
        if self._types_are_given and RECORD not in given:
            return True
        try:
            found = [parts for record in self._head for parts in parts_of(record)]
        except Exception:  # a bad record: reading it says what is wrong
            return True
        return not any(RECORD in part for part in found)

    @cached_property
    def _sequence_names(self) -> set[str]:
        if self._types_are_given:
            return set(self.sequence_features or ())
        return set(self._inferred()[1])

    @property
    def _types_are_given(self) -> bool:
        return self.features is not None or self.sequence_features is not None


def _spec(feature: Feature) -> Any:
    """Say how a feature is stored in a tf.Example, in the terms of `tf.io`."""
    import tensorflow as tf

    kind = _stored_dtype(feature)
    if feature.fill is not None and None not in feature.shape:
        return tf.io.RaggedFeature(kind)
    if None in feature.shape:
        inner = feature.shape[1:]
        return tf.io.FixedLenSequenceFeature(inner, kind, allow_missing=True)
    return tf.io.FixedLenFeature(feature.shape, kind)


def _cast(parsed: Mapping[str, Any], features: Mapping[str, Feature]) -> dict[str, Any]:
    """Cast parsed values to the features' types; messages have only three types."""
    made = {}
    for name, value in parsed.items():
        feature = features[name]
        if feature.fill is not None and None not in feature.shape:
            value = _filled(value, name, feature)
        if value.dtype != feature.tensor_dtype:
            value = cast(value, feature.tensor_dtype, f"feature {name!r}")
        made[name] = value
    return made


def _filled(values: Any, name: str, feature: Feature) -> Any:
    """Give what records hold, or where one holds nothing the feature's fill.

    Args:
      values: of one record `[n]`, or of a batch of them, ragged `[batch, n]`.
      name: of the feature.
      feature: with a fixed shape and a fill.
    """
    import tensorflow as tf

    is_batch = isinstance(values, tf.RaggedTensor)
    if not is_batch:
        values = tf.RaggedTensor.from_tensor(values[None])
    size = math.prod(n for n in feature.shape if n is not None)
    counts = values.row_lengths()
    fits = tf.debugging.Assert(
        tf.reduce_all((counts == size) | (counts == 0)),
        [f"feature {name!r} must hold {size} values or none, got", counts],
    )
    with tf.control_dependencies([fits]):
        fill = tf.constant(feature.nothing, values.dtype)
        found = values.to_tensor(fill, shape=[None, size])
    shaped = tf.reshape(found, [-1, *feature.shape])
    return shaped if is_batch else shaped[0]


def _sequence_parser(
    features: Mapping[str, Feature], lists: Collection[str]
) -> Callable[[Any], dict[str, Any]]:
    """Make a function from a tf.SequenceExample to features, some of them lists."""
    import tensorflow as tf

    context = {n: _spec(one) for n, one in features.items() if n not in lists}
    sequences = {
        name: tf.io.FixedLenSequenceFeature(
            features[name].shape[1:], _stored_dtype(features[name])
        )
        for name in lists
    }

    def parse(record: Any) -> dict[str, Any]:
        found = tf.io.parse_single_sequence_example(record, context, sequences)
        return {**found[0], **found[1]}

    return parse


def parts_of(record: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Split a message into its features and its lists of features, each by name.

    Raises:
      google.protobuf.message.DecodeError: the record is no such message.
    """
    import tensorflow as tf

    # In serialized form a tf.Example is a tf.SequenceExample without lists.
    message = tf.train.SequenceExample.FromString(record)
    return message.context.feature, message.feature_lists.feature_list


def _feature(name: str, values: Sequence[Any]) -> Feature:
    """Tell the type of a feature from its values in a message."""
    kinds = {value.WhichOneof("kind") for value in values} - {None}
    if len(kinds) != 1:
        raise ConfigError(
            f"source.features must be given, since feature {name!r} of the first record"
            f" holds no value that its type could be told from"
        )
    (kind,) = kinds
    lists = [getattr(value, kind).value for value in values]
    dtype = {"int64_list": "int64", "float_list": "float32"}.get(kind)
    if dtype is None:
        texts = all(_is_text(item) for one in lists for item in one)
        dtype = "string" if texts else "bytes"
    return Feature(dtype, () if len(lists[0]) == 1 else (len(lists[0]),))


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\n\r" for c in text)


def _stored_dtype(feature: Feature) -> str:
    """Name the one of three types in which messages store a feature's values."""
    if feature.tensor_dtype == "string":
        return "string"
    return "float32" if feature.family == "float" else "int64"
