"""Measure what a tap costs by its depth: an early one only what leads to it.

For each model the same batch goes through functions compiled for one tap each, at
several depths, and through the plain model. Times are the best of several, and are
reported as shares of the plain model's, next to the estimated share of its arithmetic.

    python benchmarks/depth.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from heavy_models import resnet_50, vit

from transforms import device
from transforms.config import TapSpec
from transforms.models.inputs import Input
from transforms.models.keras_layers import LayerForm
from transforms.models.model import Model
from transforms.taps.compile import compile_taps
from transforms.taps.language import choose
from transforms.taps.survey import list_activations

RESNET_TAPS = (
    "pool1_pool",
    "conv2_block3_out",
    "conv3_block4_out",
    "conv4_block6_out",
    "conv5_block3_out",
    "",
)


VIT_TAPS = ("tokens", "block_0", "block_2", "block_5", "block_8", "block_11", "")


def main() -> None:
    """Measure both models and print a table and one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-rows", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height of the images")
    parser.add_argument("--repeats", type=int, default=7, help="the best time counts")
    parser.add_argument("--json", help="write the report to this file")
    arguments = parser.parse_args()
    device.configure()
    found = {
        "ResNet50": _measure(resnet_50(arguments.size), RESNET_TAPS, arguments),
        "ViT-S/16": _measure(vit(arguments.size), VIT_TAPS, arguments),
    }
    for name, depths in found.items():
        print(f"\n{name:12}{'time':>8}{'arithmetic':>12}   (shares of the whole model)")
        for depth in depths:
            tap = depth["tap"] or "(the result)"
            print(f"{tap:18}{depth['time']:>8.2f}{depth['flops']:>12.2f}")
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    report = {"machine": machine, "options": vars(arguments), "depths": found}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def _measure(
    model: keras.Model, addresses: tuple[str, ...], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    rows, size = arguments.batch_rows, arguments.size
    name = model.inputs[0].name
    wired = Input(name, "image", (size, size, 3), "float32", "float32")
    loaded = Model(LayerForm(model), (wired,), None)
    activations = list_activations(loaded)
    image = tf.constant(np.random.default_rng(0).random((rows, size, size, 3), "f4"))
    plain = tf.function(lambda batch: model(batch, training=False))
    functions = {"plain": lambda: plain(image).numpy()}
    for address in addresses:
        spec = TapSpec(path=address, reduce="mean", column="mean")
        compiled = compile_taps(loaded, choose([spec], activations), rows)
        functions[address] = lambda compiled=compiled: compiled({"image": image})
    best = _best(functions, arguments.repeats)
    shares = {a.address: a.flops_share for a in activations}
    return [
        {"tap": a, "time": best[a] / best["plain"], "flops": shares[a]}
        for a in addresses
    ]


def _best(functions: dict[str, Any], repeats: int) -> dict[str, float]:
    """Take the best time of each, in turns, after a first call that does not count."""
    best: dict[str, float] = {}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds = time.perf_counter() - began
            if turn:
                best[name] = min(best.get(name, seconds), seconds)
    return best


if __name__ == "__main__":
    main()
