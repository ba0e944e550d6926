"""Layers of Keras's own are stock; those that run somebody else's code are not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers

from transforms.models.inputs import Input
from transforms.models.keras_layers import LayerForm
from transforms.models.model import Model
from transforms.models.stock import is_stock
from transforms.taps.survey import list_activations


def own(x: Any) -> Any:
    return x


class Own:
    """Holds a function, as a cell or an activation may be."""

    units = state_size = output_size = 2

    def __call__(self, x: Any, *_: Any) -> Any:
        return x

    def method(self, x: Any) -> Any:
        return x

    def call(self, x: Any, states: Any) -> Any:
        return x, states


STOCK: dict[str, Callable[[], Any]] = {
    "dense": lambda: layers.Dense(2, "relu"),
    "an activation of Keras": lambda: layers.Activation(keras.activations.gelu),
    "an activation of TensorFlow": lambda: layers.Activation(tf.nn.relu),
    "with arguments": lambda: layers.Dense(
        2, functools.partial(keras.activations.gelu, approximate=True)
    ),
    "a cell": lambda: layers.RNN(layers.LSTMCell(2)),
    "attention": lambda: layers.MultiHeadAttention(2, 4),
    "arrays": lambda: layers.Normalization(mean=np.ones(3), variance=np.ones(3)),
    "of Keras 2": lambda: tf_keras.layers.Dense(2, "tanh"),
    "a feature column": lambda: tf_keras.layers.DenseFeatures(
        [tf.feature_column.numeric_column("x")]
    ),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "a function": lambda: layers.Dense(2, own),
    "a function of no name": lambda: layers.Activation(lambda x: x),
    "a method": lambda: layers.Activation(Own().method),
    "an object": lambda: layers.Activation(Own()),
    "with arguments": lambda: layers.Activation(functools.partial(own)),
    "a cell": lambda: layers.RNN(Own()),
    "of Keras 2": lambda: tf_keras.layers.Dense(2, own),
    "a feature column": lambda: tf_keras.layers.DenseFeatures(
        [tf.feature_column.numeric_column("x", normalizer_fn=own)]
    ),
    "a layer of one's own": lambda: type("Mine", (layers.Dense,), {})(2),
    "a layer of functions": lambda: layers.Lambda(tf.nn.relu),
    "an operation": lambda: keras.ops.abs(keras.KerasTensor((None, 2)))._keras_history[
        0
    ],
}


@pytest.mark.parametrize("what", STOCK)
def test_what_keras_has_written_is_stock(what: str) -> None:
    assert is_stock(STOCK[what]())


@pytest.mark.parametrize("what", OTHERS)
def test_what_somebody_else_has_written_is_not(what: str) -> None:
    assert not is_stock(OTHERS[what]())


def activations_of(model: Any) -> dict[str, Any]:
    form = LayerForm(model)
    name = model.inputs[0].name
    wired = Input(name, name, tuple(model.inputs[0].shape[1:]), "float32", "float32")
    return {a.address: a for a in list_activations(Model(form, (wired,), None))}


@pytest.mark.parametrize("package", [keras, tf_keras])
def test_an_activation_that_looks_at_the_number_of_rows_proves_nothing(
    package: Any,
) -> None:
    def by_rows(x: Any) -> Any:
        return x / tf.cast(tf.shape(x)[0], tf.float32)

    x = package.Input((6,))
    made = package.layers.Dense(2, by_rows, name="head")(x)
    assert not activations_of(package.Model(x, made))["head"].alone


@pytest.mark.parametrize("package", [keras, tf_keras])
def test_a_mask_that_mixes_rows_is_in_the_proof(package: Any) -> None:
    """Reductions over steps use it."""
    x = package.Input((4, 6))
    steps = package.layers.Reshape((4,))(package.layers.Dense(1)(x))
    across = package.layers.Softmax(axis=0)(steps)
    mask = package.layers.ReLU(threshold=0.3)(across)
    made = package.layers.BatchNormalization(name="head")(x, mask=mask)
    found = activations_of(package.Model(x, made))
    assert found["head"].refusal is None
    assert not found["head"].alone
    plain = package.layers.BatchNormalization(name="head")(x)
    assert activations_of(package.Model(x, plain))["head"].alone
