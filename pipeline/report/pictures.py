"""Kept images -> small pictures that a page holds itself."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report.subject import Subject
from transforms.statistics.sample import HASH
from transforms.table.columns import Column
from transforms.table.statistics import SampleFiles, read_sample

if TYPE_CHECKING:
    from PIL import Image

MOST = 200
"""Pictures of a page."""
SIDE = 56
"""Pixels that a picture has at most, in either direction."""
_BYTES = 300_000  # of all pictures of a page, as they stand in it
_PIXELS = 100_000_000  # of an image that is decoded
_CHANNELS = (3, 4)  # colours, and how opaque they are
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_Opener = Callable[[Any], "str | None"]  # an Arrow scalar -> a small picture


def read_pictures(subject: Subject, hashes: np.ndarray) -> dict[int, str]:
    """Make small pictures of the images that sampled rows keep.

    The images of one shard are in memory at a time.

    Args:
      subject: the table.
      hashes: of the keys of its sampled rows, uint64, in order.

    Returns:
      `data:` URIs by index of the row, in order; nothing if no column holds images.
    """
    for column in subject.plan.columns:
        opener = _opener(column)
        if opener:
            found = dict(_pictures(subject, column.name, opener))
            if found:
                return _some(found, hashes)
    return {}


def _opener(column: Column) -> _Opener | None:
    """Give what makes small pictures of a column's values, if they may be images."""
    if column.role != "keep":
        return None
    if column.dtype == "bytes" and not column.shape:
        return lambda value: picture_of(value.as_py())
    shape = tuple(size for size in column.shape if size)
    if column.dtype != "uint8" or len(shape) != len(column.shape):
        return None
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS)):
        return None
    return lambda value: _small_of(value.values.to_numpy().reshape(shape))


def _pictures(
    subject: Subject, column: str, opener: _Opener
) -> Iterator[tuple[int, str]]:
    """Yield hashes of keys with pictures; nothing if the first value is no image."""
    seen = False
    for path in subject.sample.paths:
        files = SampleFiles([path])
        sample = read_sample(subject.table, subject.plan, files, [column])
        images = sample[column]
        for row in range(len(sample)):
            if not images[row].is_valid:
                continue
            picture = opener(images[row])
            if picture:
                yield sample[HASH][row].as_py(), picture
            elif not seen:
                return
            seen = True


def picture_of(data: bytes) -> str | None:
    """Make a small picture of an image file; None of anything else."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > _PIXELS:
                    return None
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                return _small(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _small_of(pixels: np.ndarray) -> str:
    """Make a small picture of uint8 `[height, width]`, or with 3 or 4 channels."""
    from PIL import Image

    return _small(Image.fromarray(pixels))


def _small(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _some(found: dict[int, str], hashes: np.ndarray) -> dict[int, str]:
    """Take as many pictures as a page may have, of the first rows of the sample."""
    taken: dict[int, str] = {}
    size = 0
    for row, hashed in enumerate(hashes.tolist()):
        picture = found.get(hashed)
        if picture:
            size += len(picture)
            if len(taken) == MOST or size > _BYTES:
                break
            taken[row] = picture
    return taken
