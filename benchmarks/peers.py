"""Measure featuretap beside Ray Data and Spark: the same files, model and table.

The files are Parquet, and an image is a value of a `binary` column, which all three
read without a Python object for each pixel; Spark has no type for lists of uint8. The
table has the key and two activations, compressed by zstd.

Each run is a process of its own, timed from start to end, imports included. All
contestants take turns at two sizes, and the best time of each counts. The difference
of the sizes gives marginal rows/s. Every table is compared, row by row, with what the
model gives in a plain loop. `peer_ray.py` and `peer_spark.py` are the peers' programs.

    python benchmarks/peers.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow.parquet as pq
from throughput import processor
from workload import TAPS, compile_taps, config_text, make_model, make_parquet

HERE = Path(__file__).parent
DATA = HERE / "data"
PEERS = ("ray", "spark")
BATCH_ROWS = (512, 2048)
RECOMMENDED = 2048
"""Rows in a batch of featuretap, for a model as small as this one."""
TOLERANCE = 1e-5
CORES = len(os.sched_getaffinity(0))
NAMES = [(system, rows) for rows in BATCH_ROWS for system in ("featuretap", *PEERS)]
"""All contestants: a system, and the rows in its batches."""


def main() -> None:
    """Measure all in turn, check their tables; print one JSON document."""
    arguments = _arguments()
    files = make_parquet(DATA, arguments.files, arguments.rows_per_file)
    make_model().save(DATA / "cnn.keras")
    expected = _expected(files)
    sizes = (max(len(files) // 4, 1), len(files))
    seconds: dict[tuple[str, int, int], list[float]] = {}
    furthest = dict.fromkeys(NAMES, 0.0)
    for _ in range(arguments.rounds):
        for name in NAMES:
            for size in sizes:
                rows = size * arguments.rows_per_file
                with tempfile.TemporaryDirectory(dir=DATA) as made:
                    took = _run(name, files[:size], Path(made), arguments.python)
                    difference = _difference(name, Path(made) / "table", rows, expected)
                print(*name, f"{rows} rows: {took:.2f} s", file=sys.stderr)
                seconds.setdefault((*name, size), []).append(took)
                furthest[name] = max(furthest[name], difference)
    rows_of = [size * arguments.rows_per_file for size in sizes]
    speeds = {
        name: _speed(rows_of, [min(seconds[(*name, size)]) for size in sizes])
        for name in NAMES
    }
    print(json.dumps(_report(speeds, furthest, arguments), indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--rows-per-file", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3, help="the best time counts")
    parser.add_argument(
        "--python",
        default=str(HERE.parent / ".venv" / "peers" / "bin" / "python"),
        help="a Python that has Ray, Spark and TensorFlow; make bench-peers makes one",
    )
    return parser.parse_args()


def _run(name: tuple[str, int], files: Sequence[str], made: Path, python: str) -> float:
    """Make a table in `made/table`; give the seconds of the process, by the clock."""
    system, batch_rows = name
    out = str(made / "table")
    if system == "featuretap":
        config = made / "job.toml"
        model = f'path = "{DATA / "cnn.keras"}"\nbatch_rows = {batch_rows}'
        source = f'reader = "parquet"\npath = {list(files)}'
        config.write_text(config_text(source, model, f'path = "{out}"'))
        command = [sys.executable, "-m", "pipeline.cli", "run", str(config)]
    else:
        program = str(HERE / f"peer_{system}.py")
        command = [python, program, out, str(batch_rows), str(CORES), *files]
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    began = time.perf_counter()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return seconds


def _expected(files: Sequence[str]) -> dict[str, np.ndarray]:
    """Compute each tap's values [rows, width], in the order of the ids, in a loop."""
    function = compile_taps()
    found: dict[str, list[np.ndarray]] = {tap: [] for tap in TAPS}
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1000, columns=["image"]):
            pixels = b"".join(batch["image"].to_pylist())
            images = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28, 1)
            values = function(images.astype(np.float32) * (1 / 255))
            for tap, each in zip(TAPS, values, strict=True):
                found[tap].append(each.numpy())
    return {tap: np.concatenate(each) for tap, each in found.items()}


def _difference(
    name: tuple[str, int], table: Path, rows: int, expected: dict[str, np.ndarray]
) -> float:
    """Give the largest difference of a table's values from the expected ones.

    Raises:
      RuntimeError: the table lacks a row, has one twice, or a value is too far off.
    """
    key, where = "id", table
    if name[0] == "featuretap":
        key, where = "example_id", table / "data"
    times, furthest = np.zeros(rows, np.int64), 0.0
    for path in where.glob("*.parquet"):
        part = pq.read_table(path)
        ids = part[key].to_numpy()
        np.add.at(times, ids, 1)
        for tap in TAPS:
            values = part[tap].combine_chunks().flatten().to_numpy()
            off = np.abs(values.reshape(len(ids), -1) - expected[tap][ids])
            furthest = max(furthest, float(off.max(initial=0)))
            if not off.max(initial=0) <= TOLERANCE:
                raise RuntimeError(f"{tap} of {name} is {off.max()} off in {path.name}")
    if not (times == 1).all():
        wrong = np.flatnonzero(times != 1)
        raise RuntimeError(
            f"{name} must give each of {rows} ids once, {len(wrong)} are missing or "
            f"come twice, such as {wrong[:3].tolist()}"
        )
    return furthest


def _speed(rows: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """Tell marginal rows/s, which are None if the larger size took no longer."""
    more = seconds[1] - seconds[0]
    marginal = (rows[1] - rows[0]) / more if more > 0 else None
    return {
        "rows": list(rows),
        "seconds": [round(each, 2) for each in seconds],
        "marginal_rows_per_second": marginal and round(marginal),
        "whole_rows_per_second": round(rows[1] / seconds[1]),
    }


def _report(
    speeds: Mapping[tuple[str, int], dict[str, Any]],
    furthest: Mapping[tuple[str, int], float],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    packages = ("ray", "pyspark", "pandas", "tensorflow", "pyarrow")
    code = "import importlib.metadata as m, json, sys; "
    code += "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    command = [arguments.python, "-c", code, *packages]
    versions = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        "machine": {
            "processor": processor(),
            "cores": CORES,
            "python": platform.python_version(),
            **json.loads(versions.stdout),
        },
        "rounds": arguments.rounds,
        "contestants": {
            f"{system}, batches of {rows}": {
                **speeds[system, rows],
                "largest_difference": furthest[system, rows],
            }
            for system, rows in NAMES
        },
        "featuretap_to": {
            kind: {
                peer: _ratios(speeds, peer, f"{kind}_rows_per_second") for peer in PEERS
            }
            for kind in ("marginal", "whole")
        },
    }


def _ratios(
    speeds: Mapping[tuple[str, int], dict[str, Any]], peer: str, which: str
) -> dict[str, float | None]:
    """Compare at equal batches, and featuretap's recommended with the peer's better."""

    def ratio(ours: float | None, theirs: float | None) -> float | None:
        return round(ours / theirs, 2) if ours and theirs else None

    own = {rows: speeds["featuretap", rows][which] for rows in BATCH_ROWS}
    others = {rows: speeds[peer, rows][which] for rows in BATCH_ROWS}
    known = [speed for speed in others.values() if speed]
    return {
        **{f"batches of {r}": ratio(own[r], others[r]) for r in BATCH_ROWS},
        "recommended": ratio(own[RECOMMENDED], max(known, default=None)),
    }


if __name__ == "__main__":
    main()
