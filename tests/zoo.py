"""Well-known models, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import architectures
import keras
import numpy as np
from keras import layers

PIXELS = (32, 32, 3)
TOKENS = (8,)
CLASSES = 10


@dataclass(frozen=True)
class Member:
    """A model and what goes into it.

    Attributes:
      build: makes it.
      inputs: `{input: (shape, low, high)}`; whole numbers if `low` is one.
      heavy: takes long, or needs packages of its own.
    """

    build: Callable[[], Any]
    inputs: dict[str, tuple[tuple[int, ...], float, float]]
    heavy: bool = True

    def examples(self, rows: int) -> dict[str, np.ndarray]:
        """Random values `[rows, *shape]` for each input."""
        random = np.random.default_rng(0)
        return {
            name: random.integers(low, high, (rows, *shape)).astype(np.int32)
            if isinstance(low, int)
            else random.uniform(low, high, (rows, *shape)).astype(np.float32)
            for name, (shape, low, high) in self.inputs.items()
        }


def _image(family: str, size: int = 32, heavy: bool = True, **options: Any) -> Member:
    shape = (size, size, 3)

    def build() -> keras.Model:
        keras.utils.set_random_seed(1)
        image = keras.Input(shape, name="image")
        make = getattr(keras.applications, family)
        return make(input_tensor=image, weights=None, classes=CLASSES, **options)

    return Member(build, {"image": (shape, 0.0, 1.0)}, heavy)


def _vit() -> Any:
    import keras_hub

    keras.utils.set_random_seed(1)
    return keras_hub.models.ViTBackbone(
        image_shape=PIXELS,
        patch_size=8,
        num_layers=3,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
    )


def _transformer(name: str) -> Callable[[], Any]:
    def build() -> Any:
        import keras_hub

        keras.utils.set_random_seed(1)
        return getattr(keras_hub.models, name)(
            vocabulary_size=100,
            num_layers=3,
            num_heads=2,
            hidden_dim=32,
            intermediate_dim=64,
            max_sequence_length=TOKENS[0],
        )

    return build


def _encoder() -> Any:
    import keras_hub

    keras.utils.set_random_seed(1)
    tokens = keras.Input(TOKENS, dtype="int32", name="tokens")
    x = keras_hub.layers.TokenAndPositionEmbedding(100, TOKENS[0], 32)(tokens)
    for _ in range(2):
        x = keras_hub.layers.TransformerEncoder(64, 2)(x)
    return keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def _text(build: Callable[[], Any], *masks: str) -> Member:
    whole = {"token_ids": (TOKENS, 1, 100), "padding_mask": (TOKENS, 1, 2)}
    segments = dict.fromkeys(masks, (TOKENS, 0, 2))
    return Member(build, {**whole, **segments})


ZOO: dict[str, Member] = {
    "convnext_tiny": _image("ConvNeXtTiny"),
    "densenet_121": _image("DenseNet121"),
    "efficientnet_b0": _image("EfficientNetB0"),
    "efficientnet_v2_b0": _image("EfficientNetV2B0"),
    "inception_v3": _image("InceptionV3", 75),
    "mobilenet": _image("MobileNet"),
    "mobilenet_v2": _image("MobileNetV2", heavy=False, alpha=0.35),
    "mobilenet_v3": _image("MobileNetV3Small"),
    "nasnet_mobile": _image("NASNetMobile"),
    "resnet_50": _image("ResNet50"),
    "resnet_50_v2": _image("ResNet50V2"),
    "vgg_16": _image("VGG16"),
    "xception": _image("Xception", 71),
    "vit": Member(_vit, {"images": (PIXELS, 0.0, 1.0)}),
    "bert": _text(_transformer("BertBackbone"), "segment_ids"),
    "gpt2": _text(_transformer("GPT2Backbone")),
    "lstm": Member(architectures.lstm, {"vec": ((6,), 0.0, 1.0)}, heavy=False),
    "gru": Member(architectures.gru, {"vec": ((6,), 0.0, 1.0)}, heavy=False),
    "encoder": Member(_encoder, {"tokens": (TOKENS, 0, 100)}),
}


def __getattr__(name: str) -> Callable[[], Any]:
    """Builders by the names of the zoo, for `model.build`."""
    if name in ZOO:
        return ZOO[name].build
    raise AttributeError(name)
