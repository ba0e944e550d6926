"""What no store takes is refused when a run is planned, before anything is computed.

Heavy tests, which need the extra `hand-off`. With REQUIRE_HAND_OFF set they fail where
they would be skipped.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import vectors
from places import need_stores
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.publish.columns import Columns
from pipeline.publish.target import make_target
from transforms.lookup import ConfigError
from transforms.table.columns import Column

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
CONFIG = """
taps = [{ path = "features:activation_1", column = "hidden" }, { path = "head" }]
[source]
reader = "parquet"
path = "rows.parquet"
[model]
build = "toolbox:dict_model"
[table]
path = "out/features"
"""
ODD = 'source.keep=["pixels"]'


@pytest.fixture(autouse=True)
def _stores() -> None:
    need_stores()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    rows = {
        "vec": vectors(4).tolist(),
        "pixels": pa.array([[1, 200]] * 4, pa.list_(pa.uint8())),
        "text": ["a"] * 4,
        "count": pa.array([1] * 4, pa.uint64()),
    }
    pq.write_table(pa.table(rows), "rows.parquet")
    Path("job.toml").write_text(CONFIG)
    return "job.toml"


@pytest.mark.parametrize(
    ("target", "settings", "said"),
    [
        ("delta", [ODD], "Delta has no unsigned numbers and no float16, got pixels"),
        ("iceberg", [ODD, 'publish.iceberg.name="a.b"'], "Iceberg has no unsigned"),
        (
            "iceberg",
            ['publish.iceberg.name="a.b"', 'source.keep={ _pos = "text" }'],
            "Iceberg keeps some names of columns for itself, got _pos (string [])",
        ),
        ("faiss", ['publish.faiss.column="heat"'], "got 'heat'; nearest is 'head'"),
        ("qdrant", [], "target qdrant.column must name a column of vectors, got none"),
        ("lance", ['source.keep={ _distance = "text" }'], "got _distance"),
        ("pgvector", ['source.keep={ ctid = "text" }'], "got ctid"),
        (
            "pgvector",
            [f'source.keep={{ {"long" * 20} = "text" }}'],
            "Postgres takes names of at most 63 bytes, got longlong",
        ),
        ("feast", [], "Feast needs the time of each row, the table has none"),
        (
            "feast",
            ['source.keep=["count"]', 'table.event_timestamp="2026-01-01T00:00:00Z"'],
            "Feast has no type for some columns, got count (uint64 [])",
        ),
        (
            "feast",
            [
                'publish.feast.online="milvus"',
                'source.keep={ event_ts = "text" }',
                'table.event_timestamp="2026-01-01T00:00:00Z"',
            ],
            "Feast's Milvus keeps some names of columns for itself, got event_ts",
        ),
        ("huggingface", ["publish.huggingface.license=3"], "license"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_plan_for_a_target_that_cannot_be_is_refused(
    config: str, command: str, target: str, settings: list[str], said: str
) -> None:
    arguments = [command, config, "--set", f'publish.{target}.to="{target}"']
    for setting in settings:
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert f"publish.{target}: " in result.output
    assert said in " ".join(result.output.split())
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("target", "options", "width"),
    [
        ("pgvector", {}, 16_000),
        ("pgvector", {"index": "l2"}, 2_000),
        ("qdrant", {}, 65_536),
    ],
)
def test_vectors_have_their_longest(
    target: str, options: dict[str, str], width: int, tmp_path: Path
) -> None:
    made = make_target(str(tmp_path / "table"), target, options)
    key = Column("example_id", "key", "string")
    made.check(Columns((key, Column("a", "feature", "float32", (width,)))))
    with pytest.raises(ConfigError, match=rf"at most {width} values.*a \(float32 \["):
        made.check(Columns((key, Column("a", "feature", "float32", (width + 1,)))))


def test_half_floats_are_refused_by_name(tmp_path: Path) -> None:
    made = make_target(str(tmp_path / "table"), "delta", {})
    key = Column("example_id", "key", "string")
    halves = Column("halves", "keep", "float16", (2,))
    with pytest.raises(ConfigError, match=r"no float16, got halves \(float16 \[2\]\)"):
        made.check(Columns((key, halves)))
