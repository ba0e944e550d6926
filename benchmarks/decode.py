"""Measure a job that decoding bounds against a bare tf.data pipeline of the same work.

Both read JPEG files, decode and resize them, and batch; featuretap also runs a model of
next to no work and writes a table. Each runs in turn, at two sizes: the difference
gives rows/s.

    python benchmarks/decode.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

DATA = Path(__file__).parent / "data"
SIDE = 224


def make_model() -> keras.Model:
    """Build a model that costs next to nothing."""
    image = keras.Input((None, None, 3), name="image")
    few = image[:, ::32, ::32]
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(name="pooled")(few))


def make_images(count: int, side: int) -> Path:
    """Write JPEG files of smooth colours and some noise, once."""
    directory = DATA / f"jpeg-{side}-{count}"
    if directory.exists():
        return directory
    unfinished = directory.with_suffix(".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    random = np.random.default_rng(0)
    for index in range(count):
        folder = unfinished / f"{index % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (8, 8, 3)).astype(np.float32)
        image = tf.image.resize(coarse, [side, side + index % 64], method="bicubic")
        image += random.normal(0, 8, image.shape)
        data = tf.io.encode_jpeg(tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8))
        tf.io.write_file(str(folder / f"{index:06d}.jpg"), data)
    unfinished.rename(directory)
    return directory


def bare(files: Sequence[str], batch_rows: int) -> int:
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


def featuretap(files: Sequence[str], out: Path, batch_rows: int) -> int:
    """The same as a job."""
    from pipeline import make_plan, run_plan
    from pipeline.config_file import parse_config

    steps: list[dict[str, Any]] = [
        {"step": "decode_image", "channels": 3},
        {"step": "resize", "size": [SIDE, SIDE]},
        {"step": "rescale", "scale": 1 / 255},
    ]
    preprocess = [{**step, "feature": "image"} for step in steps]
    config = {
        "source": {"reader": "images", "path": list(files), "preprocess": preprocess},
        "model": {"build": "decode:make_model", "batch_rows": batch_rows},
        "taps": [{"path": "pooled"}],
        "table": {"path": str(out), "rows_per_part": max(len(files) // 8, 1)},
    }
    return int(run_plan(make_plan(parse_config(config)))["rows"])


def main() -> None:
    """Measure both in turn; print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--batch-rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="the best time counts")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    directory = make_images(arguments.images, arguments.side)
    # A path for each of ten folders: names must differ, and do below each.
    files = sorted(str(path) for path in directory.rglob("*.jpg"))
    few = files[: len(files) // 4]
    out = DATA / "decoded"
    times: dict[tuple[str, int], float] = {}
    for repeat in range(arguments.repeats + 1):
        for name in ("bare", "featuretap"):
            for some in (few, files):
                shutil.rmtree(out, ignore_errors=True)
                began = time.perf_counter()
                if name == "bare":
                    rows = bare(some, arguments.batch_rows)
                else:
                    rows = featuretap(some, out, arguments.batch_rows)
                seconds = time.perf_counter() - began
                assert rows == len(some)
                key = name, len(some)
                if repeat:  # the first round warms up
                    times[key] = min(times.get(key, seconds), seconds)
    shutil.rmtree(out, ignore_errors=True)
    rate = {
        name: (len(files) - len(few))
        / (times[name, len(files)] - times[name, len(few)])
        for name in ("bare", "featuretap")
    }
    report = {
        "images": len(files),
        "rows_per_second": {name: round(value) for name, value in rate.items()},
        "ratio": round(rate["featuretap"] / rate["bare"], 3),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
