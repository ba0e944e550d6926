"""Kept images -> small pictures that a page holds itself."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator

import numpy as np

from pipeline.report.subject import Subject
from transforms.statistics.sample import HASH
from transforms.table.statistics import read_sample

MOST = 200
"""Pictures of a page."""
SIDE = 56
"""Pixels that a picture has at most, in either direction."""
_BYTES = 400_000  # of all pictures of a page, as they stand in it
_PIXELS = 100_000_000  # of an image that is decoded
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")


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
        if column.role == "keep" and column.dtype == "bytes" and not column.shape:
            found = dict(_pictures(subject, column.name))
            if found:
                return _some(found, hashes)
    return {}


def _pictures(subject: Subject, column: str) -> Iterator[tuple[int, str]]:
    """Yield hashes of keys with pictures; nothing if the first value is no image."""
    seen = False
    for commit in subject.commits():
        sample = read_sample(subject.table, subject.plan, [commit], [column])
        images = sample[column]
        for row in range(len(sample)):
            data = images[row].as_py()
            if not data:
                continue
            picture = picture_of(data)
            if picture:
                yield sample[HASH][row].as_py(), picture
            elif not seen:
                return
            seen = True


def picture_of(data: bytes) -> str | None:
    """Make a small picture of an image; None of anything else."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > _PIXELS:
                    return None
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                small = image.convert("RGB")
                small.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
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
