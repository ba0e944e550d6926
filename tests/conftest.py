"""Small real datasets, written once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from dataflow_api import dataflow
from jobs import whole, zygote
from readers import prepare_tfds

from pipeline import Plan, check_parity, make_plan, run_plan
from pipeline.config_file import parse_config
from pipeline.parity.certificate import Parity
from transforms.config import Config
from transforms.table.directory import Table
from transforms.table.plan_file import read_plan
from transforms.worker import Worker, worker_for

__all__ = ["dataflow", "whole", "zygote"]  # fixtures
ROWS = 100
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")


def vectors(rows: int = ROWS) -> np.ndarray:
    """float32 [rows, 6], positive."""
    return np.random.default_rng(0).random((rows, 6), np.float32) + 0.1


def write_tfrecord(
    path: Path,
    ids: Sequence[int],
    values: np.ndarray,
    *,
    compression: str = "",
    text: Callable[[int], bytes] = lambda i: f"row {i}".encode(),
) -> None:
    """Write id, vec and text."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for i in ids:
            feature = {
                "id": tf.train.Feature(int64_list=tf.train.Int64List(value=[i])),
                "vec": tf.train.Feature(float_list=tf.train.FloatList(value=values[i])),
                "text": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[text(i)])
                ),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def write_parquet(
    path: Path,
    ids: Sequence[int],
    values: np.ndarray,
    group: int,
    *,
    checksums: bool = False,
) -> None:
    """Write id, vec and text."""
    table = pa.table(
        {
            "id": pa.array(list(ids), pa.int64()),
            "vec": pa.FixedSizeListArray.from_arrays(
                pa.array(values[list(ids)].reshape(-1)), 6
            ),
            "text": [f"row {i}" for i in ids],
            "unused": [{"a": i} for i in ids],
        }
    )
    pq.write_table(table, path, row_group_size=group, write_page_checksum=checksums)


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let nothing stay in the system's temporary directory.

    What is killed in a test cannot tidy up: a TaskManager leaves each job's jar. The
    path is short, for sockets.
    """
    tmp_path_factory.getbasetemp()  # stays outside: pytest keeps what has failed
    with (
        tempfile.TemporaryDirectory(
            prefix="featuretap-", ignore_cleanup_errors=True
        ) as own,
        pytest.MonkeyPatch.context() as patch,
    ):
        Path(own).chmod(0o1777)  # for any user, as the system's
        patch.setenv("TMPDIR", own)
        patch.setattr(tempfile, "tempdir", own)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 100 rows as TFRecord, gzipped TFRecord, Parquet and TFDS."""
    root = tmp_path_factory.mktemp("data")
    values = vectors()
    for name in ("tfrecord", "gzip", "parquet"):
        (root / name).mkdir()
    for index, ids in enumerate((range(0, 30), range(30, 75), range(75, ROWS))):
        write_tfrecord(root / "tfrecord" / f"{index}.tfrecord", ids, values)
        write_tfrecord(
            root / "gzip" / f"{index}.tfrecord.gz", ids, values, compression="GZIP"
        )
        write_parquet(root / "parquet" / f"{index}.parquet", ids, values, 16)
    rows = [{"id": i, "vec": values[i], "text": f"row {i}"} for i in range(ROWS)]
    prepare_tfds(root / "tfds", rows)
    return root


@pytest.fixture
def sources(data: Path) -> dict[str, dict[str, Any]]:
    """A `[source]` for each reader, over the same rows."""
    return {
        "tfrecord": {
            "reader": "tfrecord",
            "path": str(data / "tfrecord" / "*.tfrecord"),
        },
        "gzip": {"reader": "tfrecord", "path": str(data / "gzip")},
        "parquet": {"reader": "parquet", "path": str(data / "parquet" / "*.parquet")},
        "tfds": {"reader": "tfds", "name": "vectors", "data_dir": str(data / "tfds")},
        "user": {"reader": "toolbox:CountingReader", "sizes": [30, 45, 25]},
    }


class Job:
    """Makes configs and runs them in a directory of their own."""

    def __init__(self, directory: Path, source: Mapping[str, Any]) -> None:
        self.directory = directory
        self.source = dict(source)

    def config(self, **sections: Any) -> Config:
        """A config, with sections updated or replaced."""
        document: dict[str, Any] = {
            "source": {**self.source, "key": "id"},
            "model": {"build": "toolbox:dict_model", "batch_rows": 16},
            "taps": [
                {"path": "features:activation_1", "column": "hidden"},
                {"path": "head"},
            ],
            "table": {"path": str(self.directory / "table"), "rows_per_part": 20},
        }
        for name, section in sections.items():
            if isinstance(section, dict):
                section = {**document.get(name, {}), **section}
            document[name] = section
        return parse_config(document)

    def plan(self, **sections: Any) -> Plan:
        """A plan."""
        return make_plan(self.config(**sections))

    def run(self, **sections: Any) -> pa.Table:
        """Run, and read the table back as anybody would."""
        plan = self.plan(**sections)
        run_plan(plan)
        return pq.read_table(plan.config.table.path)

    @property
    def table(self) -> Path:
        """Where the table is."""
        return self.directory / "table"

    def errors(self) -> list[dict[str, Any]]:
        """The quarantined rows."""
        return list(pq.read_table(self.table / "_featuretap" / "errors").to_pylist())


@pytest.fixture
def job(tmp_path: Path, sources: dict[str, dict[str, Any]]) -> Job:
    """A job over Parquet files."""
    return Job(tmp_path, sources["parquet"])


def worker_of(table: Path | str) -> Worker:
    """This process's worker for a table, whose own plan is trusted."""
    place = Table(str(table))
    return worker_for(place, read_plan(place).seal)


def parity_of(table: str, rows: int, seed: int = 0) -> Parity:
    """Check a table by its own config, which is trusted."""
    return check_parity(table, read_plan(Table(table)).config, rows, seed)


def stacked(column: pa.ChunkedArray) -> np.ndarray:
    """A vector column as an array [rows, width]."""
    return np.stack(column.to_numpy())
