"""Tables that follow each other under one root, and the one that is current."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Job, vectors, write_parquet
from typer.testing import CliRunner

from pipeline import make_plan, prepare_table, run_plan, verify_table
from pipeline.cli import app
from pipeline.versions import (
    begin,
    current_version,
    place,
    point_at,
    prune_tables,
    resolve,
)
from transforms.lookup import ConfigError, TableError
from transforms.table.directory import Table, to_json


class Daily(Job):
    """A job that makes a table under one root each day, of one file more."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.data.mkdir()
        self.root = directory / "root"
        super().__init__(directory, {"reader": "parquet", "path": str(self.data)})

    def config(self, **sections: Any) -> Any:
        return super().config(**{"table": {"path": str(self.root)}, **sections})

    def arrive(self, day: int) -> None:
        """Let the file of a day come in."""
        ids = range(10 * day, 10 * day + 10)
        write_parquet(self.data / f"{day}.parquet", ids, vectors(200), 5)

    def make(self, name: str) -> dict[str, Any]:
        """Make a table of all that is there, and make it the current one."""
        put = place(self.config(), name)
        if put.done:
            return dict(put.done)
        begin(put)
        summary = run_plan(make_plan(put.config, put.earlier))
        point_at(put.root, name, put.after)
        return summary

    def days(self, count: int) -> None:
        """Let some days pass."""
        for day in range(count):
            self.arrive(day)
            self.make(f"day-{day}")

    def pointer(self) -> dict[str, Any]:
        """What readers see."""
        found: dict[str, Any] = json.loads((self.root / "current.json").read_text())
        return found


@pytest.fixture
def daily(tmp_path: Path) -> Daily:
    return Daily(tmp_path)


def test_each_table_is_made_from_the_one_before_and_becomes_current(
    daily: Daily,
) -> None:
    daily.arrive(0)
    assert set(daily.make("day-0")["made"]) == {"computed"}
    daily.arrive(1)
    made = daily.make("day-1")["made"]
    assert made == {
        "carried": {"shards": 1, "rows": 10},
        "computed": {"shards": 1, "rows": 10},
    }
    pointer = daily.pointer()
    fingerprint = Table(str(daily.root / "day-1")).read_config()["fingerprint"]
    assert pointer == {
        "number": 2,
        "table": "day-1",
        "fingerprint": fingerprint,
        "rows": 20,
    }
    assert resolve(str(daily.root)) == str(daily.root / "day-1")
    assert resolve(str(daily.root / "day-0")) == str(daily.root / "day-0")


def test_the_same_call_again_changes_nothing(daily: Daily) -> None:
    daily.days(2)
    before = daily.pointer()
    again = place(daily.config(), "day-1")
    assert again.earlier == (str(daily.root / "day-0"),)  # as when it was begun
    daily.arrive(2)  # which day-1 is not of
    assert again.done == place(daily.config(), "day-1").done
    assert daily.make("day-1")["rows"] == 20
    assert daily.pointer() == before
    (daily.root / "current.json").unlink()  # killed before it was written
    point_at(str(daily.root), "day-1")
    assert daily.pointer() == before
    assert prune_tables(str(daily.root), 1).removed == ("day-0",)
    assert daily.make("day-1")["rows"] == 20  # without the table that it was made from
    other = daily.config(taps=[{"path": "stem"}])
    with pytest.raises(ConfigError, match=r"was made by, it differs \(in: taps\)"):
        place(other, "day-1")


def test_going_back_is_not_undone_by_a_command_that_is_given_again(
    daily: Daily,
) -> None:
    daily.days(2)
    point_at(str(daily.root), "day-0")
    for name in ("day-1", "day-0"):
        assert daily.make(name)["rows"] > 0
        assert daily.pointer()["table"] == "day-0"


def test_what_a_table_follows_is_what_was_current_when_it_was_begun(
    daily: Daily,
) -> None:
    daily.days(2)
    daily.arrive(2)
    older = [str(daily.root / "day-0")]  # not the current one, as --from says
    first = place(daily.config(), "odd", older)
    begin(first)
    plan = make_plan(first.config, first.earlier)
    prepare_table(plan)
    again = place(daily.config(), "odd", older)
    assert (
        (again.after, again.earlier) == (first.after, first.earlier) == (2, (older[0],))
    )
    run_plan(plan)
    assert point_at(str(daily.root), "odd", again.after).number == 3
    afresh = place(daily.config(), "odd2")
    begin(afresh)
    daily.make("day-2")
    prepare_table(make_plan(afresh.config))  # takes nothing over
    assert place(daily.config(), "odd2").after == 3


