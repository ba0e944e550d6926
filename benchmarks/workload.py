"""The benchmarks' own data and model: images in TFRecord files, a small CNN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

SIDE = 28


@keras.saving.register_keras_serializable("benchmarks")
class Features(keras.layers.Layer):
    """Returns `{output [32], activation_1 [128], activation_2 [64]}`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(128, activation="relu", name="first")
        self.second = keras.layers.Dense(64, activation="relu", name="second")
        self.third = keras.layers.Dense(32, name="third")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.first.build(input_shape)
        self.second.build((None, 128))
        self.third.build((None, 64))
        super().build(input_shape)

    def call(self, inputs: Any) -> dict[str, Any]:
        first = self.first(inputs)
        second = self.second(first)
        return {
            "output": self.third(second),
            "activation_1": first,
            "activation_2": second,
        }


def make_model() -> keras.Model:
    """Build the CNN with fixed random weights."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 1), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_1")(image)
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="conv_2")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    features = Features(name="features")(x)
    return keras.Model(
        image, keras.layers.Dense(10, name="digit")(features["output"]), name="cnn"
    )


def make_files(directory: Path, files: int, rows_per_file: int) -> list[str]:
    """Write TFRecord files of `image` (raw uint8), `id` and `label`, once."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    paths = []
    for index in range(files):
        path = directory / f"images-{rows_per_file}-{index:03d}.tfrecord"
        paths.append(str(path))
        if path.exists():
            continue
        pixels = generator.integers(0, 256, (rows_per_file, SIDE, SIDE, 1), np.uint8)
        temporary = path.with_suffix(".tmp")
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for row in range(rows_per_file):
                writer.write(_example(index * rows_per_file + row, pixels[row]))
        temporary.rename(path)
    return paths


def _example(number: int, pixels: np.ndarray) -> bytes:
    def ints(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()]))
    features = {"id": ints(number), "label": ints(number % 10), "image": image}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()
