"""What publishing promises whatever the store: checked, proved, noted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from conftest import Job
from typer.testing import CliRunner

from pipeline import publish_table, table_status
from pipeline.cli import app
from pipeline.publish.columns import Columns
from pipeline.publish.finished import FinishedTable, open_finished, rows_of
from pipeline.publish.publish import _agree, publications
from transforms.lookup import ConfigError, TableError, need

NAN, INF = math.nan, math.inf


class Memory:
    """A target of one's own: rows in a dict, by place."""

    places: ClassVar[dict[str, tuple[dict[str, str], pa.Table]]] = {}
    older: ClassVar[list[str]] = []
    normalizes = False

    def __init__(self, table: str, *, place: str = "here", shade: int = 0) -> None:
        self._place = place

    @property
    def location(self) -> str:
        return f"memory {self._place}"

    def check(self, columns: Columns) -> None:
        if self._place == "nowhere":
            raise ConfigError(f"no place for {columns.compared()} of {columns.entity}")

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        there = self.places.get(self._place)
        return there and there[0]

    def write(self, table: FinishedTable) -> None:
        names = [
            table.columns.key.name,
            *(column.name for column in table.columns.vectors()),
        ]
        rows = pa.concat_tables(table.batches(names))
        self.places[self._place] = (table.properties, rows)

    def remove_older(self, table: FinishedTable) -> None:
        self.older.append(self._place)

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        yield from self.places[self._place][1][table.columns.key.name].chunks

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        return rows_of([self.places[self._place][1]], keys)


class Lossy(Memory):
    """Loses a row."""

    def write(self, table: FinishedTable) -> None:
        super().write(table)
        properties, rows = self.places[self._place]
        self.places[self._place] = (properties, rows.slice(1))


class Twice(Memory):
    """Has a row in place of another."""

    def write(self, table: FinishedTable) -> None:
        super().write(table)
        properties, rows = self.places[self._place]
        rows = pa.concat_tables([rows.slice(0, 1), rows.slice(0, len(rows) - 1)])
        self.places[self._place] = (properties, rows)


class Shifty(Memory):
    """Changes a value."""

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        rows = super().look_up(table, keys)
        wrong = [[v + 0.5 for v in one] for one in rows["head"].to_pylist()]
        index = rows.column_names.index("head")
        return rows.set_column(index, "head", pa.array(wrong))


def no_target(table: str) -> int:
    return 3


@pytest.fixture(autouse=True)
def _empty() -> None:
    Memory.places.clear()
    Memory.older.clear()


def test_a_target_of_ones_own(job: Job) -> None:
    job.run()
    done = publish_table(str(job.table), "test_publication:Memory", {"place": "there"})
    assert (done.rows, done.was_there, done.location) == (100, False, "memory there")
    assert done.sampled == 7  # the first rows of its parts
    again = publish_table(str(job.table), "test_publication:Memory", {"place": "there"})
    assert again.was_there
    assert Memory.older == ["there", "there"]  # also where the table was there already
    assert publications(str(job.table)) == [again.to_json()]
    assert table_status(str(job.table)).published == (again.to_json(),)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("Lossy", r"must hold the rows of.*\n  sent:    100 rows.*\n  arrived: 99"),
        ("Twice", "sent:    100 rows, sum of keys .*\n  arrived: 100 rows"),
        ("Shifty", "other values than were sent in column 'head' of row 0"),
    ],
)
def test_what_arrives_otherwise_is_noticed(job: Job, target: str, said: str) -> None:
    job.run()
    with pytest.raises(RuntimeError, match=said):
        publish_table(str(job.table), f"test_publication:{target}")
    assert publications(str(job.table)) == []


def test_of_a_table_without_vectors_keys_are_compared(job: Job) -> None:
    job.run(taps=[{"path": "head", "reduce": ["mean(axis=1)"]}])
    done = publish_table(str(job.table), "test_publication:Memory")
    assert (done.rows, done.sampled) == (100, 0)


