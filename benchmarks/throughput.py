"""Measure rows/s of featuretap, stock Beam and a bare loop, and the hardware's limit.

Every contestant runs in a process of its own, on the same files, warmed up, several
times at two sizes: the difference of the best two gives rows/s, the rest is fixed cost.

    python benchmarks/throughput.py
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
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA = HERE / "data"
CONTESTANTS = (
    *("featuretap", "no_statistics", "one_in_flight"),
    *("bare_loop", "stock_beam", "parts"),
)
TAPS = ("activation_1", "activation_2")


def main() -> None:
    """Run all contestants and print a table and one JSON document."""
    arguments = _arguments()
    if arguments.contestant:
        print(json.dumps(_measure(arguments)))
        return
    from workload import make_files, make_model

    make_files(DATA, arguments.files, arguments.rows_per_file)
    make_model().save(DATA / "cnn.keras")
    found = {name: _in_process(name, arguments) for name in CONTESTANTS}
    report = _report(found, arguments)
    print(_table(report))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--rows-per-file", type=int, default=50_000)
    parser.add_argument("--batch-rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3, help="the best time counts")
    parser.add_argument("--json", help="write the report to this file")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contestant", name]
    for option in ("files", "rows_per_file", "batch_rows", "repeats"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-4000:]}")
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {document}", file=sys.stderr)
    return document


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one contestant, warmed up, at two sizes."""
    from workload import make_files

    files = make_files(DATA, arguments.files, arguments.rows_per_file)
    if arguments.contestant == "parts":
        return _parts(files, arguments)
    run = _RUNS[arguments.contestant]
    small, large = max(len(files) // 3, 1), len(files)
    if arguments.contestant == "stock_beam":
        small, large = 1, 2  # so slow that this takes longer than all files elsewhere
    repeats = 1 if arguments.contestant == "stock_beam" else arguments.repeats
    times: dict[int, list[float]] = {small: [], large: []}
    with tempfile.TemporaryDirectory(dir=HERE) as out:
        run(files[:1], Path(out) / "warm", arguments.batch_rows)
        for repeat in range(repeats):
            for count in (small, large):
                began = time.perf_counter()
                target = Path(out) / f"{count}-{repeat}"
                run(files[:count], target, arguments.batch_rows)
                times[count].append(time.perf_counter() - began)
    seconds = [min(times[small]), min(times[large])]
    rows = [count * arguments.rows_per_file for count in (small, large)]
    rate = (rows[1] - rows[0]) / (seconds[1] - seconds[0])
    return {
        "rows": rows,
        "seconds": [round(s, 3) for s in seconds],
        "rows_per_second": round(rate),
        "fixed_seconds": round(seconds[1] - rows[1] / rate, 2),
    }


def _featuretap(files: Sequence[str], out: Path, batch_rows: int) -> None:
    from pipeline.run import run_plan

    run_plan(_plan(files, out, batch_rows))


def _no_statistics(files: Sequence[str], out: Path, batch_rows: int) -> None:
    """The same without a look at what rows are like."""
    from transforms.statistics.collect import Collector

    Collector.add = lambda self, rows: None  # type: ignore[method-assign]
    _featuretap(files, out, batch_rows)


def _one_in_flight(files: Sequence[str], out: Path, batch_rows: int) -> None:
    """The other choice: one shard at a time, all cores to TensorFlow's operations."""
    from transforms import device

    device.shards_in_flight = device.cores_with_a_shard = lambda: 1
    _featuretap(files, out, batch_rows)


def _plan(files: Sequence[str], out: Path, batch_rows: int) -> Any:
    from workload import config_text

    from pipeline.config_file import parse_config
    from pipeline.plan import make_plan

    source = f'reader = "tfrecord"\npath = {list(files)}\nkeep = ["label"]\n'
    source += 'features = { image = "bytes", id = "int64", label = "int64" }'
    model = f'path = "{DATA / "cnn.keras"}"\nbatch_rows = {batch_rows}'
    text = config_text(source, model, f'path = "{out}"')
    return make_plan(parse_config(tomllib.loads(text)))


def _stock_beam(files: Sequence[str], out: Path, batch_rows: int) -> None:
    """Chain ReadAllFromTFRecord, parse, RunInference, WriteToParquet, as usual."""
    import apache_beam as beam
    import numpy as np
    import pyarrow as pa
    import tensorflow as tf
    from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
    from apache_beam.ml.inference.tensorflow_inference import TFModelHandlerNumpy
    from workload import submodel

    def parse(record: bytes) -> tuple[tuple[int, int], Any]:
        feature = tf.train.Example.FromString(record).features.feature
        image = np.frombuffer(feature["image"].bytes_list.value[0], np.uint8)
        scaled = image.reshape(28, 28, 1).astype(np.float32) / 255
        return (
            feature["id"].int64_list.value[0],
            feature["label"].int64_list.value[0],
        ), scaled

    def to_row(element: Any) -> dict[str, Any]:
        (number, label), result = element
        columns = {tap: result.inference[tap].numpy() for tap in TAPS}
        return {"example_id": number, "label": label, **columns}

    class Handler(TFModelHandlerNumpy):
        def load_model(self) -> Any:
            return submodel()

    handler = KeyedModelHandler(
        Handler("unused", min_batch_size=batch_rows, max_batch_size=batch_rows)
    )
    fields = [("example_id", pa.int64()), ("label", pa.int64())]
    fields += [(tap, pa.list_(pa.float32())) for tap in TAPS]
    out.mkdir(parents=True)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(list(files))
            | beam.io.ReadAllFromTFRecord()
            | beam.Map(parse)
            | RunInference(handler)
            | beam.Map(to_row)
            | beam.io.WriteToParquet(str(out / "part"), pa.schema(fields))
        )