@pytest.mark.parametrize("name", ["schema.json", "plan.parquet"])
def test_a_table_whose_plan_is_not_whole_is_begun_again(
    daily: Daily, name: str
) -> None:
    daily.days(1)
    daily.arrive(1)
    put = place(daily.config(), "day-1")
    begin(put)
    prepare_table(make_plan(put.config, put.earlier))
    (daily.root / "day-1" / "_featuretap" / name).unlink()  # killed before it was there
    prune_tables(str(daily.root), 1)
    assert daily.make("day-1")["rows"] == 20


def test_the_current_table_is_not_overwritten(daily: Daily) -> None:
    daily.days(2)
    with pytest.raises(ConfigError, match="is the current table of"):
        place(daily.config(), "day-1", overwrite=True)
    put = place(daily.config(), "day-0", overwrite=True)
    assert (put.earlier, put.after) == ((str(daily.root / "day-1"),), 2)


def test_what_is_being_made_is_not_pruned(
    daily: Daily, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily.days(3)
    prune_tables(str(daily.root), 2)
    put = place(daily.config(), "day-0")  # begun again under a name that was current
    prepare_table(make_plan(put.config, put.earlier))
    monkeypatch.chdir(daily.directory)
    relative = daily.config(table={"path": "root"})
    begun = place(relative, "by-relative-path", ["root/day-1"])
    prepare_table(make_plan(begun.config, begun.earlier))
    monkeypatch.chdir("/")
    done = prune_tables(str(daily.root), 1)
    assert (done.removed, set(done.spared)) == ((), {"day-1", "day-0"})
    shutil.rmtree(daily.root / "by-relative-path")
    begin(place(daily.config(), "planned", [str(daily.root / "day-1")]))
    assert set(prune_tables(str(daily.root), 1).removed) == {"day-1"}


def test_a_current_table_that_is_gone_is_named(daily: Daily) -> None:
    daily.days(2)
    shutil.rmtree(daily.root / "day-1")
    with pytest.raises(ConfigError, match="'day-1' is gone; make another one current"):
        place(daily.config(), "day-2")


def test_a_table_that_was_overtaken_does_not_become_current(daily: Daily) -> None:
    daily.days(1)
    daily.arrive(1)
    late = place(daily.config(), "late")
    begin(late)
    plan = make_plan(late.config, late.earlier)
    prepare_table(plan)
    daily.make("day-1")
    assert place(daily.config(), "late").after == late.after == 1
    run_plan(plan)
    with pytest.raises(RuntimeError, match="'day-1' has become the current table"):
        point_at(str(daily.root), "late", late.after)
    assert daily.pointer()["table"] == "day-1"
    assert point_at(str(daily.root), "late").number == 3


def test_of_many_that_end_together_one_becomes_current(daily: Daily) -> None:
    daily.days(1)
    for name in "abcd":
        shutil.copytree(daily.root / "day-0", daily.root / name)
    results: list[str] = []

    def point(name: str) -> None:
        try:
            results.append(point_at(str(daily.root), name, 1).table)
        except RuntimeError:
            results.append("")

    threads = [threading.Thread(target=point, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = filter(None, results)
    assert daily.pointer()["table"] == winner
    assert daily.pointer()["number"] == 2


def test_going_back_is_pointing_at_the_old_table(daily: Daily) -> None:
    daily.days(2)
    assert point_at(str(daily.root), "day-0").number == 3
    assert daily.pointer()["table"] == "day-0"
    daily.arrive(2)
    assert place(daily.config(), "next").earlier == (str(daily.root / "day-0"),)


def test_what_is_pruned_is_needed_by_none(daily: Daily) -> None:
    daily.days(4)
    read = pq.read_table(daily.root / "day-3" / "data").sort_by("example_id")
    (daily.root / "day-0" / "notes.txt").write_text("mine")
    daily.arrive(4)
    begun = place(daily.config(), "unfinished", [str(daily.root / "day-1")])
    prepare_table(make_plan(begun.config, begun.earlier))
    done = prune_tables(str(daily.root), 2)
    assert done.removed == ("day-0",)
    assert done.kept == ("day-3", "day-2")
    assert done.spared == ("day-1",)
    assert [p.name for p in (daily.root / "day-0").iterdir()] == ["notes.txt"]
    shutil.rmtree(daily.root / "unfinished")
    assert prune_tables(str(daily.root), 1).removed == ("day-2", "day-1")
    assert not (daily.root / "day-1").exists()
    assert verify_table(str(daily.root / "day-3")) == []
    assert pq.read_table(daily.root / "day-3" / "data").sort_by("example_id") == read
    assert prune_tables(str(daily.root), 1).removed == ()


def test_a_table_of_which_half_is_gone_is_removed_whole(
    daily: Daily, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily.days(2)
    table = Table(str(daily.root / "day-0"))

    def cut_off(uri: str) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(Table, "clear", lambda self, check: cut_off(self.uri))
        with pytest.raises(OSError, match="cut off"):
            prune_tables(str(daily.root), 1)
    (daily.root / "day-0" / "_SUCCESS").unlink()
    (daily.root / "day-0" / "_featuretap" / "schema.json").unlink()
    assert table.read_config()
    assert prune_tables(str(daily.root), 1).removed == ("day-0",)
    assert not (daily.root / "day-0").exists()


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", "_versions", ".hidden", "a b", "current.json"]
)
def test_names_that_are_no_directory_are_refused(daily: Daily, name: str) -> None:
    with pytest.raises(ConfigError, match="a table must be named by letters"):
        place(daily.config(), name)


def test_roots_and_tables_are_told_apart(daily: Daily) -> None:
    daily.days(1)
    inside = daily.config(table={"path": str(daily.root / "day-0")})
    with pytest.raises(ConfigError, match="is itself a table"):
        place(inside, "new")
    with pytest.raises(ConfigError, match=r"holds current\.json; make another"):
        run_plan(make_plan(daily.config()))
    limited = daily.config().model_copy(update={"limit": 5})
    with pytest.raises(ConfigError, match="either --as or --limit"):
        place(limited, "new")
    with pytest.raises(FileNotFoundError, match=r"must hold _featuretap/config\.json"):
        point_at(str(daily.root), "nothing")
    with pytest.raises(FileNotFoundError, match=r"must hold current\.json"):
        prune_tables(str(daily.data), 1)
    with pytest.raises(ConfigError, match="at least 1"):
        prune_tables(str(daily.root), 0)
    prepare_table(make_plan(place(daily.config(), "new").config))
    with pytest.raises(ConfigError, match="must be finished"):
        point_at(str(daily.root), "new")


def test_a_record_that_leads_elsewhere_is_refused(daily: Daily) -> None:
    daily.days(1)
    record = daily.root / "_versions" / "00002.json"
    says = {"number": 2, "table": "../data", "fingerprint": "f", "rows": 1}
    record.write_bytes(to_json(says))
    with pytest.raises(TableError, match="must name a table beside it"):
        current_version(str(daily.root))
    record.write_text("{}")
    with pytest.raises(TableError, match="must say number"):
        resolve(str(daily.root))


def test_the_commands(daily: Daily, tmp_path: Path) -> None:
    daily.arrive(0)
    job = tmp_path / "job.toml"
    job.write_text(f"""
        [source]
        reader = "parquet"
        path = "{daily.data}"
        key = "id"
        [model]
        build = "toolbox:dict_model"
        [[taps]]
        path = "head"
        [table]
        path = "{daily.root}"
    """)

    def call(*arguments: Any, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(one) for one in arguments])
        assert result.exit_code == code, result.output
        return result.output

    call("run", job, "--as", "day-0")
    daily.arrive(1)
    ahead = json.loads(call("plan", job, "--as", "day-1", "--json"))
    assert ahead["made"]["carried"]["rows"] == 10
    call("run", job, "--as", "day-1")
    assert call("current", daily.root).strip() == str(daily.root / "day-1")
    assert json.loads(call("status", daily.root, "--json"))["rows"] == 20
    call("verify", daily.root)
    keys = tmp_path / "keys.txt"
    keys.write_text("7\n")
    said = call("forget", daily.root, "--keys", keys, "--to", daily.root / "less")
    assert "forgotten: 1 rows; 1 of 1 keys were found" in said
    assert f"  the old table: {daily.root / 'day-1'}" in said
    found = json.loads(call("current", daily.root, "less", "--json"))
    assert (found["table"], found["rows"]) == ("less", 19)
    call("current", daily.root, "day-0")
    done = json.loads(call("prune", daily.root, "--keep", "1", "--json"))
    assert done["removed"] == ["less", "day-1"]
    assert "must hold current.json" in call("current", daily.data, code=2)
    assert "--retry-errors is for" in call("run", job, "--retry-errors", code=2)
