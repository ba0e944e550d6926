"""Measure what a run costs besides its rows, against importing TensorFlow and Beam.

Each is a process of its own, in turn: CPU seconds, and seconds by the clock. The best
of all rounds counts. Two runs that differ in the number of their shards, of ten rows
each, tell what a shard costs.

    python benchmarks/start.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from workload import config_text, make_files, make_model

HERE = Path(__file__).parent
ROWS = 10


def main() -> None:
    """Measure all in turn; print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="the best time counts")
    parser.add_argument("--shards", type=int, default=41, help="of the longer run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        found = _measure(Path(made), arguments.repeats, arguments.shards)
    imports, few, many = found["import"], found["run"], found["run, more shards"]
    shares = {
        name: [round(a / b, 2) for a, b in zip(each, imports, strict=True)]
        for name, each in found.items()
    }
    shard = 1000 * (many[0] - few[0]) / (arguments.shards - 1)
    print(
        json.dumps(
            {
                "cpu_and_clock_seconds": found,
                "shares_of_the_import": shares,
                "cpu_milliseconds_a_shard": round(shard),
            },
            indent=2,
        )
    )


def _measure(directory: Path, repeats: int, shards: int) -> dict[str, list[float]]:
    """Give the best CPU and clock seconds of each process."""
    make_model().save(directory / "cnn.keras")
    files = make_files(directory / "data", shards, ROWS)
    for name, chosen in (("few", files[:1]), ("many", files)):
        source = f'reader = "tfrecord"\npath = {chosen}\nindex = "index"\n'
        source += 'features = { image = "bytes", id = "int64" }'
        table = f'path = "table"\nrows_per_part = {ROWS}'
        config = config_text(source, 'path = "cnn.keras"', table)
        (directory / f"{name}.toml").write_text(config)
    tap = ["-m", "pipeline.cli"]
    commands = {
        "import": ["-c", "import tensorflow, apache_beam"],
        "plan": [*tap, "plan", "few.toml"],
        "run": [*tap, "run", "few.toml", "--overwrite"],
        "run, more shards": [*tap, "run", "many.toml", "--overwrite"],
        "run --workers 1": [*tap, "run", "few.toml", "--overwrite", "--workers", "1"],
    }
    rounds = [
        {name: _seconds(each, directory) for name, each in commands.items()}
        for _ in range(repeats)
    ]
    return {
        name: [round(min(one[name][i] for one in rounds), 2) for i in (0, 1)]
        for name in commands
    }


def _seconds(command: list[str], directory: Path) -> tuple[float, float]:
    """Run Python and its children to the end: CPU seconds, and those of the clock."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=True,
    )
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, seconds - began


if __name__ == "__main__":
    main()
