"""The examples of docs/sources.md, run as they stand."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from readers import CASES, ROWS

from pipeline import make_plan, run_plan
from pipeline.config_file import parse_config
from transforms.preprocess.steps import PREPROCESSORS
from transforms.sources.readers import READERS

PAGE = Path(__file__).parents[1] / "docs" / "sources.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)


def write_tokens(directory: Path) -> None:
    rows = [{"id": i, "tokens": list(range(1, i % 17))} for i in range(ROWS)]
    text = "\n".join(json.dumps(row) for row in rows)
    (directory / "rows.jsonl").write_text(text)


def write_holes(directory: Path) -> None:
    """JSON Lines that lack a value here and there."""
    rows: list[dict[str, Any]] = [
        {"id": i, "vec": [0.5, None, 1.0, 1.5, None, i]} for i in range(ROWS)
    ]
    rows[3] = {"id": 3, "group": 7}
    text = "\n".join(map(json.dumps, rows))
    (directory / "rows.jsonl").write_text(text)


WRITERS: dict[str, Callable[[Path], None]] = {
    "tfds": CASES["tfds, tfrecord"].write,
    "tfrecord": CASES["tfrecord"].write,
    "array_record": CASES["array_record"].write,
    "parquet": CASES["parquet"].write,
    "partitions": CASES["parquet, partitions"].write,
    "images": CASES["images"].write,
    "webdataset": CASES["webdataset"].write,
    "csv": CASES["csv"].write,
    "jsonl": CASES["jsonl"].write,
    "npz": CASES["numpy"].write,
    "npy": CASES["numpy, a file each"].write,
    "audio": CASES["audio"].write,
    "windows": CASES["audio, windows"].write,
    "user": CASES["user"].write,
    "tokens": write_tokens,
    "holes": write_holes,
}
# rows where it is not all of them
ROWS_LEFT = {"train[:50%]": 70, "even_split": 34, "filter": 45, "tokens": ROWS}
INPUTS = {"webdataset": "vec.bin", "images": "image", "audio": "waveform"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_it_stands(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (name,) = set(re.findall(r"data/(\w+)", example))
    (tmp_path / "data" / name).mkdir(parents=True)
    WRITERS[name](tmp_path / "data" / name)
    document: dict[str, Any] = tomllib.loads(example)
    feature = INPUTS.get(document["source"]["reader"], "vec")
    document.setdefault(
        "model", {"build": "toolbox:dict_model", "inputs": {"vec": feature}}
    )
    document.setdefault("taps", [{"path": "stem"}])
    document["table"] = {"path": "out/table"}
    run_plan(make_plan(parse_config(document)))
    table = pq.read_table("out/table")
    rows = [count for mark, count in ROWS_LEFT.items() if mark in example]
    assert len(table) == (rows[0] if rows else ROWS)
    for kept in document["source"].get("keep", []):
        assert kept in table.column_names


def test_every_reader_and_step_is_documented() -> None:
    text = PAGE.read_text()
    readers = {tomllib.loads(one)["source"]["reader"] for one in EXAMPLES}
    assert readers == {*READERS, "toolbox:VectorReader"}
    for name in PREPROCESSORS:
        assert re.search(rf"\| [^|]*`{name}`", text), name
