"""Measure jobs that decoding bounds.

First against a bare tf.data pipeline of the same work: both read JPEG files, decode and
resize them, and batch; featuretap also runs a model of next to no work and writes a
table. Then jobs on large photos, which decode them whole or at a reduced scale, and
resize with or without antialias. Each runs in turn, at two sizes: the difference gives
rows/s. Last, how far what they make of photos lies from the exact image.

    python benchmarks/decode.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

DATA = Path(__file__).parent / "data"
SIDE = 224
SHRUNK, ANTIALIAS = {"shrink_to": (256, 256)}, {"antialias": True}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole, plain": ({}, {}),
    "whole, antialias": ({}, ANTIALIAS),
    "shrunk, plain": (SHRUNK, {}),
    "shrunk, antialias": (SHRUNK, ANTIALIAS),
}
"""More options of `decode_image`, and of `resize`."""
DRAWN = 6  # different photos; the others are copies


def make_model() -> keras.Model:
    """Build a model that costs next to nothing."""
    image = keras.Input((None, None, 3), name="image")
    few = image[:, ::32, ::32]
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(name="pooled")(few))


def make_images(count: int, side: int) -> list[str]:
    """Write JPEG files of smooth colours and some noise, once."""
    random = np.random.default_rng(0)

    def draw(index: int) -> bytes:
        coarse = random.integers(0, 256, (8, 8, 3)).astype(np.float32)
        image = tf.image.resize(coarse, [side, side + index % 64], method="bicubic")
        return _jpeg(image + random.normal(0, 8, image.shape), quality=95)

    return _write(DATA / f"jpeg-{side}-{count}", count, draw)


def make_photos(count: int, height: int) -> list[str]:
    """Write large JPEG files with forms of all sizes, and some noise, once."""
    random = np.random.default_rng(1)
    drawn: list[bytes] = []

    def draw(index: int) -> bytes:
        if len(drawn) < DRAWN:
            size = [height, height * 4 // 3]
            image = random.normal(128, 4, [*size, 3]).astype(np.float32)
            for forms, strength in ((8, 90), (64, 40), (512, 20)):
                coarse = random.normal(0, strength, (forms, forms, 3))
                image += tf.image.resize(coarse, size, method="bicubic")
            drawn.append(_jpeg(image, quality=90))
        return drawn[index % DRAWN]

    return _write(DATA / f"photos-{height}-{count}", count, draw)


def _jpeg(image: Any, quality: int) -> bytes:
    pixels = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
    encoded: bytes = tf.io.encode_jpeg(pixels, quality=quality).numpy()
    return encoded


def _write(directory: Path, count: int, draw: Callable[[int], bytes]) -> list[str]:
    """Write images into ten folders: their names differ within the data set."""
    if not directory.exists():
        unfinished = directory.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        for index in range(count):
            folder = unfinished / f"{index % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:06d}.jpg").write_bytes(draw(index))
        unfinished.rename(directory)
    return sorted(str(path) for path in directory.rglob("*.jpg"))


def bare(files: Sequence[str], *, batch_rows: int) -> int:
    """Read, decode, resize and batch, as an engineer would write it."""

    def load(path: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, [SIDE, SIDE]) / 255

    images = tf.data.Dataset.from_tensor_slices(list(files))
    images = images.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    rows = 0
    for batch in images.batch(batch_rows).prefetch(tf.data.AUTOTUNE):
        rows += len(batch)
    return rows


def featuretap(
    files: Sequence[str],
    *,
    batch_rows: int,
    decode: dict[str, Any] | None = None,
    resize: dict[str, Any] | None = None,
) -> int:
    """The same as a job, with more options of two of its steps."""
    from pipeline import make_plan, run_plan
    from pipeline.config_file import parse_config

    steps: list[dict[str, Any]] = [
        {"step": "decode_image", "channels": 3, **(decode or {})},
        {"step": "resize", "size": [SIDE, SIDE], **(resize or {})},
        {"step": "rescale", "scale": 1 / 255},
    ]
    preprocess = [{**step, "feature": "image"} for step in steps]
    out = DATA / "decoded"
    shutil.rmtree(out, ignore_errors=True)
    config = {
        "source": {"reader": "images", "path": list(files), "preprocess": preprocess},
        "model": {"build": "decode:make_model", "batch_rows": batch_rows},
        "taps": [{"path": "pooled"}],
        "table": {"path": str(out), "rows_per_part": max(len(files) // 8, 1)},
    }
    rows = int(run_plan(make_plan(parse_config(config)))["rows"])
    shutil.rmtree(out)
    return rows


def measure(
    files: Sequence[str], jobs: dict[str, Callable[[Sequence[str]], int]], repeats: int
) -> dict[str, float]:
    """Give the rows/s of some jobs, run in turns; the best times count."""
    few = files[: len(files) // 4]
    times: dict[tuple[str, int], float] = {}
    for repeat in range(repeats + 1):
        for name, job in jobs.items():
            for some in (few, files):
                began = time.perf_counter()
                rows = job(some)
                seconds = time.perf_counter() - began
                assert rows == len(some)
                key = name, len(some)
                if repeat:  # the first round warms up
                    times[key] = min(times.get(key, seconds), seconds)
    more = len(files) - len(few)
    return {n: more / (times[n, len(files)] - times[n, len(few)]) for n in jobs}


def errors(files: Sequence[str]) -> dict[str, float]:
    """Tell how far decoding and resizing lies from the exact image, of 255 levels.

    Exact is a photo decoded whole, with the most exact method, and resized with
    antialias.

    Returns:
      The mean deviation of a value, by what was done.
    """
    from transforms.preprocess.images import decode_image, resize

    size = (SIDE, SIDE)
    found: dict[str, list[float]] = {}
    for file in files:
        data = tf.io.read_file(file)
        best = tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE")
        exact = resize(best, size=size, antialias=True)
        for name, (decode, smooth) in WAYS.items():
            image = decode_image(data, channels=3, **decode)
            made = resize(image, size=size, **smooth)
            deviation = float(tf.reduce_mean(tf.abs(made - exact)))
            found.setdefault(name, []).append(deviation)
    return {name: round(float(np.mean(one)), 2) for name, one in found.items()}


def main() -> None:
    """Measure all in turn; print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--photos", type=int, default=160)
    parser.add_argument("--photo-height", type=int, default=3000)
    parser.add_argument("--batch-rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="the best time counts")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    with_rows = partial(featuretap, batch_rows=arguments.batch_rows)
    images = make_images(arguments.images, arguments.side)
    photos = make_photos(arguments.photos, arguments.photo_height)
    plain = {
        "bare": partial(bare, batch_rows=arguments.batch_rows),
        "featuretap": with_rows,
    }
    rate = measure(images, plain, arguments.repeats)
    ways = {
        name: partial(with_rows, decode=decode, resize=resize)
        for name, (decode, resize) in WAYS.items()
    }
    of_photos = measure(photos, ways, arguments.repeats)
    report = {
        "images": len(images),
        "rows_per_second": _rounded(rate),
        "ratio": round(rate["featuretap"] / rate["bare"], 3),
        "photos": len(photos),
        "photos_per_second": _rounded(of_photos),
        "photos_ratio": {
            name: round(of_photos["shrunk, antialias"] / of_photos[name], 2)
            for name in WAYS
        },
        "photos_error": errors(photos[:DRAWN]),
    }
    print(json.dumps(report, indent=2))


def _rounded(rates: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in rates.items()}


if __name__ == "__main__":
    main()
