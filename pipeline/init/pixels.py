"""Guess how images become what a model takes: decode, resize, scale."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from pipeline.init.questions import Questions
from transforms.dtypes import Feature
from transforms.models.inputs import Declared, Shape
from transforms.models.model import ModelForm
from transforms.preprocess.orientation import orientation

Steps = list[tuple[dict[str, Any], str]]
_SIZE = (224, 224)
_CHANNELS = (1, 3, 4)
_HEADS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
_ARITHMETIC = (
    *("Rescaling", "Normalization", "Lambda", "TFOpLambda"),
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide"),
)
_FAMILIES = {
    "densenet": r"densenet\d+|conv2_block1_concat",
    "resnet_v2": r"resnet\d+v2|conv2_block1_preact_bn",
    "resnet": r"resnet\d+|conv2_block1_1_conv",
    "vgg16": r"vgg1[69]|block3_conv2",
    "xception": r"xception|block2_sepconv1",
    "inception_resnet_v2": r"inception_resnet_v2|block35_1_conv",
    "inception_v3": r"inception_v3|mixed10",
    "mobilenet_v2": r"mobilenetv2_.*|expanded_conv_depthwise",
    "mobilenet": r"mobilenet_.*|conv_dw_1",
    "nasnet": r"nasnet.*|stem_bn1",
}
"""Modules of `keras.applications`, by names of their models or of layers in them. Other
modules have models that scale their input themselves."""


def is_image(values: Sequence[Any]) -> bool:
    """Whether most values of a feature of bytes are encoded images."""
    return 2 * sum(bytes(v).startswith(_HEADS) for v in values) > len(values)


def image_steps(
    name: str,
    feature: Feature,
    stored: Sequence[bytes],
    declared: Declared,
    form: ModelForm,
    questions: Questions,
) -> Steps:
    """Guess the steps from a feature of images to an input of a model.

    Args:
      name: of the feature: encoded images, or pixels `[h, w, c]`.
      feature: its type.
      stored: the first bytes of some encoded images, with their headers.
      declared: the input; if the model does not declare its shape, the images become
        224 by 224 RGB.
      form: the model, whose layers tell how pixels are to be scaled.
      questions: gets what was guessed.
    """
    height, width, channels, first = _layout(declared.shape)
    size = [height or _SIZE[0], width or _SIZE[1]]
    steps: Steps = []
    if not feature.shape:
        decode: dict[str, Any] = {
            "step": "decode_image",
            "feature": name,
            "channels": channels,
        }
        comment = "bytes to uint8 [height, width, channels]"
        if sideways := sum(orientation(image) != 1 for image in stored):
            decode["orient"] = True
            text = f"{sideways} of {len(stored)} images looked at are stored turned"
            comment = questions.guess(f"{text}: they are turned upright")
        if any(_is_large(image, size) for image in stored):
            comment += f"; shrink_to = {size} decodes large photos faster"
        steps.append((decode, comment))
    if feature.shape[:2] != tuple(size):
        comment = "distorts what has another aspect; see fit in docs/sources.md"
        if not (height and width):
            text = "the model takes any size, or does not say which"
            comment = questions.guess(text)
        steps.append(({"step": "resize", "feature": name, "size": size}, comment))
    if declared.dtype.startswith(("uint", "int")):
        cast = {"step": "cast", "feature": name, "dtype": declared.dtype}
        steps += [(cast, "as the model takes it")] if feature.dtype != "uint8" else []
    else:
        steps += scaled(name, form, questions)
    if first:
        turned = {"step": "transpose", "feature": name, "order": [2, 0, 1]}
        steps.append((turned, "channels first"))
    return steps


def scaled(name: str, form: ModelForm, questions: Questions) -> Steps:
    """Guess how pixels from 0 to 255 are to be scaled for a model."""
    names: list[str] = [getattr(form.model, "name", None) or ""]
    before_weights = True
    for one in _operations(form.model):
        if before_weights and type(one).__name__ in _ARITHMETIC:
            questions.guess(
                f"pixels are given from 0 to 255, since the model begins with"
                f" {type(one).__name__}, {one.name!r}"
            )
            return []
        whole = hasattr(one, "layers")
        before_weights &= whole or not getattr(one, "weights", None)
        names.append(one.name)
    step: dict[str, Any]
    for family, pattern in _FAMILIES.items():
        if any(re.fullmatch(pattern, one, re.IGNORECASE) for one in names):
            step = {"step": "keras_application", "feature": name, "name": family}
            text = f"scaled as for keras.applications.{family}, whose names layers have"
            return [(step, questions.guess(text))]
    step = {"step": "rescale", "feature": name, "scale": 1 / 255}
    text = "pixels from 0 to 1; write here what was done in training"
    return [(step, questions.guess(text))]


def _is_large(image: bytes, size: Sequence[int]) -> bool:
    """Whether an image is a JPEG at least twice as high and wide as a size."""
    import tensorflow as tf

    with suppress(tf.errors.InvalidArgumentError):
        found = tf.image.extract_jpeg_shape(image).numpy()[:2]
        return bool((found >= 2 * np.array(size)).all())
    return False


def _layout(shape: Shape | None) -> tuple[int | None, int | None, int, bool]:
    """Give height, width, channels, and whether those come first."""
    lengths = (None, None, 3) if shape is None else shape[1:]
    if lengths[2] not in _CHANNELS and lengths[0] in _CHANNELS:
        return lengths[1], lengths[2], lengths[0] or 3, True
    return lengths[0], lengths[1], lengths[2] or 3, False


def _operations(model: Any) -> Iterator[Any]:
    """Yield a Keras model's layers and operations, in the order of computing."""
    for one in getattr(model, "operations", None) or getattr(model, "layers", []):
        yield one
        yield from _operations(one)