def test_a_table_that_cannot_be_written_to_is_published_all_the_same(job: Job) -> None:
    job.run()
    (job.table / "_featuretap" / "published").write_text("no directory")
    said = "has been published to memory here, but that cannot be noted in the table: "
    with pytest.raises(RuntimeError, match=said):
        publish_table(str(job.table), "test_publication:Memory")
    assert "here" in Memory.places


def test_what_has_changed_since_it_was_published_is_named(job: Job) -> None:
    job.run()
    table, target = str(job.table), "test_publication:Memory"
    publish_table(table, target)
    properties, rows = Memory.places["here"]
    Memory.places["here"] = (properties, rows.slice(1))
    said = "not what was published there before: RuntimeError: memory here must hold"
    with pytest.raises(RuntimeError, match=rf"{said}(?s:.*)\nremove what is there"):
        publish_table(table, target)
    Memory.places.clear()
    assert not publish_table(table, target).was_there


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("delt", {}, "must name a target, got 'delt'; nearest is 'delta'"),
        ("test_publication:no_target", {}, "must keep the promises"),
        ("test_publication:Memory", {"plac": 1}, "nearest is 'place'"),
        ("faiss", {"metric": "l3"}, "metric"),
    ],
)
def test_targets_that_cannot_be_are_refused(
    job: Job, target: str, options: dict[str, Any], said: str
) -> None:
    job.run()
    with pytest.raises(ConfigError, match=said):
        publish_table(str(job.table), target, options)


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"no_such_package.*featuretap\[delta\]"):
        need("no_such_package", "delta")


def test_only_finished_tables_are_published(job: Job) -> None:
    job.run()
    (job.table / "_SUCCESS").unlink()
    with pytest.raises(ConfigError, match="only finished tables are published"):
        publish_table(str(job.table), "test_publication:Memory")


def test_a_column_of_vectors_is_chosen(job: Job) -> None:
    job.run(source={"keep": ["text", "vec"]})
    table = open_finished(str(job.table))
    assert [column.name for column in table.columns.vectors()] == ["hidden", "head"]
    assert table.columns.vector("head", "column").width == 2
    with pytest.raises(ConfigError, match=r"got none \(columns: head, hidden\)"):
        table.columns.vector(None, "column")
    with pytest.raises(ConfigError, match="got 'heat'; nearest is 'head'"):
        table.columns.vector("heat", "column")


def test_a_run_publishes_as_its_config_says(job: Job) -> None:
    publish = {
        "first": {"to": "test_publication:Memory", "place": "a"},
        "test_publication:Memory": {"place": "b"},
    }
    job.run(publish=publish)
    assert set(Memory.places) == {"a", "b"}
    noted = publications(str(job.table))
    assert {one["location"] for one in noted} == {"memory a", "memory b"}
    Memory.places.clear()
    job.run(publish=publish)  # finished already: published again
    assert set(Memory.places) == {"a", "b"}
    text = (job.table / "_featuretap" / "config.json").read_text()
    assert "test_publication" not in text
    with pytest.raises(ConfigError, match=r"publish\.first: --to must name a target"):
        job.plan(publish={"first": {"place": "a"}})
    with pytest.raises(ConfigError, match="is not an option here"):
        job.plan(publish={"first": {"to": "test_publication:Memory", "plaice": "a"}})


def test_columns_that_a_target_does_not_take_are_refused_by_the_plan(job: Job) -> None:
    nowhere = {"to": "test_publication:Memory", "place": "nowhere"}
    said = r"no place for \['example_id', 'hidden', 'head'\] of \(\)"
    with pytest.raises(ConfigError, match=rf"^publish\.first: {said}"):
        job.plan(publish={"first": nowhere})
    time = {"event_timestamp": "2026-03-01T00:00:00Z", "entity": "text"}
    with pytest.raises(ConfigError, match=r"of \('text',\)"):
        job.plan(publish={"a": nowhere}, table=time, source={"keep": ["text"]})
    with pytest.raises(ConfigError, match=r"publish\.feast: Feast needs the time"):
        job.plan(publish={"feast": {}})
    job.run()
    with pytest.raises(ConfigError, match=f"^{said}"):
        publish_table(str(job.table), "test_publication:Memory", {"place": "nowhere"})


