"""One small network in every form that featuretap takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

_RANDOM = np.random.RandomState(5)
WEIGHTS = [
    _RANDOM.standard_normal(shape).astype(np.float32) * 0.5
    for shape in ((6, 5), (5,), (5, 4), (4,), (4, 3), (3,))
]


def expected(vec: np.ndarray) -> list[np.ndarray]:
    """What the network computes at its three depths."""
    first, b1, second, b2, third, b3 = WEIGHTS
    one = np.maximum(vec @ first + b1, 0)
    two = np.tanh(one @ second + b2)
    return [one, two, two @ third + b3]


def functional() -> keras.Model:
    """As a functional model, with its weights."""
    model = functional_without_weights()
    model.set_weights(WEIGHTS)
    return model


def functional_without_weights() -> keras.Model:
    """As a functional model, freshly initialized."""
    vec = keras.Input((6,), name="vec")
    one = layers.Dense(5, activation="relu", name="one")(vec)
    two = layers.Dense(4, activation="tanh", name="two")(one)
    return keras.Model(vec, layers.Dense(3, name="three")(two), name="net")


def sequential() -> keras.Model:
    """As a Sequential."""
    model = keras.Sequential(
        [
            keras.Input((6,), name="vec"),
            layers.Dense(5, activation="relu", name="one"),
            layers.Dense(4, activation="tanh", name="two"),
            layers.Dense(3, name="three"),
        ]
    )
    model.set_weights(WEIGHTS)
    return model


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Declares no inputs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.one = layers.Dense(5, activation="relu", name="one")
        self.two = layers.Dense(4, activation="tanh", name="two")
        self.three = layers.Dense(3, name="three")

    def call(self, inputs: Any) -> Any:
        return self.three(self.two(self.one(inputs)))


def subclassed() -> keras.Model:
    """As a subclassed model, built and with its weights."""
    model = Subclassed()
    model(keras.KerasTensor((None, 6)))
    model.set_weights(WEIGHTS)
    return model


def keras2() -> Any:
    """As a model of Keras 2."""
    import tf_keras

    vec = tf_keras.Input((6,), name="vec")
    one = tf_keras.layers.Dense(5, activation="relu", name="one")(vec)
    two = tf_keras.layers.Dense(4, activation="tanh", name="two")(one)
    last = tf_keras.layers.Dense(3, name="three")(two)
    model = tf_keras.Model(vec, last, name="net")
    model.set_weights(WEIGHTS)
    return model


class Module(tf.Module):
    """As a tf.Module with several functions."""

    def __init__(self, weights: list[np.ndarray] = WEIGHTS) -> None:
        super().__init__()
        self.weights = [tf.Variable(weight) for weight in weights]

    @tf.function(input_signature=[tf.TensorSpec([None, 6], name="vec")])
    def __call__(self, vec: tf.Tensor) -> dict[str, tf.Tensor]:
        first, b1, second, b2, third, b3 = self.weights
        one = tf.nn.relu(vec @ first + b1, name="one")
        two = tf.tanh(one @ second + b2, name="two")
        return {"one": one, "two": two, "three": two @ third + b3}

    @tf.function(input_signature=[tf.TensorSpec([None, 6], name="vec")])
    def half(self, vec: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.name_scope("start"):
            one = tf.nn.relu(vec @ self.weights[0] + self.weights[1], name="one")
        return {"one": one}


def module() -> tf.Module:
    """As a tf.Module."""
    return Module()


def module_without_weights() -> tf.Module:
    """As a tf.Module of zeros."""
    return Module([np.zeros_like(weight) for weight in WEIGHTS])


def function() -> Callable[..., Any]:
    """As a plain function."""
    weights = [tf.constant(weight) for weight in WEIGHTS]

    def compute(vec: tf.Tensor, *, slope: float = 0.0) -> list[tf.Tensor]:
        first, b1, second, b2, third, b3 = weights
        one = tf.nn.leaky_relu(vec @ first + b1, slope)
        two = tf.tanh(one @ second + b2)
        return [one, two, two @ third + b3]

    return compute


@dataclass(frozen=True)
class Form:
    """How a user would give the network.

    Attributes:
      prepare: writes what `[model]` names into the working directory.
      model: the section.
      addresses: of the three depths.
    """

    prepare: Callable[[], Any]
    model: dict[str, Any]
    addresses: tuple[str, str, str] = ("one", "two", "three")


def _nothing() -> None:
    """For forms that are code alone."""


def _checkpoint(model: Any) -> None:
    tf.train.Checkpoint(model=model, step=tf.Variable(3)).write("ckpt")


def _signatures() -> None:
    model = Module()
    tf.saved_model.save(
        model, "module", signatures={"whole": model.__call__, "half": model.half}
    )


def _legacy_h5() -> None:
    keras2().save("keras2.h5")


_OUTPUTS = (":one", ":two", ":three")
FORMS: dict[str, Form] = {
    "`.keras`, functional": Form(
        lambda: functional().save("model.keras"), {"path": "model.keras"}
    ),
    "`.keras`, Sequential": Form(
        lambda: sequential().save("model.keras"), {"path": "model.keras"}
    ),
    "`.keras`, subclassed": Form(
        lambda: subclassed().save("model.keras"),
        {"path": "model.keras", "imports": ["forms"], "inputs": "vec"},
    ),
    "`.h5`, whole model": Form(
        lambda: functional().save("model.h5"), {"path": "model.h5"}
    ),
    "`build`": Form(_nothing, {"build": "forms:functional"}),
    "`build` + `.weights.h5`": Form(
        lambda: functional().save_weights("some.weights.h5"),
        {"build": "forms:functional_without_weights", "weights": "some.weights.h5"},
    ),
    "`build` + TensorFlow checkpoint": Form(
        lambda: _checkpoint(functional()),
        {"build": "forms:functional_without_weights", "weights": "ckpt"},
    ),
    "SavedModel, from Keras": Form(
        lambda: functional().export("exported", verbose=False),
        {"path": "exported"},
        ("net_1/one_1/Relu", "net_1/two_1/Tanh", ":output_0"),
    ),
    "SavedModel, from `tf.Module`": Form(
        _signatures,
        {"path": "module", "signature": "whole"},
        ("one", "two", ":three"),
    ),
    "`build`, `tf.Module`": Form(_nothing, {"build": "forms:module"}, _OUTPUTS),
    "`build`, `tf.Module` + TensorFlow checkpoint": Form(
        lambda: tf.train.Checkpoint(module()).write("ckpt"),
        {"build": "forms:module_without_weights", "weights": "ckpt"},
        _OUTPUTS,
    ),
    "`build`, function": Form(
        _nothing, {"build": "forms:function"}, (":0", ":1", ":2")
    ),
    "Keras 2, `.h5`": Form(_legacy_h5, {"path": "keras2.h5"}),
    "Keras 2, `.keras`": Form(
        lambda: keras2().save("keras2.keras"), {"path": "keras2.keras"}
    ),
    "Keras 2, SavedModel": Form(
        lambda: keras2().export("exported2"),
        {"path": "exported2"},
        ("net/one/Relu", "net/two/Tanh", ":output_0"),
    ),
    "Keras 2, `build`": Form(_nothing, {"build": "forms:keras2"}),
}
