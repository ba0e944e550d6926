"""Kept features and their columns: names of any alphabet, other names, and messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, vectors

from pipeline.config_file import parse_config
from transforms.column_names import is_column_name
from transforms.lookup import ConfigError


@pytest.fixture
def wide(tmp_path: Path) -> Job:
    """A job over a file with columns of many names and types."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors(4).reshape(-1)), 6)
    columns: dict[str, Any] = {
        "id": [1, 2, 3, 4],
        "vec": values,
        "标签": [5, 6, 7, 8],
        "Größe (cm)": [1.5] * 4,
        "Имя": ["a", "b", "c", "d"],
        "Label": ["x"] * 4,
        "label": ["y"] * 4,
        "image": [{"bytes": b"x", "path": "p"}] * 4,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return Job(tmp_path, {"reader": "parquet", "path": str(tmp_path / "a.parquet")})


def test_columns_keep_their_alphabet(wide: Job) -> None:
    table = wide.run(source={"keep": ["标签", "Größe (cm)", "Имя", "image/path"]})
    names = ["标签", "größe_cm", "имя", "image_path"]
    assert table.column_names[1:5] == names
    assert table["标签"].to_pylist() == [5, 6, 7, 8]
    assert table["image_path"].to_pylist() == ["p"] * 4
    assert all(map(is_column_name, names))


def test_columns_get_other_names(wide: Job) -> None:
    plan = wide.plan(source={"keep": {"first": "Label", "second": "label"}})
    kept = [(c.name, c.source) for c in plan.columns if c.role == "keep"]
    assert kept == [("first", "Label"), ("second", "label")]


def test_a_list_is_short_for_a_table(wide: Job) -> None:
    short = wide.plan(source={"keep": ["label", "Имя"]})
    long = wide.plan(source={"keep": {"label": "label", "имя": "Имя"}})
    assert short.fingerprint == long.fingerprint
    turned = wide.plan(source={"keep": {"имя": "Имя", "label": "label"}})
    assert turned.fingerprint != long.fingerprint


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (
            ["Label", "label"],
            "'Label' and 'label' would both be column 'label'; rename one: keep ="
            ' { label = "Label", label_2 = "label" }',
        ),
        ({"Label": "label"}, "columns in lower_snake, got 'Label'; 'label' would do"),
        ({"a b": "label"}, "columns in lower_snake, got 'a b'; 'a_b' would do"),
        (
            {"example_id": "label"},
            "must not use the names example_id, event_timestamp, got"
            " 'example_id'; set source.key or table.event_timestamp, or give the column"
            ' another name, as in keep = { example_id_ = "label" }',
        ),
        ({"hidden": "label"}, "column names must be unique, got 'hidden'"),
        (
            ["lable"],
            "must name a feature of the source, got 'lable'; nearest is",
        ),
        (
            ["image"],
            "'image' is there: it is a struct; name one of its fields: 'image/bytes',"
            " 'image/path'",
        ),
    ],
)
def test_what_cannot_be_kept_is_named(wide: Job, keep: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        wide.plan(source={"keep": keep})
    assert said in str(raised.value)


def test_a_step_on_a_struct_is_told_what_it_is(wide: Job) -> None:
    step = {"step": "decode_image", "feature": "image"}
    with pytest.raises(ConfigError, match="'image' is there: it is a struct"):
        wide.plan(source={"preprocess": [step]})


def test_one_text_is_a_list_of_one(wide: Job) -> None:
    assert wide.config(source={"keep": "label"}).source.keep == {"label": "label"}
    document = wide.config(source={"keep": "label"}).model_dump(mode="json")
    assert parse_config(document).source.keep == {"label": "label"}
