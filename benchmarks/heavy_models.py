"""Models that take long for a row, from Keras's own layers, with random weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

VOCABULARY = 30_522


def resnet_50(size: int = 224) -> keras.Model:
    """ResNet50: image [size, size, 3] -> classes [1000]."""
    image = keras.Input((size, size, 3), name="image")
    model = keras.applications.ResNet50(weights=None, input_tensor=image)
    return keras.Model(image, model.output, name="resnet_50")


def vit(size: int = 224, blocks: int = 12, width: int = 384) -> keras.Model:
    """A vision transformer, ViT-S/16: image [size, size, 3] -> classes [1000]."""
    image = keras.Input((size, size, 3), name="image")
    x = layers.Conv2D(width, 16, strides=16, name="patches")(image)
    x = layers.Reshape((-1, width), name="tokens")(x)
    x = _encoder(x, blocks, width)
    return keras.Model(image, layers.Dense(1000, name="head")(x), name="vit")


def bert(tokens: int = 128, blocks: int = 4, width: int = 256) -> keras.Model:
    """A text encoder, BERT-Mini: ids [tokens] -> embedding [width]."""
    ids = keras.Input((tokens,), dtype="int32", name="ids")
    x = layers.Embedding(VOCABULARY, width, name="words")(ids)
    return keras.Model(ids, _encoder(x, blocks, width), name="bert")


def _encoder(x: Any, blocks: int, width: int) -> Any:
    """Blocks of attention and two dense layers, and the mean over tokens."""
    heads = width // 64
    for index in range(blocks):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(heads, 64, name=f"attend_{index}")(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = layers.Add(name=f"block_{index}")([x, layers.Dense(width)(y)])
    return layers.GlobalAveragePooling1D(name="pooled")(layers.LayerNormalization()(x))