def test_all_publications_are_tried_and_what_fails_is_said(job: Job) -> None:
    publish = {
        "lossy": {"to": "test_publication:Lossy", "place": "a"},
        "whole": {"to": "test_publication:Memory", "place": "b"},
    }
    with pytest.raises(
        RuntimeError, match=r"is finished, but not.*\n  publish\.lossy: "
    ):
        job.run(publish=publish)
    assert [one["location"] for one in publications(str(job.table))] == ["memory b"]


def test_other_options_are_another_publication(job: Job) -> None:
    job.run()
    table, target = str(job.table), "test_publication:Memory"
    assert not publish_table(table, target, {"place": "x"}).was_there
    assert not publish_table(table, target, {"place": "x", "shade": 1}).was_there
    assert publish_table(table, target, {"place": "x", "shade": 1}).was_there


def test_the_command(job: Job) -> None:
    job.run()
    call = ["publish", str(job.table)]
    runner = CliRunner()
    assert "published nowhere" in runner.invoke(app, [*call, "--list"]).output
    to = [*call, "--to", "test_publication:Memory", "--set", "place=x"]
    result = runner.invoke(app, to)
    assert result.exit_code == 0, result.output
    assert "memory x, 100 rows and 7 sampled vectors read back" in result.output
    found = json.loads(runner.invoke(app, [*to, "--json"]).output)
    assert (found["rows"], found["was_there"]) == (100, True)
    listed = json.loads(runner.invoke(app, [*call, "--list", "--json"]).output)
    assert listed == [found]
    assert "memory x" in runner.invoke(app, ["status", str(job.table)]).output
    for wrong in (call, [*to, "--list"]):
        assert runner.invoke(app, wrong).exit_code == 2
    typo = runner.invoke(app, ["publish", f"{job.table}s", "--list"])
    assert typo.exit_code == 2
    assert "found none in" in typo.output


def test_a_damaged_note_is_named(job: Job) -> None:
    job.run()
    publish_table(str(job.table), "test_publication:Memory")
    (note,) = Path(job.table, "_featuretap", "published").iterdir()
    note.write_text("{}")
    with pytest.raises(TableError, match=r"must say target.*publish the table again"):
        publications(str(job.table))


def test_a_damaged_note_is_written_anew(job: Job) -> None:
    job.run()
    table, target = str(job.table), "test_publication:Memory"
    publish_table(table, target)
    (note,) = Path(job.table, "_featuretap", "published").iterdir()
    for damaged in ("{", "[]", "{}"):
        note.write_text(damaged)
        again = publish_table(table, target)
        assert publications(table) == [again.to_json()]


@pytest.mark.parametrize(
    ("sent", "found", "normalized", "agree"),
    [
        ([3, 4], [0.6, 0.8], True, True),
        ([3, 4], [0.6, 0.8], False, False),
        ([0, 0], [0, 1], True, False),
        ([1, 2], [1, 2, 3], True, False),
        ([NAN, 1], [NAN, 1], False, True),
        ([NAN, 1], [NAN, 1], True, True),
        ([NAN, 1], [NAN, 2], False, False),
        ([NAN, 1], [1, 1], False, False),
        ([1, 1], [NAN, 1], True, False),
        ([INF, 1], [INF, 1], False, True),
        ([INF, 1], [INF, 1], True, True),
        ([INF, 1], [INF, 5], False, False),
        ([INF, 1], [-INF, 1], True, False),
        ([INF, 1], [5, 1], False, False),
    ],
)
def test_values_agree(
    sent: list[float], found: list[float], normalized: bool, agree: bool
) -> None:
    assert _agree(sent, found, normalized=normalized) is agree
