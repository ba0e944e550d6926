"""What it costs to reach an activation."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from keras import layers

from transforms.models.inputs import Input
from transforms.models.keras_layers import LayerForm
from transforms.models.model import Model
from transforms.taps.survey import list_activations


def flops(model: keras.Model, shape: tuple[int, ...]) -> dict[str, int | None]:
    wired = Input(model.inputs[0].name, "x", shape, "float32", "float32")
    listed = list_activations(Model(LayerForm(model), (wired,), None))
    return {a.address: a.flops for a in listed}


def test_products_are_counted_from_their_shapes() -> None:
    image = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, use_bias=False, name="conv")(image)
    depth = layers.DepthwiseConv2D(3, use_bias=False, name="depth")(conv)
    flat = layers.Flatten(name="flat")(depth)
    dense = layers.Dense(10, use_bias=False, name="dense")(flat)
    found = flops(keras.Model(image, dense), (8, 8, 3))
    conv_flops = 6 * 6 * 4 * 2 * 9 * 3
    depth_flops = 4 * 4 * 4 * 2 * 9
    assert found["conv"] == conv_flops
    assert found["depth"] == found["flat"] == conv_flops + depth_flops
    assert found["dense"] == conv_flops + depth_flops + 64 * 10 * 2


def test_what_several_paths_share_is_counted_once() -> None:
    x = keras.Input((6,))
    shared = layers.Dense(6, use_bias=False, name="shared")(x)
    left = layers.Dense(6, use_bias=False, name="left")(shared)
    total = layers.Add(name="sum")([left, shared])
    found = flops(keras.Model(x, total), (6,))
    assert found["sum"] == 72 + 72 + 6


def test_loops_are_counted_for_each_round() -> None:
    def found(steps: int) -> int:
        x = keras.Input((steps, 3))
        state = layers.LSTM(4, name="lstm")(x)
        return flops(keras.Model(x, state), (steps, 3))["lstm"] or 0

    one_step = 2 * (3 * 16 + 4 * 16)
    assert found(8) - found(4) == pytest.approx(4 * one_step, rel=0.6)
    assert found(8) - found(4) >= 4 * one_step


def test_an_einsum_multiplies_all_its_axes() -> None:
    class Einsum(layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return tf.einsum("bij,jk->bik", inputs, tf.ones([5, 7]))

    x = keras.Input((4, 5))
    model = keras.Model(x, Einsum(name="product")(x))
    assert flops(model, (4, 5))["product"] == 2 * 4 * 5 * 7


def test_shares_tell_how_much_of_the_model_is_needed() -> None:
    x = keras.Input((6,))
    first = layers.Dense(6, use_bias=False, name="first")(x)
    second = layers.Dense(6, use_bias=False, name="second")(first)
    wired = Input("x", "x", (6,), "float32", "float32")
    model = keras.Model(x, layers.Dense(12, use_bias=False, name="last")(second))
    listed = list_activations(Model(LayerForm(model), (wired,), None))
    assert [a.flops_share for a in listed] == [0.25, 0.5, 1.0, 1.0]
