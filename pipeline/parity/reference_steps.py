"""Preprocess one example a second way, with numpy."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transforms.lookup import resolve

Example = dict[str, Any]


def run_step(
    name: str, batched: bool, options: dict[str, Any], given: Example
) -> Example:
    """Run one preprocessing step on one example.

    Args:
      name: name of the step, or `package.module:function`.
      batched: whether a user's function takes a batch.
      options: options of the step; changed here.
      given: features before the step.
    """
    import tensorflow as tf

    if ":" in name:
        tensors = {key: tf.constant(value) for key, value in given.items()}
        if batched:
            tensors = {key: value[None] for key, value in tensors.items()}
        made = dict(resolve(name, {}, "step")(tensors, **options))
        if batched:
            made = {key: value[0] for key, value in made.items()}
        return {key: np.asarray(value) for key, value in made.items()}
    feature = options.pop("feature")
    if name in ("pad", "stack"):
        return {**given, **STEPS[name](given, feature, **options)}
    return {**given, feature: STEPS[name](given[feature], **options)}


def _decode_image(
    data: Any,
    channels: int = 0,
    dtype: str = "uint8",
    orient: bool = False,
    shrink_to: Sequence[int] = (),
    max_pixels: int | None = None,
) -> np.ndarray:
    data = data if isinstance(data, bytes) else np.asarray(data).item()
    turn = _orientation(data) if orient else 1
    if data[:4] == b"\x89PNG":
        image = _decoded_png(data, channels, dtype)
    else:
        least = shrink_to if turn < 5 else shrink_to[::-1]
        image = _decoded(data, channels, least)
        if dtype == "uint16":
            image = np.uint16(257) * image
    return _TURNED[turn](image)


_TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.fliplr(np.rot90(image, -1)),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.fliplr(np.rot90(image)),
    8: np.rot90,
}


def _orientation(data: bytes) -> int:
    """Find the entry of the orientation in EXIF data, wherever these lie."""
    exif = re.search(
        rb"(?:Exif\0\0|eXIf|EXIF....)(II\*\0|MM\0\*)(.{4})", data, re.DOTALL
    )
    if not exif:
        return 1
    order = "<" if exif[1][:2] == b"II" else ">"
    start = exif.start(1) + struct.unpack(f"{order}I", exif[2])[0]
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = np.frombuffer(data, np.uint8, 12 * count, start + 2).reshape(-1, 12)
    for entry in entries.tolist():
        tag, kind = struct.unpack(f"{order}HH", bytes(entry[:4]))
        if tag == 0x0112:
            size = {3: "H", 4: "I"}[kind]
            (value,) = struct.unpack_from(f"{order}{size}", bytes(entry[8:]))
            return int(value) if value in _TURNED else 1
    return 1


def _decoded_png(data: bytes, channels: int, dtype: str) -> np.ndarray:
    import tensorflow as tf

    return np.asarray(tf.io.decode_image(data, channels, tf.as_dtype(dtype)))


def _decoded(data: bytes, channels: int, least: Sequence[int]) -> np.ndarray:
    import tensorflow as tf

    if data[:2] == b"\xff\xd8":
        *size, stored = tf.io.extract_jpeg_shape(data).numpy().tolist()
        ratio = _ratio(size, least) if least else 1
        if channels != 4 and not (stored == 4 and channels == 1):
            return np.asarray(tf.io.decode_jpeg(data, channels, ratio))
        image = np.asarray(tf.io.decode_jpeg(data, ratio=ratio))
    else:
        image = np.asarray(tf.io.decode_image(data, expand_animations=False))
    if channels in (3, 4) and image.shape[-1] < 3:
        image = np.repeat(image[..., :1], 3, -1)
    if channels == 1 and image.shape[-1] >= 3:
        return np.asarray(tf.image.rgb_to_grayscale(image[..., :3]))
    if channels == 4 and image.shape[-1] == 3:
        return np.pad(image, [[0, 0], [0, 0], [0, 1]], constant_values=255)
    return image[..., : channels or None]


def _ratio(size: Sequence[int], least: Sequence[int]) -> int:
    """Halve a size up to three times while no side becomes too short."""
    ratio = 1
    while ratio < 8 and all(
        math.ceil(n / (2 * ratio)) >= m for n, m in zip(size, least, strict=True)
    ):
        ratio *= 2
    return ratio


def _resize(
    image: Any,
    size: Sequence[int],
    method: str = "bilinear",
    antialias: bool = False,
    fit: str = "stretch",
) -> np.ndarray:
    import tensorflow as tf

    image = np.asarray(image)
    if fit != "stretch":
        image = _to_ratio(image, *size, crop=fit == "crop")
    resized = tf.image.resize(image[None], size, method=method, antialias=antialias)[0]
    return np.asarray(resized, np.float32)


def _to_ratio(image: np.ndarray, tall: int, wide: int, *, crop: bool) -> np.ndarray:
    """Crop or pad an image to the aspect ratio of `tall` to `wide`."""
    height, width = image.shape[:2]
    turned_height = int(np.float32(width * tall) / np.float32(wide))
    turned_width = int(np.float32(height * wide) / np.float32(tall))
    if crop:
        return _center_crop(
            image, [min(height, turned_height), min(width, turned_width)]
        )
    rows = max(turned_height - height, 0) // 2
    columns = max(turned_width - width, 0) // 2
    return np.pad(image, [[rows, rows], [columns, columns], [0, 0]])


def _center_crop(image: Any, size: Sequence[int]) -> np.ndarray:
    image = np.asarray(image)
    top, left = ((n - m) // 2 for n, m in zip(image.shape, size, strict=False))
    return np.asarray(image[top : top + size[0], left : left + size[1]])


def _standardize(value: Any, mean: Any = None, std: Any = None) -> np.ndarray:
    value = np.asarray(value, np.float32)
    if mean is None:
        least = np.float32(1 / np.sqrt(value.size))
        return np.asarray((value - value.mean()) / max(value.std(), least))
    return np.asarray((value - np.float32(mean)) / np.float32(std))


def _keras_application(value: Any, name: str) -> np.ndarray:
    import keras

    module = getattr(keras.applications, name)
    given = np.array(value, np.float32)  # a copy, since it may be changed in place
    made = module.preprocess_input(given[None], data_format="channels_last")[0]
    return np.asarray(made, np.float32)


def _text(function: Callable[[str], str]) -> Callable[[Any], Any]:
    def on_all(value: Any) -> Any:
        changed = [function(one.decode()).encode() for one in np.ravel(value)]
        return np.array(changed, object).reshape(np.shape(value))

    return on_all


def _pad(
    given: Example,
    feature: str,
    lengths: Sequence[int],
    value: Any = 0,
    truncate: str | None = None,
    at: str = "end",
    mask: str | None = None,
) -> Example:
    own = np.asarray(given[feature])
    if truncate:
        own = own[: max(lengths)] if truncate == "end" else own[-max(lengths) :]
    length = min(n for n in lengths if n >= len(own))
    is_text = own.dtype.kind in "OS"
    fill = (value or "").encode() if is_text else value
    filled = np.full([length, *own.shape[1:]], fill, object if is_text else own.dtype)
    place = slice(length - len(own), None) if at == "start" else slice(len(own))
    filled[place] = own
    made = {feature: filled}
    if mask:
        made[mask] = np.zeros(length, bool)
        made[mask][place] = True
    return made


def _stack(given: Example, feature: str, of: Sequence[str]) -> Example:
    return {feature: np.stack([np.float32(given[name]) for name in of], -1)}


def _decode_raw(data: Any, dtype: str, shape: Sequence[int]) -> np.ndarray:
    import tensorflow as tf

    kind = np.dtype(tf.as_dtype(dtype).as_numpy_dtype).newbyteorder("<")
    return np.frombuffer(data, kind).reshape(shape)


def _decode_npy(data: Any, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
    data = data if isinstance(data, bytes) else np.asarray(data).item()
    found = np.load(io.BytesIO(data), allow_pickle=False)
    return np.ascontiguousarray(found, dtype).reshape(found.shape)


def _cast(value: Any, dtype: str) -> np.ndarray:
    import tensorflow as tf

    value, kind = np.asarray(value), tf.as_dtype(dtype).as_numpy_dtype
    if value.dtype.kind == "f" and np.dtype(kind).kind in "iu":
        least, most = np.iinfo(kind).min, np.iinfo(kind).max
        whole = [min(max(round(float(one)), least), most) for one in value.ravel()]
        return np.array(whole, kind).reshape(value.shape)
    return np.asarray(value.astype(kind))


def _fill(given: Any, value: Any, nan: bool = False) -> np.ndarray:
    made = np.array(given)
    if nan and made.dtype.kind == "f":
        made[np.isnan(made)] = value
    return made


def _rescale(value: Any, scale: float, offset: float = 0.0) -> np.ndarray:
    return np.float32(offset) + np.float32(scale) * np.asarray(value, np.float32)


STEPS: dict[str, Callable[..., Any]] = {
    "cast": _cast,
    "center_crop": _center_crop,
    "decode_image": _decode_image,
    "decode_npy": _decode_npy,
    "decode_raw": _decode_raw,
    "fill": _fill,
    "keras_application": _keras_application,
    "lower": _text(str.lower),
    "one_hot": lambda value, depth: np.eye(depth, dtype=np.float32)[np.asarray(value)],
    "pad": _pad,
    "rescale": _rescale,
    "reshape": lambda value, shape: np.reshape(value, shape),
    "resize": _resize,
    "reverse_channels": lambda value: np.flip(value, -1),
    "stack": _stack,
    "standardize": _standardize,
    "strip": _text(str.strip),
    "transpose": lambda value, order: np.transpose(value, order),
}
