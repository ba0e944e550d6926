"""Preprocess one image at a time: decode, resize, crop."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

ResizeMethod = Literal[
    "bilinear",
    "bicubic",
    "nearest",
    "area",
    "lanczos3",
    "lanczos5",
    "gaussian",
    "mitchellcubic",
]
_JPEG = b"\xff\xd8"


def decode_image(image: Any, *, channels: int = 0, max_pixels: int = 1 << 28) -> Any:
    """Decode JPEG, PNG, GIF (first frame), BMP or WebP to uint8 `[h, w, c]`.

    Args:
      image: one encoded image, string `[]`.
      channels: 1 grey, 3 RGB, 4 RGBA; 0 takes what the file has, which differs between
        files and so seldom fits a model. Grey is the luma that `tf.image` computes.
      max_pixels: an image that claims to have more makes its row a bad row before
        anything is decoded: a few bytes can claim to be gigabytes.
    """
    import tensorflow as tf

    def checked(size: tuple[Any, Any]) -> Any:
        height, width = size
        what = ["image has more pixels than max_pixels", height, width, max_pixels]
        small = tf.raw_ops.Assert(condition=height * width <= max_pixels, data=what)
        with tf.control_dependencies([small]):
            return tf.identity(image)

    def jpeg() -> Any:
        data = checked(_jpeg_size(image))
        if channels == 4:
            return _with_channels(tf.io.decode_jpeg(data, 3), 4)
        return tf.io.decode_jpeg(data, channels)

    def other() -> Any:
        data = checked(_other_size(image))
        return tf.cond(
            _starts(image, b"\x89PNG"),
            lambda: tf.io.decode_png(data, channels),
            lambda: _with_channels(
                tf.io.decode_image(data, expand_animations=False), channels
            ),
        )

    decoded = tf.cond(_starts(image, _JPEG), jpeg, other)
    decoded.set_shape([None, None, channels or None])
    return decoded


def _jpeg_size(image: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    shape = tf.image.extract_jpeg_shape(image, tf.int32)
    height, width, _ = tf.unstack(tf.cast(shape, tf.int64))
    return height, width


def _other_size(image: Any) -> tuple[Any, Any]:
    """Read the size in Python.

    As operations of a graph it would cost JPEG images more than their own: those of a
    branch not taken are passed over one by one.
    """
    import tensorflow as tf

    def size(data: Any) -> np.ndarray:  # bytes in a graph, an array outside of one
        data = data if isinstance(data, bytes) else data.item()
        return np.array(image_size(data), np.int64)

    height, width = tf.unstack(
        tf.ensure_shape(tf.numpy_function(size, [image], tf.int64), [2])
    )
    return height, width


def image_size(data: bytes) -> tuple[int, int]:
    """Read height and width out of the header of a PNG, GIF, BMP or WebP image.

    The places are those of the formats' specifications; WebP has three kinds of header.
    What is none of them has size 0, 0: decoding says what is wrong with it.
    """

    def number(
        start: int, size: int, order: Literal["little", "big"] = "little"
    ) -> int:
        return int.from_bytes(data[start : start + size], order)

    if data[:4] == b"\x89PNG":
        return number(20, 4, "big"), number(16, 4, "big")
    if data[:4] == b"GIF8":
        return number(8, 2), number(6, 2)
    if data[:2] == b"BM":  # rows count from the top where the height is negative
        return min(number(22, 4), 2**32 - number(22, 4)), number(18, 4)
    if data[:4] == b"RIFF" and data[12:16] == b"VP8 ":
        return number(28, 2) % 2**14, number(26, 2) % 2**14
    if data[:4] == b"RIFF" and data[12:16] == b"VP8L":
        return number(21, 4) // 2**14 % 2**14 + 1, number(21, 4) % 2**14 + 1
    if data[:4] == b"RIFF" and data[12:16] == b"VP8X":
        return number(27, 3) + 1, number(24, 3) + 1
    return 0, 0


def resize(
    image: Any,
    *,
    size: tuple[int, int],
    method: ResizeMethod = "bilinear",
    antialias: bool = False,
    fit: Literal["stretch", "crop", "pad"] = "stretch",
) -> Any:
    """Resize `[h, w, c]` to float32 `[*size, c]`.

    Args:
      image: one image.
      size: height and width in pixels.
      method: as `tf.image.resize` names it.
      antialias: whether to smooth where the image becomes smaller; PyTorch's and PIL's
        resizing does, TensorFlow's and Keras's does not.
      fit: what becomes of the aspect ratio. `stretch` does not keep it; `crop` keeps
        it and cuts off what is too much, the same on both sides; `pad` keeps it and
        fills up with zeros. As `keras.layers.Resizing` does both.
    """
    import tensorflow as tf

    if fit != "stretch":
        whole = tf.shape(image)[:2]
        # What each side would be if the other stayed, as Keras rounds it.
        product = tf.cast(whole[::-1] * tf.constant(size), tf.float32)
        turned = tf.cast(product / tf.cast(size[::-1], tf.float32), tf.int32)
        if fit == "crop":
            cut = tf.minimum(whole, turned)
            start = (whole - cut) // 2
            image = tf.slice(image, [*tf.unstack(start), 0], [*tf.unstack(cut), -1])
        else:
            margin = tf.maximum(turned - whole, 0) // 2
            margins = tf.stack([margin, margin], 1)
            image = tf.pad(image, tf.concat([margins, [[0, 0]]], 0))
    resized = tf.image.resize(image, size, method=method, antialias=antialias)
    return tf.cast(resized, tf.float32)


def center_crop(image: Any, *, size: tuple[int, int]) -> Any:
    """Cut the middle out of `[h, w, c]`: `[*size, c]`.

    An image that is smaller than that makes its row a bad row.

    Args:
      image: one image.
      size: height and width in pixels.
    """
    import tensorflow as tf

    start = (tf.shape(image)[:2] - tf.constant(size)) // 2
    fits = tf.debugging.Assert(
        tf.reduce_all(start >= 0),
        ["image is smaller than its crop", tf.shape(image)],
    )
    with tf.control_dependencies([fits]):
        return tf.slice(image, [start[0], start[1], 0], [*size, -1])


def _starts(text: Any, head: bytes) -> Any:
    import tensorflow as tf

    return tf.strings.substr(text, 0, len(head)) == head


def _with_channels(image: Any, channels: int) -> Any:
    """Convert `[h, w, c]` between grey, RGB and RGBA; alpha is cut off, or opaque."""
    import tensorflow as tf

    if not channels:
        return image
    colors = image[..., :3]
    if channels == 1:
        grey = tf.shape(image)[-1] < 3
        return tf.cond(
            grey, lambda: image[..., :1], lambda: tf.image.rgb_to_grayscale(colors)
        )
    few = tf.shape(image)[-1] < 3
    colors = tf.cond(few, lambda: tf.repeat(image[..., :1], 3, -1), lambda: colors)
    if channels == 3:
        return colors
    opaque = tf.fill(tf.shape(colors[..., :1]), tf.constant(255, tf.uint8))
    has_alpha = tf.shape(image)[-1] == 4
    return tf.concat(
        [colors, tf.cond(has_alpha, lambda: image[..., 3:4], lambda: opaque)], -1
    )
