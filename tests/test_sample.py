"""Samples of tables: which rows, and what stores that hold samples promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, stacked
from hypothesis import given
from hypothesis import strategies as st
from test_publication import Memory
from typer.testing import CliRunner

from pipeline import publish_table
from pipeline.cli import app
from pipeline.health.spectrum import principal_components
from pipeline.publish.atlas import neighbours
from pipeline.publish.finished import FinishedTable
from pipeline.publish.publish import publications
from pipeline.publish.sample import smallest_hashes
from transforms.column_names import KEY
from transforms.lookup import ConfigError
from transforms.statistics.collect import sample_hashes


class Some(Memory):
    """Holds a sample."""

    sample = 10

    def write(self, table: FinishedTable) -> None:
        rows = smallest_hashes(table.batches(table.columns.compared()), self.sample)
        self.places[self._place] = (table.properties, rows)


class Wrong(Some):
    """Holds as many rows, but others."""

    def write(self, table: FinishedTable) -> None:
        rows = next(table.batches(table.columns.compared())).slice(0, self.sample)
        self.places[self._place] = (table.properties, rows)


@pytest.fixture(autouse=True)
def _empty() -> None:
    Memory.places.clear()


@given(
    keys=st.lists(st.integers(0, 2**63 - 1), unique=True, min_size=1, max_size=60),
    rows=st.integers(1, 70),
    cut=st.integers(1, 60),
    text=st.booleans(),
)
def test_a_sample_is_of_the_smallest_hashes_however_a_table_is_cut(
    keys: list[int], rows: int, cut: int, text: bool
) -> None:
    kind = pa.string() if text else pa.int64()
    table = pa.table({KEY: pa.array(keys).cast(kind), "place": range(len(keys))})
    pieces = [table.slice(start, cut) for start in range(0, len(table), cut)]
    found = smallest_hashes(pieces, rows)
    hashes = sample_hashes(table[KEY].combine_chunks())
    expected = sorted(zip(hashes.tolist(), table[KEY].to_pylist(), strict=True))
    assert found[KEY].to_pylist() == [key for _, key in expected[:rows]]
    assert found.column_names == table.column_names
    assert table[KEY].take(found["place"]).equals(found[KEY])
    smaller = smallest_hashes(reversed(pieces), max(1, rows - 3))
    assert smaller.equals(found.slice(0, len(smaller)))


def test_a_target_that_holds_a_sample_is_compared_with_it(job: Job) -> None:
    job.run()
    done = publish_table(str(job.table), "test_sample:Some")
    assert (done.rows, done.sample_of, done.sampled) == (10, 100, 8)
    (note,) = publications(str(job.table))
    assert note["sample_of"] == 100
    call = ["publish", str(job.table), "--list"]
    said = CliRunner().invoke(app, call).output
    assert "10 of 100 rows and 8 sampled vectors read back" in said
    whole = publish_table(str(job.table), "test_publication:Memory", {"place": "b"})
    assert whole.sample_of is None
    with pytest.raises(RuntimeError, match="must hold the rows of"):
        publish_table(str(job.table), "test_sample:Wrong", {"place": "c"})


def labels(directory: Path) -> list[list[str]]:
    """The table of labels, its names first."""
    (file,) = directory.glob("labels-*.tsv")
    return [line.split("\t") for line in file.read_text().split("\n")[:-1]]


def tensor(directory: Path, column: str) -> np.ndarray:
    """The vectors of a column."""
    (file,) = directory.glob(f"vectors-{column}-*.tsv")
    return np.loadtxt(file, np.float32, delimiter="\t", ndmin=2)


def test_the_projector_has_a_line_for_each_row_of_a_sample(job: Job) -> None:
    table = job.run(source={"keep": ["text"]})
    path = job.directory / "projector"
    done = publish_table(str(job.table), "projector", {"path": str(path), "rows": 30})
    assert (done.rows, done.sample_of, done.sampled) == (30, 100, 8)
    config = (path / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 2
    assert "  tensor_shape: 30\n  tensor_shape: 4\n" in config
    expected = smallest_hashes([table], 30)
    names, *rows = labels(path)
    assert names == [KEY, "text"]
    assert rows == [[str(i), f"row {i}"] for i in expected[KEY].to_pylist()]
    for name in ("hidden", "head"):
        assert np.array_equal(tensor(path, name), stacked(expected[name]))


def test_the_projector_takes_one_column_and_no_names_of_one_label(job: Job) -> None:
    job.run()
    path = job.directory / "projector"
    options = {"path": str(path), "column": "head"}
    assert publish_table(str(job.table), "projector", options).sample_of is None
    assert len(labels(path)) == 100  # the key alone
    assert [file.name.split("-")[1] for file in path.glob("vectors-*")] == ["head"]
    options["column"] = "hidden"  # in place of the other, whose files go
    assert not publish_table(str(job.table), "projector", options).was_there
    assert publish_table(str(job.table), "projector", options).was_there
    assert [file.name.split("-")[1] for file in path.glob("vectors-*")] == ["hidden"]
    with pytest.raises(ConfigError, match="nearest is 'head'"):
        publish_table(str(job.table), "projector", {"column": "heat"})


def test_text_of_labels_keeps_its_lines_together(job: Job) -> None:
    """Keys with tabs, line ends, quotes and backslashes are read back as they are."""
    odd = ["a\tb", "c\nd", 'e"f', "g\\h\r\n", "\\t", "ü\u2028", "plain"]
    data = job.directory / "odd.parquet"
    rows = {"id": odd, "vec": [[float(i)] * 6 for i in range(len(odd))], "text": odd}
    pq.write_table(pa.table(rows), data)
    job.run(source={"path": str(data), "keep": ["text"]})
    path = job.directory / "projector"
    assert publish_table(str(job.table), "projector", {"path": str(path)}).rows == 7
    assert {row[1] for row in labels(path)} >= {"a\\tb", "c\\nd", 'e"f', "\\\\t"}


@pytest.mark.parametrize("target", ["projector", "atlas"])
def test_a_sample_has_at_least_one_row(job: Job, target: str) -> None:
    job.run()
    with pytest.raises(ConfigError, match=rf"{target}\.rows must be at least 1, got 0"):
        publish_table(str(job.table), target, {"rows": 0})


def test_the_atlas_has_coordinates_and_neighbours(job: Job) -> None:
    table = job.run(source={"keep": ["text"]})
    path = job.directory / "atlas.parquet"
    options = {"path": str(path), "column": "hidden", "rows": 40}
    assert publish_table(str(job.table), "atlas", options).sample_of == 100
    found = pq.read_table(path)
    assert found.column_names == [KEY, "text", "hidden", "x", "y", "neighbors"]
    expected = smallest_hashes([table], 40)
    assert found[KEY].equals(expected[KEY])
    vectors = stacked(expected["hidden"]).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    for row, near in enumerate(found["neighbors"].to_pylist()):
        assert row not in near["ids"]
        assert len(set(near["ids"])) == 15
        nearest = np.sort(cosine[row])[::-1][:15]
        assert np.allclose(1 - np.array(near["distances"]), nearest, atol=1e-6)
        assert np.allclose(cosine[row][near["ids"]], nearest, atol=1e-6)
    fingerprint = json.loads(Path(job.table, "_SUCCESS").read_text())["fingerprint"]
    assert found.schema.metadata[b"featuretap.fingerprint"].decode() == fingerprint


def test_rows_that_are_not_finite_have_no_place_in_the_atlas(job: Job) -> None:
    vec = np.random.default_rng(1).random((5, 6), np.float32)
    vec[2] = np.nan
    data = job.directory / "nan.parquet"
    pq.write_table(pa.table({"id": range(5), "vec": list(vec)}), data)
    job.run(source={"path": str(data)}, taps=[{"path": "stem"}])
    path = job.directory / "atlas.parquet"
    publish_table(str(job.table), "atlas", {"path": str(path)})
    found = {row[KEY]: row for row in pq.read_table(path).to_pylist()}
    assert (found[2]["x"], found[2]["y"]) == (None, None)
    assert found[2]["neighbors"] == {"ids": [], "distances": []}
    places = list(found)
    for key in (0, 1, 3, 4):
        ids = found[key]["neighbors"]["ids"]
        assert {places[i] for i in ids} == {0, 1, 3, 4} - {key}


@pytest.mark.parametrize("shape", [(50, 6), (6, 50), (6, 6), (3, 1), (1, 4), (0, 3)])
def test_coordinates_are_the_first_principal_components(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    at = principal_components(vectors + 100).scores
    assert at.shape == (shape[0], 2)
    centred = vectors - vectors.mean(axis=0) if len(vectors) else vectors
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    expected = np.zeros((shape[0], 2))
    expected[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    assert np.allclose(np.abs(at), np.abs(expected), atol=1e-6)
    if shape[0] > 1:
        farthest = np.abs(at).argmax(axis=0)
        assert (at[farthest, [0, 1]] >= 0).all()


def test_neighbours_of_few_rows_and_of_zeros() -> None:
    one = neighbours(np.ones((1, 3)), np.array([0]), 15)
    assert one.to_pylist() == [{"ids": [], "distances": []}]
    some = neighbours(np.array([[0.0, 0], [1, 0], [2, 0]]), np.arange(3), 1)
    assert some.to_pylist() == [
        {"ids": [1], "distances": [1.0]},
        {"ids": [2], "distances": [0.0]},
        {"ids": [1], "distances": [0.0]},
    ]


def test_columns_that_the_atlas_adds_are_not_kept(job: Job) -> None:
    data = job.directory / "x.parquet"
    rows = {"id": range(3), "vec": [[1.0] * 6] * 3, "x": [1, 2, 3]}
    pq.write_table(pa.table(rows), data)
    job.run(source={"path": str(data), "keep": ["x"]}, taps=[{"path": "head"}])
    with pytest.raises(
        ConfigError, match=r"has columns x, y, neighbors of its own, got x"
    ):
        publish_table(str(job.table), "atlas")


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("atlas", {}, r"target atlas\.column must name a column of vectors, got none"),
        ("projector", {"column": "heat"}, "nearest is 'head'"),
        ("projector", {"rows": 0}, r"projector\.rows must be at least 1"),
    ],
)
def test_a_plan_refuses_what_cannot_be_shown(
    job: Job, target: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^publish\.{target}: .*{said}"):
        job.plan(publish={target: options})
