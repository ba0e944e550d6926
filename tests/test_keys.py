"""Keys that must be unique, and times that must be times."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, vectors
from hypothesis import given
from hypothesis import strategies as st

from pipeline import make_plan, run_plan
from transforms.key_hashes import hash_keys
from transforms.lookup import ConfigError
from transforms.table import keys


def job_with(directory: Path, **columns: Any) -> Job:
    """A job over Parquet rows with a vector and some columns."""
    rows = len(next(iter(columns.values())))
    table = pa.table({"vec": list(vectors(rows)), **columns})
    pq.write_table(table, directory / "rows.parquet", row_group_size=10)
    return Job(directory / "out", {"reader": "parquet", "path": str(directory / "*.*")})


@pytest.mark.parametrize("in_memory", [1000, 7])
@pytest.mark.parametrize("text", [True, False])
def test_a_key_that_repeats_across_parts_is_refused(
    in_memory: int, text: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_KEYS_IN_MEMORY", in_memory)
    values: list[Any] = [f"key {i}" if text else i - 20 for i in range(60)]
    values[55] = values[4]
    job = job_with(tmp_path, id=values)
    with pytest.raises(RuntimeError, match=r"source\.key must name each row") as raised:
        job.run(table={"rows_per_part": 10})
    repeated = repr(str(values[4]))
    assert f"'id' repeats: {repeated} in data/part-00000-" in str(raised.value)
    assert "data/part-00005-" in str(raised.value)
    assert not (job.table / "_SUCCESS").exists()
    values[55] = "new" if text else 1000
    (tmp_path / "sound").mkdir()
    sound = job_with(tmp_path / "sound", id=values)
    assert len(sound.run(table={"rows_per_part": 10})) == 60


@given(st.lists(st.text(max_size=12), min_size=1), st.integers(0, 3))
def test_equal_text_hashes_alike_wherever_it_stands(
    texts: list[str], start: int
) -> None:
    encodable = [t for t in texts if t.isprintable()] or ["x"]
    array = pa.array(["other"] * start + encodable + encodable)
    found = hash_keys(array[start:])
    half = len(encodable)
    np.testing.assert_array_equal(found[:half], found[half:])
    alone = [hash_keys(pa.array([text]))[0] for text in encodable]
    np.testing.assert_array_equal(found[:half], alone)


def test_hashes_spread_keys_over_groups() -> None:
    for array in (
        pa.array([f"images/{i:07d}.jpg" for i in range(20_000)]),
        pa.array(np.arange(20_000)),
        pa.array(np.arange(20_000) * 4096),
    ):
        counts = np.bincount(hash_keys(array) % 16, minlength=16)
        assert counts.min() > 1000


MOMENT = datetime.datetime(2026, 1, 31, 12, 30, 15, 250_000, datetime.UTC)
SECONDS = MOMENT.timestamp()
TIMES: dict[str, tuple[Any, str | None]] = {
    "float seconds": (SECONDS, "s"),
    "whole milliseconds": (int(SECONDS * 1000), "ms"),
    "float milliseconds": (SECONDS * 1000, "ms"),
    "microseconds": (int(SECONDS * 10**6), "us"),
    "RFC 3339": ("2026-01-31T12:30:15.250Z", None),
    "RFC 3339 elsewhere": ("2026-01-31T14:30:15.25+02:00", None),
    "RFC 3339 without an offset": ("2026-01-31 12:30:15.25", None),
    "datetime": (MOMENT, None),
    "naive datetime, UTC": (MOMENT.replace(tzinfo=None), None),
}


@pytest.mark.parametrize("form", TIMES)
def test_event_timestamps_of_every_form(form: str, tmp_path: Path) -> None:
    value, unit = TIMES[form]
    job = job_with(tmp_path, id=list(range(20)), when=[value] * 20)
    table = job.run(table={"event_timestamp": "when", "timestamp_unit": unit})
    assert table["event_timestamp"].to_pylist() == [MOMENT] * 20


def test_whole_seconds_are_no_fractions(tmp_path: Path) -> None:
    job = job_with(tmp_path, id=[0, 1], when=[0, -1])
    table = job.run(table={"event_timestamp": "when", "timestamp_unit": "s"})
    assert table["event_timestamp"].cast(pa.int64()).to_pylist() == [0, -1_000_000]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e30, -1e30, 2.0**62])
def test_a_number_that_is_no_time_is_a_bad_row(wrong: float, tmp_path: Path) -> None:
    times = [0.0] * 19 + [wrong]
    job = job_with(tmp_path, id=list(range(20)), when=times)
    table = job.run(
        table={"event_timestamp": "when", "timestamp_unit": "s"},
        errors={"max_fraction": 0.1},
    )
    assert len(table) == 19
    (error,) = job.errors()
    assert (error["stage"], error["example_id"]) == ("encode", "19")
    assert "event timestamp is" in error["message"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"event_timestamp": "id"}, "timestamp_unit must be s, ms or us"),
        ({"event_timestamp": "text", "timestamp_unit": "s"}, "need none"),
        ({"event_timestamp": "id", "timestamp_unit": "min"}, "timestamp_unit"),
        ({"event_timestamp": "vec", "timestamp_unit": "s"}, "must be an RFC 3339"),
        (
            {"event_timestamp": "2026-01-01T00:00:00Z", "timestamp_unit": "s"},
            "must be left out for a constant",
        ),
    ],
)
def test_times_that_cannot_be_are_refused(
    job: Job, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        job.plan(table=section)


DAY = np.datetime64("2026-03-01T00:00:00", "us")
USERS = ["u1", "u2", "u1", "u2", "u3", "u1"]
DAYS = [DAY + np.timedelta64(n, "D") for n in (0, 0, 1, 1, 1, 2)]
ENTITY = {
    "source": {"key": None, "keep": ["user", "country"]},
    "table": {"event_timestamp": "day", "entity": "user", "rows_per_part": 2},
}


def users(directory: Path, **columns: Any) -> Job:
    """A job over rows of users at days, two to a part, keyed by file and row."""
    made = {"user": USERS, "country": [1] * 6, "day": DAYS, **columns}
    return job_with(directory, **made)


def test_an_entity_has_rows_at_several_times(tmp_path: Path) -> None:
    job = users(tmp_path)
    rows = job.run(**ENTITY)
    assert rows["user"].to_pylist() == USERS
    assert [f"rows.parquet#{i}" for i in range(6)] == rows["example_id"].to_pylist()
    assert not rows.schema.field("user").nullable
    assert rows.schema.field("country").nullable


@pytest.mark.parametrize("in_memory", [1000, 2])
def test_an_entity_that_comes_twice_at_one_time_is_refused(
    in_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_KEYS_IN_MEMORY", in_memory)
    twice = [*DAYS[:5], DAYS[0]]
    job = users(tmp_path, day=twice)
    with pytest.raises(RuntimeError, match="must name each row apart") as raised:
        job.run(**ENTITY)
    said = str(raised.value)
    assert "user repeats: 'u1' at 2026-03-01T00:00:00+00:00 in data/part-00000-" in said
    assert "data/part-00002-" in said
    assert not (job.table / "_SUCCESS").exists()
    (tmp_path / "two").mkdir()
    job = users(tmp_path / "two", day=twice, country=[1, 1, 1, 1, 1, 2])
    table = {**ENTITY["table"], "entity": ["user", "country"]}
    assert len(job.run(**{**ENTITY, "table": table})) == 6


def test_rows_that_come_in_late_are_of_their_own_time(tmp_path: Path) -> None:
    job = users(tmp_path)
    job.run(**ENTITY)
    late = pa.table(
        {
            "vec": list(vectors(2)),
            "user": ["u1", "u4"],
            "country": [1, 1],
            "day": [DAY + np.timedelta64(36, "h"), DAY],
        }
    )

    def grow(name: str) -> dict[str, Any]:
        path = str(tmp_path / "out" / name)
        table = {**ENTITY["table"], "path": path}
        config = job.config(**{**ENTITY, "table": table})
        return run_plan(make_plan(config, [str(job.table)]))

    pq.write_table(late, tmp_path / "late.parquet")
    made = grow("late")["made"]
    assert {how: some["rows"] for how, some in made.items()} == {
        "carried": 6,
        "computed": 2,
    }
    pq.write_table(late, tmp_path / "later.parquet")  # the same rows once more
    with pytest.raises(RuntimeError, match="'u1' at 2026-03-02T12:00:00"):
        grow("later")


def test_a_row_without_an_entity_is_a_bad_row(tmp_path: Path) -> None:
    job = users(tmp_path, user=[*USERS[:5], None])
    rows = job.run(**ENTITY, errors={"max_fraction": 0.5})
    assert rows["user"].to_pylist() == USERS[:5]
    (bad,) = job.errors()
    assert (bad["row"], bad["stage"]) == (5, "read")
    assert "user is null" in bad["message"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"entity": "user"}, "must go with table.event_timestamp"),
        ({"event_timestamp": "day", "entity": "usr"}, "got 'usr'; nearest is 'user'"),
        ({"event_timestamp": "day", "entity": "day"}, "columns of source.keep"),
        ({"event_timestamp": "day", "entity": ["user", "score"]}, "'score' is float"),
    ],
)
def test_an_entity_that_cannot_be_one_is_refused(
    table: dict[str, Any], said: str, tmp_path: Path
) -> None:
    job = users(tmp_path, score=[0.5] * 6)
    with pytest.raises(ConfigError, match=said):
        job.plan(source={"key": None, "keep": ["user", "score"]}, table=table)
