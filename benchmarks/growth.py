"""Measure what a table costs that takes rows over from an earlier one.

By what has changed: files of images through ResNet50, to a table of five taps. Each
case is timed at two sizes: the difference is what its rows cost, as a share of a fresh
run's, by the clock and in CPU seconds; the rest is the fixed cost of a run. A tap that
was missing should cost its share of the arithmetic, and what reading and writing cost.

Where nothing has changed: a table of many small files and parts, at two sizes. Each is
a process of its own, so that its peak of memory is its own.

    python benchmarks/growth.py
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

TAPS = (
    *("conv2_block1_out", "conv3_block4_out", "conv4_block6_out"),
    *("conv5_block1_out", "conv5_block3_out"),
)
MORE = ("conv1_pad", "pool1_pool", "conv2_block3_out", "conv5_block2_out")
CHANGED = (0.0, 0.01, 0.1, 1.0)  # shares of the files
FILES_PER_PART = 5
CARRIED_FILE_ROWS, CARRIED_PART_ROWS = 100, 1000
Seconds = np.ndarray  # of the clock, and of all cores: float64 [2]


def make_model(side: int, *, small: bool) -> Any:
    """ResNet50 with random weights, or a few layers of the same names."""
    import keras

    keras.utils.set_random_seed(0)
    if not small:
        return keras.applications.ResNet50(weights=None, input_shape=(side, side, 3))
    x = image = keras.Input((side, side, 3))
    for name in sorted({*TAPS, *MORE}):
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name=name)(x)
    return keras.Model(image, x)


def measure_changes(directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time all cases at two sizes, in turns, after a first run that does not count."""
    make_model(arguments.side, small=arguments.small).save(directory / "model.keras")
    sizes = (arguments.files // 10, arguments.files)
    jobs = [Images(directory / f"{files}", files, arguments) for files in sizes]
    jobs[0].seconds("warm", TAPS)
    best: list[dict[str, Seconds]] = [{}, {}]
    for repeat in range(arguments.repeats):
        for job, least in zip(jobs, best, strict=True):
            for name, seconds in job.cases(f"{repeat}").items():
                least[name] = np.minimum(least.get(name, seconds), seconds)
    rows = {name: best[1][name] - best[0][name] for name in best[0]}
    more = 1 - jobs[0].rows / jobs[1].rows
    cases = {}
    for name, seconds in rows.items():
        share, of_cpu = (seconds / rows["fresh"]).round(3).tolist()
        fixed, _ = (best[1][name] - seconds / more).round(2).tolist()
        whole_run, _ = (best[1][name] / best[1]["fresh"]).round(3).tolist()
        cases[name] = {
            "share": share,
            "share_of_cpu": of_cpu,
            "fixed_seconds": fixed,
            "whole_run": whole_run,
        }
    return {
        "rows": [job.rows for job in jobs],
        "fresh_seconds": rows["fresh"].round(2).tolist(),
        "cases": cases,
        "arithmetic": jobs[0].arithmetic(),
    }


class Images:
    """Files of made-up images, and tables that are made of them."""

    def __init__(self, directory: Path, files: int, arguments: argparse.Namespace):
        self._directory = directory
        self._model = directory.parent / "model.keras"
        self._rows_per_file = arguments.rows_per_file
        self.rows = files * self._rows_per_file
        (directory / "data").mkdir(parents=True)
        shape = (self._rows_per_file, arguments.side, arguments.side, 3)
        generator = np.random.default_rng(0)
        self._files = [directory / "data" / f"{i:05d}.npy" for i in range(files)]
        for file in self._files:
            np.save(file, generator.integers(0, 256, shape, np.uint8))

    def cases(self, name: str) -> dict[str, Seconds]:
        """Time a fresh run, and others that take over from it what still holds."""
        fresh = f"{name}-fresh"
        found = {"fresh": self.seconds(fresh, TAPS)}
        for share in CHANGED:
            with self._changed(share):
                case = f"{share:.0%} of the files changed"
                found[case] = self.seconds(f"{name}-{case}", TAPS, fresh)
        found["one tap less"] = self.seconds(f"{name}-less", TAPS[1:], fresh)
        for tap in MORE:
            found[f"+ {tap}"] = self.seconds(f"{name}-{tap}", (*TAPS, tap), fresh)
        return found

    def seconds(self, name: str, taps: Sequence[str], *earlier: str) -> Seconds:
        """Make a table from earlier ones; give the seconds that it took."""
        from pipeline import make_plan, run_plan

        tables = [str(self._directory / one) for one in earlier]
        began = time.perf_counter(), time.process_time()
        run_plan(make_plan(self._config(name, taps), tables))
        ended = time.perf_counter(), time.process_time()
        return np.subtract(ended, began)

    def arithmetic(self) -> dict[str, float]:
        """Give the shares of a fresh run's arithmetic that more taps need."""
        from pipeline import make_plan
        from transforms.taps.language import flops_of

        plan = make_plan(self._config("none", TAPS))
        flops = {a.address: a.flops or 0 for a in plan.activations}
        whole = flops_of(plan.taps, plan.activations)
        return {tap: round(flops[tap] / whole, 3) for tap in MORE}

    def _config(self, name: str, taps: Sequence[str]) -> Any:
        from pipeline.config_file import parse_config

        rows = self._rows_per_file
        source = {
            "reader": "numpy",
            "path": f"{self._directory}/data/*.npy",
            "preprocess": [{"step": "rescale", "feature": "array", "scale": 1 / 255}],
        }
        table = {
            "path": str(self._directory / name),
            "rows_per_part": rows * FILES_PER_PART,
        }
        return parse_config(
            {
                "source": source,
                "model": {"path": str(self._model), "batch_rows": rows},
                "taps": [
                    {"path": t, "reduce": "global_average_pool", "column": t}
                    for t in taps
                ],
                "table": table,
            }
        )

    @contextmanager
    def _changed(self, share: float) -> Iterator[None]:
        """Change some files, spread over all of them, for a block."""
        count = round(share * len(self._files))
        chosen = self._files[:: len(self._files) // count] if count else []
        times = [file.stat().st_mtime_ns for file in chosen]
        for file, then in zip(chosen, times, strict=True):
            os.utime(file, ns=(then + 1, then + 1))
        yield
        for file, then in zip(chosen, times, strict=True):
            os.utime(file, ns=(then, then))


def make_tables(directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the tables that are taken over; give their directories, and seconds."""
    found = {}
    for rows in (arguments.rows // 10, arguments.rows):
        inside = directory / f"{rows}"
        inside.mkdir()
        found[str(inside)] = _make_table(inside, rows)
    return found


def _make_table(directory: Path, total: int) -> float:
    import keras
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline import make_plan, run_plan

    image = keras.Input((4,), name="vec")
    keras.Model(image, keras.layers.Dense(4, name="dense")(image)).save(
        directory / "model.keras"
    )
    (directory / "data").mkdir()
    size = CARRIED_FILE_ROWS
    values = np.random.default_rng(0).random((size, 4), np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(values.reshape(-1), 4)
    for first in range(0, total, size):
        rows = pa.table({"id": np.arange(first, first + size), "vec": vectors})
        pq.write_table(rows, directory / "data" / f"{first:09d}.parquet")
    with timed() as seconds:
        run_plan(make_plan(_carried(directory, "one")))
    return seconds()


def measure_carrying(directory: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Make a table from one of which nothing has changed: where do seconds go?"""
    from pipeline import make_plan, run_plan
    from transforms.table.commit import commit_table
    from transforms.table.directory import Table

    with timed() as start:
        make_plan(_carried(directory, "two", limit=1))
    before = peak_bytes()
    with timed() as planned:
        plan = make_plan(_carried(directory, "two"), [str(directory / "one")])
    with timed() as ran:
        summary = run_plan(plan)
    assert summary["made"].keys() == {"carried"}
    (directory / "two" / "_SUCCESS").unlink()
    with timed() as finished:
        commit_table(Table(str(directory / "two")), 0.0)
    return {
        "rows": plan.rows,
        "files": len(list((directory / "data").iterdir())),
        "parts": len(plan.shards),
        "seconds": {
            "start": start(),
            "plan": planned(),
            "carry": round(ran() - finished(), 2),
            "finish": finished(),
        },
        "peak_bytes_before": before,
        "peak_bytes": peak_bytes(),
    }


def _carried(directory: Path, name: str, limit: int | None = None) -> Any:
    from pipeline.config_file import parse_config

    return parse_config(
        {
            "source": {
                "reader": "parquet",
                "path": str(directory / "data"),
                "key": "id",
            },
            "model": {"path": str(directory / "model.keras")},
            "taps": [{"path": "dense"}],
            "table": {
                "path": str(directory / name),
                "rows_per_part": CARRIED_PART_ROWS,
            },
            "limit": limit,
        }
    )


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Give a function that tells the seconds of a block once it is over."""
    found: list[float] = []
    began = time.perf_counter()
    yield lambda: found[0]
    found.append(round(time.perf_counter() - began, 2))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MEASURES = {
    "changes": measure_changes,
    "tables": make_tables,
    "carrying": measure_carrying,
}


def main() -> None:
    """Measure, each in a process of its own; print tables and one JSON document."""
    arguments = _arguments()
    if arguments.measure:
        directory = Path(arguments.directory)
        print(json.dumps(MEASURES[arguments.measure](directory, arguments)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        changes = _in_process("changes", Path(directory), arguments)
    _print_changes(changes)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        tables = _in_process("tables", Path(directory), arguments)
        carried = [
            {**_in_process("carrying", Path(inside), arguments), "fresh_seconds": fresh}
            for inside, fresh in tables.items()
        ]
    _print_carried(carried)
    report = {"changes": changes, "carried": carried}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200, help="and a tenth")
    parser.add_argument("--rows-per-file", type=int, default=2)
    parser.add_argument("--side", type=int, default=224, help="of the images")
    parser.add_argument("--small", action="store_true", help="not ResNet50")
    parser.add_argument("--repeats", type=int, default=2, help="the best time counts")
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="carried; and a tenth"
    )
    parser.add_argument("--directory", help="for data and tables")
    parser.add_argument("--json", help="write the report to this file")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_process(
    measure: str, directory: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", measure]
    for option in ("files", "rows_per_file", "side", "repeats", "rows"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    command += ["--directory", str(directory), *(["--small"] * arguments.small)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{measure} failed:\n{done.stderr[-4000:]}")
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def _print_changes(found: dict[str, Any]) -> None:
    arithmetic = found["arithmetic"]
    few, many = found["rows"]
    seconds, of_cpu = found["fresh_seconds"]
    print(f"\n{many - few} rows, fresh: {seconds:.1f} s, {of_cpu:.1f} s of all cores")
    print(f"{'':32}{'a row':>8}{'its CPU':>9}{'arithmetic':>12}", end="")
    print(f"{'fixed':>9}{'whole run':>11}")
    for name, case in found["cases"].items():
        needed = arithmetic.get(name.removeprefix("+ "))
        share = "" if needed is None else f"{needed:.2f}"
        print(
            f"{name:32}{case['share']:>8.2f}{case['share_of_cpu']:>9.2f}{share:>12}"
            f"{case['fixed_seconds']:>7.1f} s{case['whole_run']:>11.2f}"
        )


def _print_carried(found: Sequence[dict[str, Any]]) -> None:
    print(f"\n{'carried':>10}{'files':>8}{'parts':>8}{'fresh':>8}", end="")
    print(f"{'plan':>8}{'carry':>8}{'finish':>8}{'more memory':>13}")
    for one in found:
        print(f"{one['rows']:>10}{one['files']:>8}{one['parts']:>8}", end="")
        seconds = (one["fresh_seconds"], *list(one["seconds"].values())[1:])
        print("".join(f"{value:>6.1f} s" for value in seconds), end="")
        print(f"{(one['peak_bytes'] - one['peak_bytes_before']) >> 20:>10} MB")
    few, many = found[0], found[-1]
    seconds = many["seconds"]["carry"] - few["seconds"]["carry"]
    each = seconds / (many["parts"] - few["parts"])
    print(f"{1000 * each:.1f} ms for each part more")


if __name__ == "__main__":
    main()
