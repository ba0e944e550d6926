"""Whoever reads tables: each snippet of docs/table-format.md, and `read_features`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from conftest import Job, stacked, vectors

from pipeline import iter_features, read_features, run_plan
from transforms.lookup import ConfigError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "table-format.md").read_text()
SNIPPETS = {
    block.partition("\n")[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}
NAMES = ["pyarrow", "pandas", "polars", "duckdb", "dask", "datasets", "spark", "numpy"]
ROWS = 300
BAD = 7


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished table of several parts, with bad rows and nulls, at out/features."""
    root = tmp_path_factory.mktemp("reading")
    values = np.random.default_rng(0).random((ROWS + BAD, 6), np.float32) + 0.1
    values[::50] *= -1  # which the model refuses
    table = pa.table(
        {
            "id": list(range(1000, 1000 + ROWS + BAD)),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6),
            "label": [None if i % 4 == 1 else i % 10 for i in range(ROWS + BAD)],
        }
    )
    pq.write_table(table, root / "rows.parquet", row_group_size=40)
    job = Job(root, {"reader": "parquet", "path": str(root / "rows.parquet")})
    plan = job.plan(
        source={"keep": ["label"]},
        model={"build": "toolbox:picky_model"},
        taps=[{"path": "head", "column": "texture"}],
        table={"path": str(root / "out" / "features"), "rows_per_part": 64},
        errors={"max_fraction": 0.1},
    )
    assert run_plan(plan)["rows"] == ROWS
    return root


def expected(root: Path) -> pa.Table:
    """The rows, part by part."""
    parts = sorted((root / "out" / "features" / "data").iterdir())
    return pa.concat_tables(pq.ParquetFile(part).read() for part in parts)


def test_there_is_a_snippet_for_each_reader() -> None:
    assert list(SNIPPETS) == NAMES


def run_snippet(name: str) -> tuple[int, list[float]]:
    found: dict[str, Any] = {}
    exec(SNIPPETS[name], found)
    return found["rows"], [float(value) for value in found["vector"]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "spark"])
def test_a_snippet_reads_the_table_as_it_stands(
    name: str, features: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(features)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    rows, vector = run_snippet(name)
    assert rows == ROWS
    assert vector == expected(features)["texture"][0].as_py()


def columns_of(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {
        "example_id": frame["example_id"].tolist(),
        "label": [None if pd.isna(one) else int(one) for one in frame["label"]],
        "texture": [list(map(float, one)) for one in frame["texture"]],
    }


def with_datasets(path: str) -> dict[str, list[Any]]:
    cache = Path(path).parents[2] / "cache"
    files = {"train": path if "*" in path else f"{path}/*.parquet"}
    found = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(cache)
    )
    return {name: found[name][:] for name in ("example_id", "label", "texture")}


Read = Callable[[str], dict[str, list[Any]]]
READERS: dict[str, tuple[Read, list[str]]] = {
    "pyarrow": (
        lambda path: ds.dataset(path).to_table().to_pydict(),
        ["data", ""],
    ),
    "pyarrow.parquet": (lambda path: pq.read_table(path).to_pydict(), ["data", ""]),
    "pandas": (lambda path: columns_of(pd.read_parquet(path)), ["data", ""]),
    "polars": (
        lambda path: pl.read_parquet(path).to_dict(as_series=False),
        ["data", "data/*.parquet"],
    ),
    "duckdb": (
        lambda path: columns_of(duckdb.sql(f"select * from '{path}'").df()),
        ["data/*.parquet"],
    ),
    "dask": (
        lambda path: columns_of(dd.read_parquet(path).compute()),
        ["data", "data/*.parquet"],
    ),
    "datasets": (with_datasets, ["data", "data/*.parquet"]),
}
CASES = [(name, path) for name, (_, paths) in READERS.items() for path in paths]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "path"), CASES)
def test_a_reader_gets_every_row_and_value(
    name: str, path: str, features: Path
) -> None:
    read, _ = READERS[name]
    found = read(str(features / "out" / "features" / path).rstrip("/"))
    wanted = expected(features)
    order = np.argsort(found["example_id"], kind="stable")
    assert len(order) == ROWS
    for column in ("example_id", "label", "texture"):
        values = [found[column][i] for i in order]
        assert values == wanted[column].to_pylist(), column


# In a process of its own, which the Java machine ends with.
WITH_SPARK = """
import json
{snippet}
found = [row.asDict() for row in frame.collect()]
print(json.dumps({{"rows": rows, "vector": vector, "found": found}}))
"""


