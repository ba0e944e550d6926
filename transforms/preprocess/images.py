"""Preprocess one image at a time: decode, resize, crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from transforms import casts
from transforms.preprocess.orientation import read_turn, upright

Size = tuple[PositiveInt, PositiveInt]
"""Height and width in pixels."""

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
_SHRINKING = (1, 2, 4, 8)
"""By how much libjpeg can divide the sides of an image while it decodes it."""


def decode_image(
    image: Any,
    *,
    channels: int = 0,
    dtype: Literal["uint8", "uint16"] = "uint8",
    orient: bool = False,
    shrink_to: Size | None = None,
    max_pixels: int = 1 << 28,
) -> Any:
    """Decode JPEG, PNG, GIF (first frame), BMP or WebP to `[h, w, c]`.

    Args:
      image: one encoded image, string `[]`.
      channels: 1 for grey, 3 for RGB, 4 for RGBA. 0 keeps the channels of the file,
        which may differ between files and so seldom fit a model. Grey is computed from
        colors as `tf.image.rgb_to_grayscale` does it.
      dtype: `uint16` keeps all of PNG images of 16 bits, of which `uint8` keeps the
        upper 8; values of 8 bits become 257 times as much, so that white is 65535.
      orient: whether to turn the image upright, or mirror it, as the EXIF data of a
        JPEG, PNG or WebP file say. Phones store photos as the sensor saw them; browsers
        and viewers turn them, Keras, TensorFlow and PIL's `Image.open` do not.
      shrink_to: height and width, upright with `orient`, that are enough. A JPEG is
        decoded at a half, a quarter or an eighth of its size (a side rounded up) if
        both of its sides stay at least as long; a step `resize` makes the rest of the
        way. That is much less work, and other formats are decoded whole.
      max_pixels: an image whose header claims more pixels makes its row a bad row and
        is not decoded, since a few bytes can claim to be gigabytes.
    """
    import tensorflow as tf

    turn = read_turn(image) if orient else None

    def checked(size: Sequence[Any]) -> Any:
        height, width = size
        what = ["image has more pixels than max_pixels", height, width, max_pixels]
        small = tf.raw_ops.Assert(condition=height * width <= max_pixels, data=what)
        with tf.control_dependencies([small]):
            return tf.identity(image)

    def jpeg() -> Any:
        *size, stored = _jpeg_shape(image)
        decode = partial(_decode_jpeg, checked(size), stored, channels)
        if shrink_to is None:
            return _with_dtype(decode(1), dtype)
        return _with_dtype(_shrunk(decode, size, shrink_to, turn), dtype)

    def other() -> Any:
        data = checked(_other_size(image))

        def neither() -> Any:
            decoded = tf.io.decode_image(data, expand_animations=False)
            return _with_dtype(_with_channels(decoded, channels), dtype)

        return tf.cond(
            _starts(image, b"\x89PNG"),
            lambda: tf.io.decode_png(data, channels, tf.as_dtype(dtype)),
            neither,
        )

    decoded = tf.cond(_starts(image, _JPEG), jpeg, other)
    if turn is not None:
        decoded = upright(decoded, turn)
    decoded.set_shape([None, None, channels or None])
    return decoded


def _jpeg_shape(image: Any) -> tuple[Any, Any, Any]:
    """Read height, width and stored channels out of the header of a JPEG image."""
    import tensorflow as tf

    shape = tf.image.extract_jpeg_shape(image, tf.int32)
    height, width, stored = tf.unstack(tf.cast(shape, tf.int64))
    return height, width, stored


def _shrunk(
    decode: Callable[[int], Any],
    size: Sequence[Any],
    least: tuple[int, int],
    turn: tuple[Any, Any] | None,
) -> Any:
    """Divide the sides of a JPEG by as much as leaves them at least as long as `least`.

    Args:
      decode: decodes the image, its sides divided by what is given.
      size: the whole image's height and width as stored, int64 `[]` each.
      least: height and width.
      turn: what turns the image upright; None if it is taken as stored.
    """
    import tensorflow as tf

    whole = tf.stack(size)
    if turn is not None:
        whole = tf.gather(whole, turn[0][:2])
    divisors = tf.constant(_SHRINKING[1:], tf.int64)[:, None]
    enough = tf.reduce_all(-(-whole // divisors) >= least, 1)
    chosen = tf.math.count_nonzero(enough, dtype=tf.int32)
    return tf.switch_case(chosen, [partial(decode, by) for by in _SHRINKING])


def _decode_jpeg(data: Any, stored: Any, channels: int, divisor: int) -> Any:
    import tensorflow as tf

    def as_channels(channels: int) -> Any:
        return tf.io.decode_jpeg(data, channels, ratio=divisor)

    def by_way_of_colors() -> Any:
        return _with_channels(as_channels(3), channels)

    if channels == 4:
        return by_way_of_colors()
    if channels == 1:  # libjpeg makes no grey of the four channels of printers
        return tf.cond(stored == 4, by_way_of_colors, lambda: as_channels(1))
    return as_channels(channels)


def _other_size(image: Any) -> tuple[Any, Any]:
    """Read height and width of an image that is no JPEG, in a Python function.

    Written as operations of the graph it would slow JPEG images down by more than
    their own header costs: TensorFlow skips the operations of an unused branch one by
    one.
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

    The bytes are where the formats' specifications put them; WebP has three kinds of
    header. Data in any other format get the size 0, 0: decoding them then fails with
    the reason.
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


def has_16_bits(data: bytes) -> bool:
    """Tell whether an image is a PNG of 16 bits a channel, by its header."""
    return data[:4] == b"\x89PNG" and data[24:25] == b"\x10"


def resize(
    image: Any,
    *,
    size: Size,
    method: ResizeMethod = "bilinear",
    antialias: bool = False,
    fit: Literal["stretch", "crop", "pad"] = "stretch",
) -> Any:
    """Resize `[h, w, c]` to float32 `[*size, c]`.

    Args:
      image: one image.
      size: height and width of the result in pixels.
      method: interpolation, as `tf.image.resize` names it.
      antialias: whether to smooth an image that becomes smaller. PyTorch and PIL do so,
        TensorFlow and Keras do not by default.
      fit: what happens to an image of another aspect ratio. `stretch` distorts it;
        `crop` cuts its longer side, the same amount at both ends; `pad` adds zeros at
        both ends of its shorter side. `crop` and `pad` do as `keras.layers.Resizing`.
    """
    import tensorflow as tf

    if fit != "stretch":
        whole = tf.shape(image)[:2]
        # The length of each side that fits the other one, rounded as Keras does it.
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
    return casts.cast(resized, "float32", "what step resize takes")


def center_crop(image: Any, *, size: Size) -> Any:
    """Cut `[*size, c]` out of the middle of an image `[h, w, c]`.

    An image that is smaller than `size` makes its row a bad row.

    Args:
      image: one image.
      size: height and width of the result in pixels.
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


def _with_dtype(image: Any, dtype: str) -> Any:
    """Spread uint8 over the range of `dtype`."""
    import tensorflow as tf

    return image if dtype == "uint8" else tf.cast(image, tf.uint16) * 257


def _with_channels(image: Any, channels: int) -> Any:
    """Convert `[h, w, c]` between grey, RGB and RGBA.

    An alpha channel that is not wanted is cut off; one that is missing is opaque.
    """
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
