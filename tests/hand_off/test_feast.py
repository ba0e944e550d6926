"""The real Feast, in an environment of its own: apply, join, serve, search.

Heavy tests; FEAST names Feast's program. With REQUIRE_HAND_OFF set they fail where they
would be skipped.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, stacked, vectors
from typer.testing import CliRunner

from pipeline import make_plan, publish_table, run_plan
from pipeline.cli import app
from transforms.lookup import ConfigError

pytestmark = pytest.mark.heavy
FEAST = os.environ.get("FEAST", "")
DOCS = Path(__file__).parents[2] / "docs" / "stores.md"
USERS, DAYS = 40, 3
START = np.datetime64("2026-03-01T00:00:00", "us")
ASK = """
import json, sys
import pandas as pd
from feast import FeatureStore

store = FeatureStore(repo_path=sys.argv[1])
asked = json.loads(sys.argv[2])
"""
JOIN = """
frame = pd.DataFrame(asked)
frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
found = store.get_historical_features(
    entity_df=frame, features=["features:texture", "features:visit"]
).to_df().sort_values(["user_id", "event_timestamp"])
print(json.dumps([
    [row["user_id"], None, None] if pd.isna(row["visit"]) else
    [row["user_id"], int(row["visit"]), list(map(float, row["texture"]))]
    for row in found.to_dict("records")
]))
"""
SERVE = """
service = [s for s in store.list_feature_services()][0]
found = store.get_online_features(features=service, entity_rows=asked).to_dict()
print(json.dumps({"service": service.name, **found}))
"""
SEARCH = """
found = store.retrieve_online_documents_v2(
    features=["features:texture", "features:visit"], query=asked, top_k=1,
    distance_metric="COSINE",
).to_dict()
print(json.dumps({"visit": found["visit"]}))
"""


class Visits(Job):
    """A job over visits of users, one a day: an entity at several times."""

    def __init__(self, directory: Path, days: int = DAYS) -> None:
        self.data = directory / "data"
        self.data.mkdir()
        for day in range(days):
            self.arrive(day)
        source = {"reader": "parquet", "path": str(self.data)}
        super().__init__(directory, {**source, "keep": ["user_id", "visit"]})

    def arrive(self, day: int) -> None:
        """Let a day's visits come in."""
        rows = {
            "user_id": [f"u{i:02d}" for i in range(USERS)],
            "visit": pa.array([100 * day + i for i in range(USERS)], pa.int64()),
            "day": [START + np.timedelta64(day, "D")] * USERS,
            "vec": list(vectors(500)[USERS * day : USERS * (day + 1)]),
        }
        pq.write_table(pa.table(rows), self.data / f"{day}.parquet")

    def make(self, name: str, *earlier: str) -> str:
        """Make a table of what is there."""
        uri = str(self.directory / name)
        table = {"path": uri, "event_timestamp": "day", "entity": "user_id"}
        taps = [{"path": "head", "column": "texture"}]
        source = {**self.source, "key": None}
        run_plan(make_plan(self.config(table=table, taps=taps, source=source), earlier))
        return uri


@pytest.fixture
def visits(tmp_path: Path) -> Visits:
    if not FEAST and not os.environ.get("REQUIRE_HAND_OFF"):
        pytest.skip("FEAST must name Feast's program")
    return Visits(tmp_path)


def ask(repository: Path, script: str, asked: Any) -> Any:
    """Ask Feast's own Python something."""
    python = str(Path(FEAST).parent / "python")
    command = [python, "-c", ASK + script, str(repository), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def heads(uri: str) -> dict[tuple[str, int], list[float]]:
    """Vectors of a table by user and visit."""
    rows = pq.read_table(f"{uri}/data")
    names = zip(rows["user_id"].to_pylist(), rows["visit"].to_pylist(), strict=True)
    return dict(zip(names, stacked(rows["texture"]).tolist(), strict=True))


def test_from_table_to_online_features(
    visits: Visits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = visits.make("out/features")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feast").symlink_to(Path(FEAST).parent.parent)
    section = DOCS.read_text().partition("## Feast\n")[2].partition("\n## ")[0]
    (commands,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    for line in commands.splitlines():
        arguments = shlex.split(line.removeprefix("$ featuretap "))
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.output)
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    repository = tmp_path / "out" / "features-feast"
    shown = "print(json.dumps(vector))"
    vector = ask(repository, f"{script}{shown}", None)
    np.testing.assert_allclose(vector, heads(uri)["u07", 207], rtol=1e-6)
    again = {"command": "feast/bin/feast", "materialize": True}
    assert publish_table(uri, "feast", again).was_there
    (repository / "features.py").unlink()
    assert not publish_table(uri, "feast", again).was_there
    options = {"path": str(repository), "command": FEAST, "materialize": True}
    known = heads(uri)
    asked = [
        {"user_id": "u07", "event_timestamp": "2026-03-01T12:00:00Z"},
        {"user_id": "u07", "event_timestamp": "2026-03-02T00:00:00Z"},
        {"user_id": "u07", "event_timestamp": "2026-03-09T00:00:00Z"},
        {"user_id": "u08", "event_timestamp": "2026-02-01T00:00:00Z"},
        {"user_id": "nobody", "event_timestamp": "2026-03-09T00:00:00Z"},
    ]
    joined = ask(repository, JOIN, asked)
    assert [(user, visit) for user, visit, _ in joined] == [
        ("nobody", None),
        ("u07", 7),
        ("u07", 107),
        ("u07", 207),
        ("u08", None),
    ]
    for user, visit, head in joined:
        if visit is not None:
            np.testing.assert_allclose(head, known[user, visit], rtol=1e-6)
    served = ask(repository, SERVE, [{"user_id": "u07"}, {"user_id": "u39"}])
    assert served["visit"] == [207, 239]
    np.testing.assert_allclose(served["texture"][1], known["u39", 239], rtol=1e-6)
    first = served["service"]
    visits.arrive(DAYS)
    two = visits.make("two", uri)
    assert publish_table(two, "feast", options).rows == USERS * (DAYS + 1)
    served = ask(repository, SERVE, [{"user_id": "u07"}])
    assert served["visit"] == [307]
    assert first.startswith("features_")
    assert served["service"] != first
    asked[2]["event_timestamp"] = "2026-03-04T00:00:00Z"  # the day that has come
    joined = ask(repository, JOIN, asked)
    assert [visit for _, visit, _ in joined] == [None, 7, 107, 307, None]
    stores = sorted(path.name for path in repository.glob("*.db"))
    assert [name.partition("-")[0] for name in stores] == ["registry", "sqlite"]


def test_nearest_vectors(visits: Visits, tmp_path: Path) -> None:
    uri = visits.make("one")
    repository = tmp_path / "repository"
    options = {"path": str(repository), "command": FEAST, "online": "milvus"}
    publish_table(uri, "feast", {**options, "materialize": True})
    known = heads(uri)
    found = ask(repository, SEARCH, known["u11", 211])
    assert found["visit"] == [211]


def test_what_feast_cannot_take_is_refused(visits: Visits, tmp_path: Path) -> None:
    uri = visits.make("one")
    with pytest.raises(ConfigError, match="must be Feast's own program"):
        publish_table(uri, "feast", {"apply": True, "command": "no-feast"})
    with pytest.raises(ConfigError, match="must be a local directory"):
        publish_table(uri, "feast", {"path": "s3://bucket/repository"})
