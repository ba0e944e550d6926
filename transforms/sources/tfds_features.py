"""Address the features of a TFDS dataset by name, also those inside of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transforms.casts import fitting


def leaves(
    connector: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the features that hold no others, with the keys that lead there.

    A key may hold a slash itself: COCO has `image` and `image/filename`.
    """
    import tensorflow_datasets as tfds

    inner = connector if is_dataset(connector) else element(connector)
    if isinstance(inner, tfds.features.FeaturesDict):
        for key in inner:
            yield from leaves(inner[key], (*path, key))
    else:
        yield path, connector


def element(connector: Any) -> Any:
    """Give what a sequence, or a sequence of sequences, holds."""
    import tensorflow_datasets as tfds

    while isinstance(connector, tfds.features.Sequence):
        connector = connector.feature
    return connector


def is_dataset(connector: Any) -> bool:
    """Tell whether a feature is a dataset inside of a dataset."""
    import tensorflow_datasets as tfds

    return isinstance(connector, tfds.features.Dataset)


def is_one_tensor(spec: Any) -> bool:
    """Tell whether a feature has one open length at most, and a known rank."""
    import tensorflow as tf

    ragged = isinstance(spec, tf.RaggedTensor | tf.RaggedTensorSpec)
    return not ragged and spec.shape.rank is not None


def tree(features: Any, paths: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Say which features to decode, as `PartialDecoding` takes it.

    It chooses within plain dictionaries and sequences of them; of others, such as
    translations, all is decoded.
    """
    made: dict[str, Any] = {}
    for path in paths:
        below, connector = made, features
        for depth, key in enumerate(path):
            connector = connector[key]
            if depth == len(path) - 1 or not _can_be_chosen_from(connector):
                below[key] = True
                break
            below = below.setdefault(key, {})
    return made


def at(found: Any, path: Sequence[str]) -> Any:
    """Follow keys into what was decoded."""
    for key in path:
        found = found[key]
    return found


def checked(record: Any, features: Any) -> Any:
    """See that the numbers in a message fit into their types.

    Messages have numbers of 64 bits only, which TFDS casts without looking at them.
    """
    import tensorflow as tf
    from tensorflow_datasets.core.example_parser import ExampleParser

    wanted = dict(_flat(features.get_serialized_info()))
    stored = ExampleParser(wanted).flat_feature_specs
    cut = [n for n in wanted if n in stored and stored[n].dtype != wanted[n].tf_dtype]
    if not cut:
        return record
    found = tf.io.parse_single_example(record, {name: stored[name] for name in cut})
    fits = [fitting(found[n], wanted[n].tf_dtype.name, f"feature {n!r}") for n in cut]
    with tf.control_dependencies(fits):
        return tf.identity(record)


def _can_be_chosen_from(connector: Any) -> bool:
    """Tell whether `PartialDecoding` can take a part of a feature."""
    import tensorflow_datasets as tfds

    if type(connector) is tfds.features.Sequence:
        connector = element(connector)
    return type(connector) is tfds.features.FeaturesDict


def _flat(found: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{name}/")
        else:
            yield f"{head}{name}", value
