"""What stores cannot hold is named; what is not of the table that is published stays.

Heavy tests, which need the extra `hand-off`. With REQUIRE_HAND_OFF set they fail where
they would be skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, vectors
from places import PLACES, need_stores

from pipeline.publish.finished import open_finished
from pipeline.publish.publish import publications, publish_table
from pipeline.publish.target import make_target
from transforms.lookup import ConfigError

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
DAYS = np.datetime64("2026-03-01T12:00:00.5", "us") + np.arange(10) * 86_400_000_000


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tables by policy for rows that are not finite, of which row 0 is one.

    Row 4 has a zero character in its text, and an infinite number.
    """
    need_stores()
    root = tmp_path_factory.mktemp("odd")
    values = vectors(10)
    values[0, 2] = math.nan
    rows = {
        "id": pa.array(range(10), pa.int64()),
        "vec": list(values),
        "text": ["a\0b" if i == 4 else f"row {i}" for i in range(10)],
        "flag": [i % 2 == 1 for i in range(10)],
        "day": pa.array(DAYS, pa.timestamp("us", tz="UTC")),
        "rate": [math.inf if i == 4 else i / 2 for i in range(10)],
        "wide": pa.array([[1e300, 1.0]] * 10, pa.list_(pa.float64(), 2)),
    }
    pq.write_table(pa.table(rows), root / "rows.parquet")
    kept = ["text", "flag", "day", "rate", "wide"]
    job = Job(root, {"reader": "parquet", "path": str(root / "rows.parquet")})
    for policy in ("warn", "allow", "quarantine"):
        job.run(
            source={"keep": kept},
            model={"build": "toolbox:plain_model"},
            taps=[{"path": "head"}],
            table={"path": str(root / policy), "event_timestamp": "day"},
            errors={"non_finite": policy, "max_fraction": 0.5},
        )
    return {name: str(root / name) for name in ("warn", "allow", "quarantine")}


@pytest.mark.parametrize("policy", ["warn", "allow"])
@pytest.mark.parametrize("target", ["faiss", "lance", "pgvector", "qdrant"])
def test_vectors_that_are_not_finite_are_named_before_anything_is_written(
    target: str, policy: str, odd: dict[str, str], tmp_path: Path
) -> None:
    place = PLACES[target](tmp_path)
    with pytest.raises(ConfigError, match=r"finite.*column 'head' of row 0 holds"):
        publish_table(odd[policy], target, place.options)
    assert place.keys() is None
    place.close()


@pytest.mark.parametrize("target", ["delta", "faiss", "huggingface", "iceberg"])
def test_other_stores_hold_them(
    target: str, odd: dict[str, str], tmp_path: Path
) -> None:
    place = PLACES[target](tmp_path)
    options = {"metric": "l2"} if target == "faiss" else {}
    done = publish_table(odd["warn"], target, {**place.options, **options})
    assert (done.rows, place.keys()) == (10, [*range(10)])


def test_values_too_large_for_float32_are_not_finite_there(
    odd: dict[str, str],
) -> None:
    table = open_finished(odd["quarantine"])
    by_name = {column.name: column for column in table.columns.all}
    table.refuse_non_finite([by_name["head"]], "a store")
    with pytest.raises(ConfigError, match=r"a store takes.*'wide' of row 1 holds"):
        table.refuse_non_finite([by_name["wide"]], "a store")


def test_text_that_postgres_cannot_hold_is_named(
    odd: dict[str, str], tmp_path: Path
) -> None:
    place = PLACES["pgvector"](tmp_path)
    with pytest.raises(ConfigError, match=r"character \\0, column 'text' of row 4"):
        publish_table(odd["quarantine"], "pgvector", place.options)
    assert place.keys() is None
    place.close()


def asked(path: Path, question: Callable[[Any], Any]) -> Any:
    """Ask a database of Qdrant's something."""
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(path))
    try:
        return question(client)
    finally:
        client.close()


def test_qdrant_filters_by_flags_and_times(odd: dict[str, str], tmp_path: Path) -> None:
    from qdrant_client import models

    publish_table(odd["quarantine"], "qdrant", {"path": str(tmp_path)})
    late = models.DatetimeRange(gte="2026-03-04T12:00:00.5Z")
    rows = models.Filter(
        must=[
            models.FieldCondition(key="day", range=late),
            models.FieldCondition(key="event_timestamp", range=late),
            models.FieldCondition(key="flag", match=models.MatchValue(value=False)),
        ]
    )
    points, _ = asked(tmp_path, lambda c: c.scroll("features", scroll_filter=rows))
    payloads = {point.payload["example_id"]: point.payload for point in points}
    assert sorted(payloads) == [4, 6, 8]
    assert payloads[6] == {
        "example_id": 6,
        "event_timestamp": "2026-03-07T12:00:00.500000+00:00",
        "text": "row 6",
        "flag": False,
        "day": "2026-03-07T12:00:00.500000+00:00",
        "rate": 3.0,
        "wide": [1e300, 1.0],
    }
    assert payloads[4]["rate"] is None  # infinite


def test_collections_of_others_stay(odd: dict[str, str], tmp_path: Path) -> None:
    from qdrant_client import models

    table, options = odd["quarantine"], {"path": str(tmp_path), "distance": "Dot"}
    publish_table(table, "qdrant", options)
    kind = models.VectorParams(size=2, distance=models.Distance.DOT)

    def others(client: Any) -> str:
        (ours,) = client.get_collections().collections
        client.create_collection("features-0123abcd", kind)  # somebody's
        new = models.CreateAlias(collection_name=ours.name, alias_name="kept")
        client.update_collection_aliases(
            [models.CreateAliasOperation(create_alias=new)]
        )
        return str(ours.name)

    first = asked(tmp_path, others)
    for distance in ("Euclid", "Manhattan"):  # each in a collection of its own
        publish_table(table, "qdrant", {**options, "distance": distance})
    found = asked(tmp_path, lambda c: c.get_collections().collections)
    names = {one.name for one in found}
    assert names > {"features-0123abcd", first}
    assert len(names) == 3


def test_a_delta_table_is_known_when_its_log_was_cleaned(
    odd: dict[str, str], tmp_path: Path
) -> None:
    import deltalake

    place = PLACES["delta"](tmp_path)
    publish_table(odd["warn"], "delta", place.options)
    there = deltalake.DeltaTable(place.options["path"])
    there.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    there.create_checkpoint()
    there.cleanup_metadata()
    assert not any("featuretap.model_digest" in one for one in there.history())
    assert place.keys() == [*range(10)]
    done = publish_table(odd["warn"], "delta", place.options)
    assert (done.was_there, place.keys()) == (False, [*range(10)])
    assert publish_table(odd["warn"], "delta", place.options).was_there


def test_catalogs_of_one_name_are_two_places(
    odd: dict[str, str], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        place = PLACES["iceberg"](tmp_path / name)
        publish_table(odd["allow"], "iceberg", place.options)
    noted = [one["location"] for one in publications(odd["allow"])]
    assert {one for one in noted if one.startswith("ml.")} == {
        f"ml.features in catalog tests at sqlite:///{tmp_path}/{name}/catalog.db"
        for name in ("a", "b")
    }
    secret = {"type": "sql", "uri": "postgresql://me:hunter2@host/catalog"}
    options = {"name": "ml.features", "properties": secret}
    location = make_target(odd["allow"], "iceberg", options).location
    assert location == "ml.features in catalog default at postgresql://***@host/catalog"
