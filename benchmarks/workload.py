"""The benchmarks' own data and model: images in TFRecord or Parquet files, a CNN."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

SIDE = 28
TAPS = ("activation_1", "activation_2")


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


def submodel() -> keras.Model:
    """Build the part of the CNN that gives the two activations, a dict of `TAPS`."""
    model = make_model()
    outputs = model.get_layer("features").output
    if not isinstance(outputs, dict):  # Keras gives a dict or a list in key order
        by_width = {tensor.shape[-1]: tensor for tensor in outputs}
        outputs = dict(zip(TAPS, (by_width[128], by_width[64]), strict=True))
    return keras.Model(model.input, {tap: outputs[tap] for tap in TAPS})


def compile_taps() -> Callable[[Any], list[Any]]:
    """Compile scaled images [rows, 28, 28, 1] to the two activations, `TAPS`."""
    model = submodel()

    @tf.function(reduce_retracing=True)
    def function(image: Any) -> list[Any]:
        results = model(image, training=False)
        return [results[tap] for tap in TAPS]

    return function


def compile_pixels() -> Callable[[np.ndarray], list[np.ndarray]]:
    """Compile uint8 pixels, of any number of images, to the two activations.

    TensorFlow gets one thread, since each of several processes has a core for itself.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    taps = compile_taps()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.uint8)])
    def function(pixels: Any) -> list[Any]:
        image = tf.reshape(tf.cast(pixels, tf.float32), [-1, SIDE, SIDE, 1])
        return taps(image * (1 / 255))

    return lambda pixels: [column.numpy() for column in function(pixels)]


def config_text(source: str, model: str, table: str) -> str:
    """Write a config that scales the images and taps the two activations.

    Args:
      source: the other lines of `[source]`.
      model: of `[model]`.
      table: of `[table]`.
    """
    return f"""
[source]
{source}
key = "id"
preprocess = [
  {{ step = "decode_raw", feature = "image", dtype = "uint8", shape = [28, 28, 1] }},
  {{ step = "rescale", feature = "image", scale = {1 / 255} }},
]
[model]
{model}
imports = ["workload"]
[[taps]]
path = "features:activation_*"
column = "activation_{{1}}"
[table]
{table}
"""


def make_parquet(directory: Path, files: int, rows_per_file: int) -> list[str]:
    """Write Parquet files of `image` (binary, raw uint8), `id` and `label`, once."""

    def write(index: int, path: Path) -> None:
        pixels = np.random.default_rng(index).bytes(rows_per_file * SIDE * SIDE)
        offsets = np.arange(rows_per_file + 1, dtype=np.int32) * SIDE * SIDE
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(pixels)]
        ids = np.arange(index * rows_per_file, (index + 1) * rows_per_file)
        columns = {
            "id": pa.array(ids),
            "label": pa.array(ids % 10),
            "image": pa.Array.from_buffers(pa.binary(), rows_per_file, buffers),
        }
        pq.write_table(pa.table(columns), path, use_dictionary=["label"])

    names = (f"images-{rows_per_file}-{index:03d}.parquet" for index in range(files))
    return _made_once(directory, names, write)


def make_files(directory: Path, files: int, rows_per_file: int) -> list[str]:
    """Write TFRecord files of `image` (raw uint8), `id` and `label`, once."""
    generator = np.random.default_rng(0)

    def write(index: int, path: Path) -> None:
        pixels = generator.integers(0, 256, (rows_per_file, SIDE, SIDE, 1), np.uint8)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in range(rows_per_file):
                writer.write(_example(index * rows_per_file + row, pixels[row]))

    names = (f"images-{rows_per_file}-{index:03d}.tfrecord" for index in range(files))
    return _made_once(directory, names, write)


def _made_once(
    directory: Path, names: Iterable[str], write: Callable[[int, Path], None]
) -> list[str]:
    """Write the files that are not there yet, each by its number; give all paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / name for name in names]
    for index, path in enumerate(paths):
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            write(index, temporary)
            temporary.rename(path)
    return [str(path) for path in paths]


def _example(number: int, pixels: np.ndarray) -> bytes:
    def ints(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()]))
    features = {"id": ints(number), "label": ints(number % 10), "image": image}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()
