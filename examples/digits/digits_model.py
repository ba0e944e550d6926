"""A small CNN whose custom layer returns a dict of intermediates; train and save it."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
import tensorflow_datasets as tfds


@keras.saving.register_keras_serializable("digits")
class Features(keras.layers.Layer):
    """Two dense layers that give away what they compute on the way."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(128, activation="relu", name="hidden")
        self.embedding = keras.layers.Dense(32, name="embedding")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.hidden.build(input_shape)
        self.embedding.build((*input_shape[:-1], self.hidden.units))
        super().build(input_shape)

    def call(self, inputs: Any) -> dict[str, Any]:
        hidden = self.hidden(inputs)
        embedding = self.embedding(hidden)
        return {
            "output": keras.ops.relu(embedding),
            "activation_1": hidden,
            "activation_2": embedding,
        }


def make_model() -> keras.Model:
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(32, 3, activation="relu", padding="same", name="conv_1")(
        image
    )
    x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.Conv2D(64, 3, activation="relu", padding="same", name="conv_2")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    features = Features(name="features")(x)
    digit = keras.layers.Dense(10, activation="softmax", name="digit")(
        features["output"]
    )
    return keras.Model(image, digit, name="digits")


def train() -> keras.Model:
    """Train on the first half, scaled as the config's preprocessing scales images."""
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    model = make_model()
    half = "train[:50%]"
    examples = tfds.load("digits", data_dir="data", split=half, as_supervised=True)
    batches = examples.map(
        lambda image, label: (tf.cast(image, tf.float32) / 255, label)
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    shuffled = batches.cache().shuffle(2048, seed=1).batch(32)
    model.fit(shuffled, epochs=40, verbose=2, shuffle=False)
    return model


if __name__ == "__main__":
    train().save("digits.keras")
    print("saved digits.keras")
