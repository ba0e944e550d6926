"""Measure heavy models: rows/s of runs by the number of shards, and the model's alone.

Each contestant is a process of its own, in turn: the model in a loop over one batch in
memory, with all cores to each call; and the shards of a run, from stored rows to a
table, as many at a time as a run has in flight. What planning and compiling take is not
in it. The best of all rounds counts.

    python benchmarks/heavy.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS = {"ResNet50": "resnet_50", "ViT-S/16": "vit", "BERT-Mini": "bert"}
SHARDS = (1, 2, 3, 8)
MORE = {"bert": 8}  # batches for one of the others


def main() -> None:
    """Run all contestants; print one JSON document."""
    arguments = _arguments()
    if arguments.child:
        print(_child(arguments.child, arguments))
        return
    found = {name: _model(build, arguments) for name, build in MODELS.items()}
    print(json.dumps({"options": vars(arguments), "models": found}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=24, help="of a run")
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="height of the images")
    parser.add_argument("--repeats", type=int, default=3, help="the best counts")
    parser.add_argument("--jit", action="store_true", help="let XLA compile")
    parser.add_argument("--precision", help="of the models")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def _model(build: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Give the rate of the model alone, and the shares of it that runs reach."""
    contestants = ["0", *map(str, SHARDS)]
    rounds = [
        {each: _in_process(build, each) for each in contestants}
        for _ in range(arguments.repeats)
    ]
    best = {each: max(one[each] for one in rounds) for each in contestants}
    alone = best.pop("0")
    shares = {f"{n} shards": round(rate / alone, 2) for n, rate in best.items()}
    return {"model_rows_per_second": round(alone, 2), "shares": shares}


def _in_process(build: str, shards: str) -> float:
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--child", build, shards],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{build} {shards} failed:\n{done.stderr[-4000:]}")
    return float(done.stdout.splitlines()[-1])


def _child(given: list[str], arguments: argparse.Namespace) -> float:
    """Measure the model alone, or a run of some shards: rows/s."""
    build, shards = given[0], int(given[1])
    arguments.batches *= MORE.get(build, 1)
    rows = arguments.batches * arguments.batch_rows
    if shards == 0:
        return _alone(build, rows, arguments)
    with tempfile.TemporaryDirectory(dir=HERE) as made:
        return _run(build, rows, shards, Path(made), arguments)


def _features(build: str, rows: int, size: int) -> tuple[str, Any]:
    """Make up what a model takes: the feature's name, values `[rows, ...]`."""
    import numpy as np

    random = np.random.default_rng(0)
    if build == "bert":
        return "ids", random.integers(0, 30_000, (rows, 128), np.int32)
    return "image", random.integers(0, 256, (rows, size, size, 3), np.uint8)


def _build(build: str, size: int) -> Any:
    import heavy_models

    make = getattr(heavy_models, build)
    return make() if build == "bert" else make(size)


def _alone(build: str, rows: int, arguments: argparse.Namespace) -> float:
    import tensorflow as tf

    model = _build(build, arguments.size)
    _, values = _features(build, arguments.batch_rows, arguments.size)
    batch = tf.constant(values if build == "bert" else values.astype("f4"))
    function = tf.function(lambda given: model(given, training=False))
    function(batch).numpy()
    began = time.perf_counter()
    for _ in range(arguments.batches):
        function(batch).numpy()
    return rows / (time.perf_counter() - began)


def _run(
    build: str, rows: int, shards: int, made: Path, arguments: argparse.Namespace
) -> float:
    import numpy as np

    from pipeline.config_file import parse_config
    from pipeline.plan import make_plan
    from pipeline.run import prepare_table
    from transforms import device
    from transforms.extract import extract_shard
    from transforms.table.directory import Table
    from transforms.worker import worker_for

    name, values = _features(build, rows, arguments.size)
    np.save(made / "rows.npy", values)
    _build(build, arguments.size).save(made / "model.keras")
    model = {"path": str(made / "model.keras"), "batch_rows": arguments.batch_rows}
    model |= {"jit": arguments.jit, "precision": arguments.precision}
    config = parse_config(
        {
            "source": {
                "reader": "numpy",
                "path": str(made / "rows.npy"),
                "feature": name,
            },
            "model": model,
            "taps": [{"path": "", "column": "embedding"}],
            "table": {"path": str(made / "table"), "rows_per_part": -(-rows // shards)},
        }
    )
    plan = make_plan(config)
    prepare_table(plan)
    worker = worker_for(Table(config.table.path), plan.seal)
    worker.compiled({name: _batch(worker, values[: arguments.batch_rows])})
    began = time.perf_counter()
    with ThreadPoolExecutor(device.shards_in_flight()) as pool:
        list(pool.map(partial(extract_shard, worker), plan.shards))
    return rows / (time.perf_counter() - began)


def _batch(worker: Any, values: Any) -> Any:
    """Make a batch of what the model takes, so that it is compiled beforehand."""
    import tensorflow as tf

    (wanted,) = worker.compiled._compiled.inputs
    return tf.cast(values, wanted.feature_dtype)


if __name__ == "__main__":
    main()
