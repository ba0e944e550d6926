"""Rows that differ in length: into the model, and into the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toolbox
from conftest import Job, parity_of

from transforms.lookup import ConfigError

LENGTHS = [3, 0, 8, 1, 16, 5, 9, 2, 12, 4]
ROWS = 60


def tokens(row: int) -> list[int]:
    return [(7 * row + i) % 49 + 1 for i in range(LENGTHS[row % len(LENGTHS)])]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows with tokens of 0 to 16, and words."""
    path = tmp_path / "data"
    path.mkdir()
    rows = [
        {
            "id": i,
            "tokens": tokens(i),
            "words": [" Ab", "cd", "x"][: i % 4],
            "half": [0.5 * n for n in tokens(i)],
        }
        for i in range(ROWS)
    ]
    for part in range(2):
        lines = [json.dumps(row) for row in rows[part * 30 : part * 30 + 30]]
        (path / f"{part}.jsonl").write_text("\n".join(lines))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, path / "rows.parquet", row_group_size=25)
    return path


PAD = {"step": "pad", "feature": "tokens", "lengths": [4, 8, 16], "mask": "mask"}


def config(**model: Any) -> dict[str, Any]:
    return {
        "source": {"preprocess": [PAD]},
        "model": {"build": "toolbox:token_model", "batch_rows": 16, **model},
        "taps": [{"path": "pooled"}, {"path": "hidden"}],
    }


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_a_row_is_computed_at_its_own_length_whatever_its_company(
    reader: str, data: Path, tmp_path: Path
) -> None:
    source = {"reader": reader, "path": str(data / f"*.{reader}")}
    toolbox.SEEN_SHAPES.clear()
    table = Job(tmp_path / "a", source).run(**config()).sort_by("example_id")
    seen = {shape for shape in toolbox.SEEN_SHAPES if shape[0] == 16}  # of the run
    assert seen == {(16, 4), (16, 8), (16, 16)}
    model = toolbox.token_model()
    for row in range(ROWS):
        own = tokens(row)
        length = min(n for n in (4, 8, 16) if n >= len(own))
        filled = np.array([own + [0] * (length - len(own))])
        mask = np.arange(length)[None] < len(own)
        pooled = np.asarray(model({"tokens": filled, "mask": mask}))[0]
        found = table["pooled"][row].as_py()
        np.testing.assert_allclose(found, pooled, atol=1e-6)
        assert table["hidden_shape"][row].as_py() == [length, 3]
        hidden = model.get_layer("hidden")(model.get_layer("embed")(filled))
        found = np.reshape(table["hidden"][row].as_py(), [length, 3])
        np.testing.assert_allclose(found, np.asarray(hidden)[0], atol=1e-6)
    other = Job(tmp_path / "b", source).run(
        **config(batch_rows=7), table={"rows_per_part": 9}
    )
    for column in ("pooled", "hidden"):
        one, two = (t.sort_by("example_id")[column].to_pylist() for t in (table, other))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert parity_of(str(tmp_path / "a" / "table"), 20).passed


def test_a_row_longer_than_all_lengths_is_bad(data: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "out", {"reader": "jsonl", "path": str(data / "*.jsonl")})
    pad = {**PAD, "lengths": [4, 12]}
    sections = {**config(), "source": {"preprocess": [pad]}}
    table = job.run(**sections, errors={"max_fraction": 0.2})
    long = {row for row in range(ROWS) if len(tokens(row)) == 16}
    assert set(table["example_id"].to_pylist()) == set(range(ROWS)) - long
    assert {error["row"] % 30 for error in job.errors()} == {row % 30 for row in long}
    assert "longer than all lengths 16 12" in job.errors()[0]["message"]


def test_a_bad_row_among_rows_of_many_lengths_is_alone(
    data: Path, tmp_path: Path
) -> None:
    first = (data / "0.jsonl").read_text().splitlines()
    first[7] = '{"id": 7, "tokens": ["x"]}'
    (data / "0.jsonl").write_text("\n".join(first))
    features = {"id": "int64", "tokens": {"dtype": "int64", "shape": [-1]}}
    source = {"reader": "jsonl", "path": str(data / "*.jsonl"), "features": features}
    job = Job(tmp_path / "out", source)
    table = job.run(**config(), errors={"max_fraction": 0.1})
    assert set(table["example_id"].to_pylist()) == set(range(ROWS)) - {7}
    shapes = dict(
        zip(
            table["example_id"].to_pylist(),
            table["hidden_shape"].to_pylist(),
            strict=True,
        )
    )
    for row, (length, _) in shapes.items():
        assert length == min(n for n in (4, 8, 16) if n >= len(tokens(row)))


def test_lengths_without_a_bound_are_refused(data: Path, tmp_path: Path) -> None:
    source = {"reader": "jsonl", "path": str(data / "*.jsonl")}
    job = Job(tmp_path / "out", source)
    sections = config(inputs={"mask": "tokens"})
    sections["source"] = {"preprocess": []}
    with pytest.raises(ConfigError, match=r'must have few shapes.*step = "pad"'):
        job.plan(**sections)


def test_text_of_differing_length_goes_into_the_model(
    data: Path, tmp_path: Path
) -> None:
    steps = [
        {"step": "lower", "feature": "words"},
        {"step": "strip", "feature": "words"},
        {"step": "pad", "feature": "words", "lengths": [2, 4]},
    ]
    job = Job(tmp_path / "out", {"reader": "jsonl", "path": str(data / "*.jsonl")})
    table = job.run(
        source={"preprocess": steps},
        model={"build": "toolbox:word_model"},
        taps=[{"path": "embed"}],
    ).sort_by("example_id")
    vectors = np.asarray(toolbox.word_model().get_layer("embed").embeddings)
    for row in range(ROWS):
        words = ["ab", "cd", "x"][: row % 4]
        words += [""] * ((2 if len(words) <= 2 else 4) - len(words))
        ids = [{"ab": 1, "cd": 2}.get(word, 0) for word in words]
        found = np.reshape(table["embed"][row].as_py(), [-1, 2])
        np.testing.assert_allclose(found, vectors[ids], atol=1e-6)
    assert parity_of(str(job.table), 20).passed


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_lists_of_differing_length_are_kept(
    reader: str, data: Path, tmp_path: Path
) -> None:
    source = {"reader": reader, "path": str(data / f"*.{reader}")}
    kept = ["tokens", "words", "half"]
    sections = config()
    sections["source"] = {**sections["source"], "keep": kept}
    job = Job(tmp_path / "out", source)
    table = job.run(**sections).sort_by("example_id")
    for row in range(ROWS):
        assert table["tokens"][row].as_py() == tokens(row)
        assert table["words"][row].as_py() == [" Ab", "cd", "x"][: row % 4]
        assert table["half"][row].as_py() == [0.5 * n for n in tokens(row)]
    # a step reads tokens: a null there would be a bad row
    assert [f.name for f in table.schema if f.nullable] == ["words", "half"]
    assert not any(column.null_count for column in table.columns)
