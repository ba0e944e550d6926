"""Turn decoded images upright, as the EXIF data of their files say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_AS_STORED, _SWAPPED = (0, 1, 2), (1, 0, 2)
_TURNS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    1: (_AS_STORED, ()),
    2: (_AS_STORED, (1,)),
    3: (_AS_STORED, (0, 1)),
    4: (_AS_STORED, (0,)),
    5: (_SWAPPED, ()),
    6: (_SWAPPED, (1,)),
    7: (_SWAPPED, (0, 1)),
    8: (_SWAPPED, (0,)),
}
"""Of each orientation the order of the axes, and then the axes to reverse."""


def read_turn(encoded: Any) -> tuple[Any, Any]:
    """Read what turns a decoded image upright; nothing if its file says nothing.

    Args:
      encoded: the file, string `[]`.

    Returns:
      The order of the axes, int32 `[3]`, and then the axes to reverse, int32 `[n]`.
    """
    import tensorflow as tf

    def turn(data: Any) -> tuple[np.ndarray, ...]:  # an array outside of a graph
        data = data if isinstance(data, bytes) else data.item()
        order, axes = _TURNS[orientation(data)]
        return np.array(order, np.int32), np.array(axes, np.int32)

    order, axes = tf.numpy_function(turn, [encoded], (tf.int32, tf.int32))
    return tf.ensure_shape(order, [3]), tf.ensure_shape(axes, [None])


def upright(image: Any, turn: tuple[Any, Any]) -> Any:
    """Turn an image `[h, w, c]` as `read_turn` says."""
    import tensorflow as tf

    order, axes = turn
    image = tf.transpose(image, order)  # free if as stored
    return tf.cond(tf.size(axes) > 0, lambda: tf.reverse(image, axes), lambda: image)


def orientation(data: bytes) -> int:
    """Read the orientation, 1 to 8, out of the EXIF data of a JPEG, PNG or WebP file.

    1 is upright, and what files without EXIF data, or with damaged ones, are taken for.
    """
    for exif in _exif(data):
        if found := _of_tiff(exif.removeprefix(b"Exif\0\0")):
            return found
    return 1


def _exif(data: bytes) -> Iterator[bytes]:
    """Yield what a file holds as EXIF data."""
    if data[:2] == b"\xff\xd8":
        yield from _of_jpeg(data)
    elif data[:4] == b"\x89PNG":
        start = 8
        while start + 8 <= len(data):
            size = int.from_bytes(data[start : start + 4], "big")
            if data[start + 4 : start + 8] == b"eXIf":
                yield data[start + 8 : start + 8 + size]
            start += 12 + size
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        start = 12
        while start + 8 <= len(data):
            size = int.from_bytes(data[start + 4 : start + 8], "little")
            if data[start : start + 4] == b"EXIF":
                yield data[start + 8 : start + 8 + size]
            start += 8 + size + size % 2


def _of_jpeg(data: bytes) -> Iterator[bytes]:
    """Yield the EXIF segments that stand in front of a JPEG file's pixels."""
    start = 2
    while data[start : start + 1] == b"\xff":
        marker = data[start + 1 : start + 2]
        if marker in (b"\xda", b"\xd9", b""):  # pixels, the end of the image, nothing
            return
        if marker == b"\xff":  # fills up
            start += 1
            continue
        size = int.from_bytes(data[start + 2 : start + 4], "big")
        segment = data[start + 4 : start + 2 + size]
        if marker == b"\xe1" and segment.startswith(b"Exif\0\0"):
            yield segment
        start += 2 + size


def _of_tiff(data: bytes) -> int | None:
    """Read the orientation out of the first directory of a TIFF header."""
    orders: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
    order = orders.get(data[:2])
    if order is None:
        return None

    def number(start: int, size: int) -> int:
        return int.from_bytes(data[start : start + size], order)

    first = number(4, 4)
    for entry in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if number(entry, 2) == _ORIENTATION:
            sizes = {_SHORT: 2, _LONG: 4}
            value = number(entry + 8, sizes.get(number(entry + 2, 2), 0))
            return value if value in _TURNS else None
    return None