@pytest.mark.heavy
def test_spark_reads_the_table_as_it_stands(features: Path) -> None:
    if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
        assert not os.environ.get("REQUIRE_ENGINES"), "pyspark and Java must be here"
        pytest.skip("needs pyspark and Java")
    result = subprocess.run(
        [sys.executable, "-c", WITH_SPARK.format(snippet=SNIPPETS["spark"])],
        cwd=features,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout.splitlines()[-1])
    wanted = expected(features)
    assert document["rows"] == ROWS
    assert document["vector"] == wanted["texture"][0].as_py()
    by_key = sorted(document["found"], key=lambda row: row["example_id"])
    for column in ("example_id", "label", "texture"):
        assert [row[column] for row in by_key] == wanted[column].to_pylist()


def test_features_are_a_matrix_with_its_keys(features: Path) -> None:
    table = str(features / "out" / "features")
    keys, matrix = read_features(table, "texture")
    wanted = expected(features)
    assert keys.equals(wanted["example_id"])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, stacked(wanted["texture"]))


def test_chunks_are_views_of_what_arrow_has_read(features: Path) -> None:
    table = str(features / "out" / "features")
    chunks = list(iter_features(table, "texture"))
    assert len(chunks) == len([*(Path(table) / "data").iterdir()])
    for keys, values in chunks:
        assert len(keys) == len(values)
        assert not values.flags.owndata
        assert not values.flags.writeable
    whole = read_features(table, "texture")
    np.testing.assert_array_equal(
        np.concatenate([values for _, values in chunks]), whole.values
    )
    assert [key for keys, _ in chunks for key in keys.to_pylist()] == (
        whole.keys.to_pylist()
    )


def test_scalars_and_flags_have_their_types(job: Job) -> None:
    job.run(model={"build": "architectures:everything"}, taps=[{"path": "every:*"}])
    table = pq.read_table(job.table)
    for column, dtype in (
        ("every_scalar", np.float32),
        ("every_flag", np.bool_),
        ("every_whole", np.int32),
    ):
        keys, values = read_features(str(job.table), column)
        assert keys.equals(table["example_id"])
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, np.array(table[column].to_pylist()))


def test_tensors_have_their_shape_back(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((10, 8, 8, 1), np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), 64)
    pq.write_table(
        pa.table({"id": [*range(10)], "image": flat}), tmp_path / "i.parquet"
    )
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    reshape = {"step": "reshape", "feature": "image", "shape": [8, 8, 1]}
    table = job.run(
        source={"preprocess": [reshape]},
        model={"build": "toolbox:image_model"},
        taps=[{"path": "conv"}],
    )
    _, values = read_features(str(job.table), "conv")
    assert values.shape == (10, 6, 6, 4)
    np.testing.assert_array_equal(values.reshape(10, -1), stacked(table["conv"]))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("hiden", r"no column 'hiden'; nearest is 'hidden'"),
        ("text", r"'text' must hold numbers of one shape .* holds string \[\]"),
    ],
)
def test_what_is_no_matrix_is_refused_by_name(
    column: str, message: str, tmp_path: Path
) -> None:
    table = pa.table(
        {
            "id": list(range(20)),
            "id2": list(range(20)),
            "text": [f"row {i}" for i in range(20)],
            "vec": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors(20).reshape(-1)), 6
            ),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    job.run(source={"keep": ["text", "id2"]})
    assert read_features(str(job.table), "id2").values.tolist() == [*range(20)]
    with pytest.raises(ValueError, match=message):
        read_features(str(job.table), column)
    with pytest.raises(ValueError, match=message):
        iter_features(str(job.table), column)


def test_a_column_that_may_be_null_is_a_matrix_as_long_as_it_is_not(
    features: Path,
) -> None:
    with pytest.raises(
        ValueError, match="'label' has nulls, for which a matrix has no"
    ):
        read_features(str(features / "out" / "features"), "label")


def test_a_table_that_is_not_finished_is_not_read(job: Job) -> None:
    job.run()
    (job.table / "_SUCCESS").unlink()
    with pytest.raises(FileNotFoundError, match="must be finished to be read"):
        read_features(str(job.table), "hidden")


def test_features_come_from_any_filesystem_and_only_those_of_the_manifest(
    job: Job,
) -> None:
    job.run()
    part = sorted((job.table / "data").iterdir())[0]
    shutil.copy(part, job.table / "data" / "part-copy.parquet")
    here = read_features(str(job.table), "hidden")
    assert here.values.shape == (100, 4)
    uri = "memory://reading/t"
    run_plan(job.plan(table={"path": uri}))
    there = read_features(uri, "hidden")
    assert there.keys.equals(here.keys)
    np.testing.assert_array_equal(there.values, here.values)


def test_a_table_of_another_format_is_not_read(job: Job) -> None:
    job.run()
    config = job.table / "_featuretap" / "config.json"
    text = config.read_text().replace('"format_version": 2', '"format_version": 3')
    config.write_text(text)
    with pytest.raises(ConfigError, match="has format 3; use a newer featuretap"):
        read_features(str(job.table), "hidden")