def _bare_loop(files: Sequence[str], out: Path, batch_rows: int) -> None:
    """A loop that an engineer would write: tf.data, a compiled function, a writer."""
    from workload import compile_taps

    out.mkdir(parents=True)
    function = compile_taps()
    with _writer(out / "part.parquet") as writer:
        for number, label, image in _dataset(files, batch_rows):
            columns = [c.numpy() for c in function(image)]
            writer.write_batch(_record_batch(number.numpy(), label.numpy(), columns))


def _parts(files: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure reading, computing and writing alone: CPU microseconds a row."""
    import numpy as np
    import tensorflow as tf
    from workload import compile_taps

    function = compile_taps()
    few = files[: max(len(files) // 4, 1)]
    size = arguments.batch_rows
    number, label, image = next(iter(_dataset(few, size)))
    columns = [column.numpy() for column in function(image)]
    batch = _record_batch(number.numpy(), label.numpy(), columns)
    batches = max(len(few) * arguments.rows_per_file // size, 1)

    def read() -> None:
        for _ in _dataset(few, size):
            pass

    def compute() -> None:
        for _ in range(batches):
            for column in function(image):
                np.asarray(column)

    def write() -> None:
        with (
            tempfile.TemporaryDirectory(dir=HERE) as out,
            _writer(Path(out) / "part.parquet") as writer,
        ):
            for _ in range(batches):
                writer.write_batch(batch)

    rows = {"read": len(few) * arguments.rows_per_file}
    rows |= dict.fromkeys(("compute", "write"), batches * size)
    found: dict[str, Any] = {}
    for name, part in (("read", read), ("compute", compute), ("write", write)):
        part()
        costs = []
        for _ in range(arguments.repeats):
            cpu, wall = time.process_time(), time.perf_counter()
            part()
            costs.append((time.process_time() - cpu, time.perf_counter() - wall))
        cpu, wall = min(costs)
        found[name] = {
            "cpu_us_per_row": round(cpu / rows[name] * 1e6, 3),
            "wall_us_per_row": round(wall / rows[name] * 1e6, 3),
        }
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {**found, "intra_op_threads": threads}


def _dataset(files: Sequence[str], batch_rows: int) -> Any:
    import tensorflow as tf

    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "id": tf.io.FixedLenFeature([], tf.int64),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(records: Any) -> Any:
        parsed = tf.io.parse_example(records, spec)
        pixels = tf.reshape(
            tf.io.decode_raw(parsed["image"], tf.uint8), [-1, 28, 28, 1]
        )
        image = tf.cast(pixels, tf.float32) * (1 / 255)
        return parsed["id"], parsed["label"], image

    records = tf.data.TFRecordDataset(list(files), buffer_size=8 << 20)
    batches = records.batch(batch_rows).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def _writer(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(
        path,
        _schema(),
        compression="zstd",
        compression_level=1,
        use_dictionary=["label"],
        write_statistics=["example_id", "label"],
        write_page_checksum=True,
    )


def _schema() -> Any:
    import pyarrow as pa

    vector = pa.list_(pa.field("element", pa.float32(), nullable=False))
    scalars = [pa.field(n, pa.int64(), nullable=False) for n in ("example_id", "label")]
    return pa.schema([*scalars, *(pa.field(t, vector, nullable=False) for t in TAPS)])


def _record_batch(number: Any, label: Any, columns: Sequence[Any]) -> Any:
    import numpy as np
    import pyarrow as pa

    arrays = [pa.array(number), pa.array(label)]
    for field, values in zip(list(_schema())[2:], columns, strict=True):
        rows, width = values.shape
        offsets = pa.array(np.arange(0, (rows + 1) * width, width, dtype=np.int32))
        flat = pa.array(values.reshape(-1))
        arrays.append(pa.ListArray.from_arrays(offsets, flat, type=field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=_schema())


def _report(found: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    parts = [
        found["parts"][name]["cpu_us_per_row"] for name in ("read", "compute", "write")
    ]
    limit = cores / sum(parts) * 1e6
    rate = found["featuretap"]["rows_per_second"]
    return {
        "machine": {
            "processor": processor(),
            "cores": cores,
            "python": platform.python_version(),
        },
        "batch_rows": arguments.batch_rows,
        "limit_rows_per_second": round(limit),
        "featuretap_to_limit": round(rate / limit, 3),
        **{
            f"featuretap_to_{name}": round(rate / found[name]["rows_per_second"], 2)
            for name in CONTESTANTS[1:-1]
        },
        "contestants": found,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (x.partition(": ")[2] for x in lines if x.startswith("model name")), "?"
    )


def _table(report: dict[str, Any]) -> str:
    lines = [f"{'':<16}{'rows/s':>10}{'fixed s':>10}"]
    for name in CONTESTANTS[:-1]:
        found = report["contestants"][name]
        lines.append(
            f"{name:<16}{found['rows_per_second']:>10}{found['fixed_seconds']:>10}"
        )
    lines.append(f"{'limit':<16}{report['limit_rows_per_second']:>10}")
    lines += [f"{key}: {report[key]}" for key in report if "_to_" in key]
    return "\n".join(lines)


_RUNS: dict[str, Callable[[Sequence[str], Path, int], None]] = {
    "featuretap": _featuretap,
    "no_statistics": _no_statistics,
    "one_in_flight": _one_in_flight,
    "bare_loop": _bare_loop,
    "stock_beam": _stock_beam,
}

if __name__ == "__main__":
    main()
