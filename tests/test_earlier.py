"""Tables that take rows over from earlier ones: what is carried, extended, computed."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, parity_of, stacked, vectors, worker_of, write_parquet

from pipeline import (
    make_plan,
    prepare_table,
    run_plan,
    table_status,
    verify_table,
)
from pipeline.earlier import Outlook, outlook
from transforms import extract
from transforms.errors.quarantine import BadRow
from transforms.extract import extract_shard
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.table.commit_record import Commit, StoredFile, StoredStatistics
from transforms.table.directory import Table
from transforms.table.earlier import earlier_shard, stored_pieces
from transforms.table.encode import encode

HIDDEN = {"path": "features:activation_1", "column": "hidden"}
HEAD = {"path": "head"}
STEM = {"path": "stem"}


class Grown(Job):
    """Jobs over files that come and go, each into a table of its own."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.data.mkdir()
        super().__init__(directory, {"reader": "parquet", "path": str(self.data)})
        self.add("a", range(30))
        self.add("b", range(30, 75))

    def add(self, name: str, ids: range) -> None:
        """Write a file of the source."""
        write_parquet(self.data / f"{name}.parquet", ids, vectors(200), 5)

    def make(
        self, name: str, *earlier: str, retry: bool = False, **sections: Any
    ) -> Any:
        """Make a table from earlier ones; give its summary."""
        path = str(self.directory / name)
        config = self.config(**{"table": {"path": path}, **sections})
        froms = [str(self.directory / one) for one in earlier]
        return run_plan(make_plan(config, froms, retry_errors=retry))

    def read(self, name: str) -> pa.Table:
        """Read a table by key, as anybody would."""
        return pq.read_table(self.directory / name / "data").sort_by("example_id")

    def parts(self, name: str) -> dict[str, int]:
        """Parts of a table by hash, with their inodes."""
        files = sorted((self.directory / name / "data").iterdir())
        return {file.name.rpartition("-")[2]: file.stat().st_ino for file in files}


@pytest.fixture
def grown(tmp_path: Path) -> Grown:
    return Grown(tmp_path)


def made(summary: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {
        how: (some["shards"], some["rows"]) for how, some in summary["made"].items()
    }


def same(one: pa.Table, other: pa.Table) -> None:
    """Tables of the same rows; computed values to rounding."""
    assert one.column_names == other.column_names
    for name in one.column_names:
        if pa.types.is_list(one[name].type):
            np.testing.assert_allclose(
                stacked(one[name]), stacked(other[name]), rtol=1e-5, atol=1e-6
            )
        else:
            assert one[name].to_pylist() == other[name].to_pylist()


def test_nothing_has_changed_and_all_is_carried(grown: Grown) -> None:
    first = grown.make("one")
    again = grown.make("two", "one")
    assert made(first) == {"computed": (4, 75)}
    assert made(again) == {"carried": (4, 75)}
    assert grown.parts("two") == grown.parts("one")  # hard links
    assert again["saved_bytes"] == first["bytes"]
    assert verify_table(str(grown.directory / "two")) == []
    shutil.rmtree(grown.directory / "one")
    assert verify_table(str(grown.directory / "two")) == []


def test_rows_that_are_taken_over_need_no_model(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown.make("one", taps=[HEAD, STEM])
    grown.add("b", range(30, 50))  # one shard keeps some of its rows
    config = grown.config(table={"path": str(grown.directory / "two")}, taps=[STEM])
    plan = make_plan(config, [str(grown.directory / "one")])
    prepare_table(plan)

    def fail(*_: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("transforms.worker.cached_model", fail)
    worker = worker_of(grown.directory / "two")
    some = [extract_shard(worker, shard) for shard in plan.shards if shard.origin]
    assert {commit.made for commit in some} == {"projected"}
    assert {commit.device_rows for commit in some} == {0}
    with pytest.raises(AssertionError, match="loaded"):
        extract_shard(worker, next(s for s in plan.shards if not s.origin))


def test_new_files_are_computed_and_cut_by_themselves(grown: Grown) -> None:
    grown.make("one")
    grown.add("aa", range(100, 130))
    summary = grown.make("two", "one")
    assert made(summary) == {"carried": (4, 75), "computed": (2, 30)}
    assert set(grown.parts("one").items()) < set(grown.parts("two").items())
    grown.make("fresh")
    same(grown.read("two"), grown.read("fresh"))


def test_a_changed_file_is_computed_and_the_rest_of_its_shards_is_kept(
    grown: Grown,
) -> None:
    grown.make("one")
    before = grown.read("one")
    grown.add("a", range(100, 125))
    summary = grown.make("two", "one")
    # rows 20 to 29 of a and 0 to 9 of b were one shard
    assert made(summary) == {
        "carried": (2, 35),
        "projected": (1, 10),
        "computed": (2, 25),
    }
    after = grown.read("two")
    assert after["example_id"].to_pylist() == [*range(30, 75), *range(100, 125)]
    same(after.slice(0, 45), before.slice(30))
    assert verify_table(str(grown.directory / "two")) == []


def test_a_file_that_is_gone_takes_its_rows_along(grown: Grown) -> None:
    grown.make("one")
    (grown.data / "b.parquet").unlink()
    summary = grown.make("two", "one")
    assert made(summary) == {"carried": (1, 20), "projected": (1, 10)}
    assert grown.read("two")["example_id"].to_pylist() == list(range(30))


def test_a_missing_tap_is_added(grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    grown.make("one", taps=[HEAD])
    before = grown.parts("one")
    summary = grown.make("two", "one", taps=[HEAD, HIDDEN])
    assert made(summary) == {"extended": (4, 75)}
    grown.make("fresh", taps=[HEAD, HIDDEN])
    two, fresh = grown.read("two"), grown.read("fresh")
    same(two, fresh)
    assert two["head"].equals(grown.read("one")["head"])  # to the last bit
    assert grown.parts("one") == before
    assert parity_of(str(grown.directory / "two"), 20).passed


def test_only_missing_taps_are_computed(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = set()

    def watched(layout: Any, *arguments: Any) -> Any:
        computed.add(tuple(c.name for c in layout.columns if c.is_computed))
        return encode(layout, *arguments)

    grown.make("one", taps=[HEAD])
    monkeypatch.setattr(extract, "encode", watched)
    grown.make("two", "one", taps=[HEAD, HIDDEN])
    assert computed == {("hidden",)}
    grown.make("three", "two", taps=[HEAD, HIDDEN])
    assert computed == {("hidden",)}


def test_a_tap_less_is_projected(grown: Grown) -> None:
    grown.make("one")
    summary = grown.make("two", "one", taps=[HEAD])
    assert made(summary) == {"projected": (4, 75)}
    grown.make("fresh", taps=[HEAD])
    assert grown.read("two").equals(grown.read("fresh"))
    assert list(grown.parts("two")) == list(grown.parts("fresh"))  # byte by byte


def test_columns_of_single_numbers_are_projected(grown: Grown) -> None:
    mean = {**HIDDEN, "reduce": "mean", "column": "mean"}
    grown.make("one", taps=[mean, HEAD])
    summary = grown.make("two", "one", taps=[mean])
    assert made(summary) == {"projected": (4, 75)}
    same(grown.read("two"), grown.read("one").drop_columns(["head"]))


def test_a_column_may_have_another_name_and_place(grown: Grown) -> None:
    grown.make("one")
    taps = [HEAD, {**HIDDEN, "column": "other"}]
    assert made(grown.make("two", "one", taps=taps)) == {"projected": (4, 75)}
    grown.make("fresh", taps=taps)
    assert grown.read("two").equals(grown.read("fresh"))


def test_another_model_of_the_same_width_gives_nothing(grown: Grown) -> None:
    grown.make("one")
    model = {"build": "toolbox:other_dict_model"}
    path = str(grown.directory / "one")
    plan = make_plan(grown.config(model=model, table={"path": "x"}), [path])
    assert plan.earlier == ()
    assert plan.notes == (
        f"nothing is taken over from {path!r}: it has none of the columns (different:"
        " model)",
    )


def test_rows_that_are_made_in_another_way_give_nothing(grown: Grown) -> None:
    grown.make("one")
    path = str(grown.directory / "one")
    plan = make_plan(
        grown.config(source={"keep": ["text"]}, table={"path": "x"}), [path]
    )
    assert plan.earlier == ()
    assert "its rows are made in another way (different: source)" in plan.notes[0]


def test_several_tables(grown: Grown) -> None:
    everything = sorted(grown.data.iterdir())
    for file in everything:
        alone = {"path": str(file)}
        grown.make(file.stem, source=alone)
    summary = grown.make("two", "a", "b")
    assert made(summary) == {"carried": (5, 75)}
    assert grown.read("two")["example_id"].to_pylist() == list(range(75))


def test_a_table_of_a_table_of_a_table(grown: Grown) -> None:
    grown.make("one", taps=[HEAD])
    grown.make("two", "one", taps=[HEAD, HIDDEN])
    grown.add("c", range(75, 100))
    shutil.rmtree(grown.directory / "one")
    summary = grown.make("three", "two", taps=[HIDDEN])
    assert made(summary) == {"projected": (4, 75), "computed": (2, 25)}
    assert summary["saved_seconds"] > 0
    grown.make("fresh", taps=[HIDDEN])
    same(grown.read("three"), grown.read("fresh"))


class TestBadRows:
    """Rows that are bad stay bad, with their reasons."""

    MODEL: ClassVar[dict[str, Any]] = {"build": "toolbox:half_picky_model"}
    LENIENT: ClassVar[dict[str, Any]] = {
        "max_fraction": 0.1,
        "non_finite": "quarantine",
    }

    @pytest.fixture
    def spoiled(self, grown: Grown) -> Grown:
        values = vectors(200)
        values[[3, 40, 74], 0] = -1
        for name, ids in (("a", range(30)), ("b", range(30, 75))):
            write_parquet(grown.data / f"{name}.parquet", ids, values, 5)
        return grown

    def errors(self, grown: Grown, name: str) -> list[tuple[Any, ...]]:
        found = pq.read_table(grown.directory / name / "_featuretap" / "errors")
        return [
            (row["example_id"], row["file"], row["row"], row["stage"], row["message"])
            for row in found.to_pylist()
        ]

    def test_they_are_carried(self, spoiled: Grown) -> None:
        lenient = {"errors": self.LENIENT, "model": self.MODEL, "taps": [HEAD]}
        first = spoiled.make("one", **lenient)
        again = spoiled.make("two", "one", **lenient)
        assert first["quarantined"] == again["quarantined"] == 3
        assert self.errors(spoiled, "two") == self.errors(spoiled, "one")
        with pytest.raises(RuntimeError, match="3 of 75"):
            spoiled.make(
                "strict", "one", **{**lenient, "errors": {"non_finite": "quarantine"}}
            )
        assert made(again) == {"carried": (4, 72)}

    @pytest.mark.parametrize(("bad", "share"), [(0, "3 of 100"), (3, "6 of 100")])
    def test_the_budget_is_of_the_whole_table(
        self, bad: int, share: str, spoiled: Grown
    ) -> None:
        """Carried and computed rows together, wherever the bad ones are."""
        sections: dict[str, Any] = {"model": self.MODEL, "taps": [HEAD]}
        spoiled.make("one", errors=self.LENIENT, **sections)
        values = vectors(200)
        values[80 : 80 + bad, 0] = -1
        write_parquet(spoiled.data / "c.parquet", range(75, 100), values, 5)
        found = (3 + bad) / 100  # of the carried rows alone 0.04, of the new ones 0.12
        for fraction in (found - 0.001, found):
            errors = {**self.LENIENT, "max_fraction": fraction}
            strict = fraction < found
            with pytest.raises(RuntimeError, match=share) if strict else nullcontext():
                spoiled.make("two", "one", errors=errors, **sections)
        status = table_status(str(spoiled.directory / "two"))
        assert status.made["carried"] == {"shards": 4, "rows": 72}
        assert status.quarantined == 3 + bad

    def test_they_are_not_computed_again_where_columns_are_added(
        self, spoiled: Grown
    ) -> None:
        lenient = {"errors": self.LENIENT, "model": self.MODEL}
        spoiled.make("one", taps=[HEAD], **lenient)
        summary = spoiled.make("two", "one", taps=[HEAD, STEM], **lenient)
        assert made(summary) == {"extended": (4, 72)}
        assert self.errors(spoiled, "two") == self.errors(spoiled, "one")
        spoiled.make("fresh", taps=[HEAD, STEM], **lenient)
        same(spoiled.read("two"), spoiled.read("fresh"))

    def test_they_are_retried(self, spoiled: Grown) -> None:
        lenient = {"errors": self.LENIENT, "model": self.MODEL, "taps": [HEAD]}
        spoiled.make("one", **lenient)
        summary = spoiled.make("two", "one", retry=True, **lenient)
        assert made(summary) == {"carried": (1, 20), "computed": (3, 52)}

    def test_a_column_less_may_make_them_good(self, spoiled: Grown) -> None:
        lenient = {"errors": self.LENIENT, "model": self.MODEL}
        spoiled.make("one", taps=[HEAD, STEM], **lenient)
        summary = spoiled.make("two", "one", taps=[STEM], **lenient)
        assert made(summary) == {"projected": (1, 20), "computed": (3, 55)}
        assert summary["quarantined"] == 0


def test_a_resumed_run_needs_the_same_tables(grown: Grown) -> None:
    grown.make("one")
    grown.add("c", range(75, 100))
    grown.make("two", "one")
    with pytest.raises(ConfigError, match="give the same --from"):
        grown.make("two")
    again = grown.make("two", "one")
    assert made(again) == {"carried": (4, 75), "computed": (2, 25)}


def test_an_unfinished_table_is_refused(grown: Grown) -> None:
    grown.make("one")
    (grown.directory / "one" / "_SUCCESS").unlink()
    with pytest.raises(ConfigError, match="must name finished tables"):
        grown.make("two", "one")


def test_a_table_of_some_rows_is_refused(grown: Grown) -> None:
    grown.make("one", limit=10)
    with pytest.raises(ConfigError, match="made with --limit 10"):
        grown.make("two", "one")
    with pytest.raises(ConfigError, match="either --from or --limit"):
        grown.make("two", "one", limit=10)


def test_a_table_is_not_made_of_itself(grown: Grown) -> None:
    grown.make("one")
    with pytest.raises(ConfigError, match="choose a new path"):
        grown.make("one", "one")


def test_a_table_that_is_replaced_meanwhile_is_noticed(grown: Grown) -> None:
    grown.make("one")
    path = str(grown.directory / "one")
    plan = make_plan(grown.config(table={"path": str(grown.directory / "two")}), [path])
    shutil.rmtree(path)
    grown.make("one", taps=[HEAD])
    with pytest.raises(RuntimeError, match="has been replaced"):
        run_plan(plan)


def test_a_plan_says_beforehand_how_its_shards_will_be_made(grown: Grown) -> None:
    grown.make("one", taps=[HEAD])
    (grown.data / "a.parquet").unlink()
    grown.add("c", range(75, 100))
    old = [str(grown.directory / "one")]
    for taps, kept in (([HEAD], "carried"), ([HEAD, HIDDEN], "extended")):
        table = {"path": str(grown.directory / kept)}
        plan = make_plan(grown.config(taps=taps, table=table), old)
        ahead = outlook(plan, plan.shards)
        counts = {how: (some.shards, some.rows) for how, some in ahead.items()}
        assert counts == made(run_plan(plan))
        assert set(counts) >= {kept, "computed"}
    alone = make_plan(grown.config(table={"path": "x"}))
    assert outlook(alone, alone.shards) == {"computed": Outlook(4, 70, 0.0)}


def test_status_says_what_was_saved(grown: Grown) -> None:
    grown.make("one")
    grown.make("two", "one")
    status = table_status(str(grown.directory / "two"))
    assert status.made == {"carried": {"shards": 4, "rows": 75}}
    assert status.saved_bytes == status.bytes


def test_the_same_inputs_and_history_give_the_same_bytes(grown: Grown) -> None:
    grown.make("one", taps=[HEAD])
    grown.add("c", range(75, 100))
    for name in ("two", "other"):
        grown.make(name, "one", taps=[HEAD, HIDDEN])
    assert list(grown.parts("two")) == list(grown.parts("other"))


def test_records_and_parts_say_what_they_are(grown: Grown) -> None:
    grown.make("one")
    commit = Table(str(grown.directory / "one")).read_commit(0)
    assert commit is not None
    assert set(commit.column_keys) == {"hidden", "head"}
    footer = pq.read_schema(grown.directory / "one" / commit.part.path)
    assert footer.metadata[b"featuretap.rows_key"].decode() == commit.rows_key
    for column in commit.column_keys.values():
        assert column.encode() in footer.metadata[b"featuretap"]


def test_a_link_is_a_copy_where_links_are_impossible(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown.make("one")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("another disk")

    real = os.link
    monkeypatch.setattr(
        os,
        "link",
        lambda a, b: refuse() if "part-" in str(a) and "one" in str(a) else real(a, b),
    )
    assert made(grown.make("two", "one")) == {"carried": (4, 75)}
    one, two = grown.parts("one"), grown.parts("two")
    assert list(one) == list(two)
    assert not {*one.values()} & {*two.values()}


def test_files_that_change_places_are_other_features(tmp_path: Path) -> None:
    for name, values in (("a", [1.0, 2.0]), ("b", [3.0, 5.0])):
        np.save(tmp_path / f"{name}.npy", np.array(values, np.float32))
    made_plans = []
    for x, y in (("a", "b"), ("b", "a")):
        path = {"x": str(tmp_path / f"{x}.npy"), "y": str(tmp_path / f"{y}.npy")}
        source = {"reader": "numpy", "path": path, "key": None, "keep": ["y"]}
        job = Job(tmp_path, {})
        model = {"build": "toolbox:plain_number"}
        made_plans.append(
            make_plan(job.config(source=source, model=model, taps=[HEAD]))
        )
    one, other = made_plans
    assert one.rows_made_by != other.rows_made_by


def test_a_shard_whose_first_batch_has_no_sound_row_is_extended(grown: Grown) -> None:
    values = vectors(200)
    values[20:28, 0] = -1
    for name, ids in (("a", range(30)), ("b", range(30, 75))):
        write_parquet(grown.data / f"{name}.parquet", ids, values, 5)
    sections: dict[str, Any] = {
        "errors": {"max_fraction": 0.5, "non_finite": "quarantine"},
        "model": {"build": "toolbox:half_picky_model", "batch_rows": 4},
    }
    grown.make("one", taps=[STEM], **sections)
    summary = grown.make("two", "one", taps=[STEM, HEAD], **sections)
    assert summary["quarantined"] == 8
    grown.make("fresh", taps=[STEM, HEAD], **sections)
    same(grown.read("two"), grown.read("fresh"))


def test_a_table_that_is_replaced_between_two_shards_is_noticed(grown: Grown) -> None:
    grown.make("one")
    path = str(grown.directory / "one")
    plan = make_plan(grown.config(table={"path": str(grown.directory / "two")}), [path])
    first, second, *_ = plan.shards
    assert earlier_shard(plan, first) is not None
    shutil.rmtree(path)
    grown.make("one", model={"build": "toolbox:other_dict_model"})
    with pytest.raises(RuntimeError, match="has been replaced"):
        earlier_shard(plan, second)


def test_rows_that_were_not_looked_at_are_looked_at(grown: Grown) -> None:
    values = vectors(200)
    values[3, 0] = -1
    write_parquet(grown.data / "a.parquet", range(30), values, 5)
    model = {"build": "toolbox:half_picky_model"}
    sections: dict[str, Any] = {"model": model, "taps": [HEAD]}
    grown.make("one", errors={"non_finite": "allow"}, **sections)
    summary = grown.make("two", "one", **sections)
    assert summary["non_finite"] == {"head": 1}
    again = grown.make("three", "two", errors={"non_finite": "allow"}, **sections)
    assert (set(again["made"]), again["non_finite"]) == ({"carried"}, {})


def test_nothing_but_files_and_record_is_written_of_a_shard_that_is_carried(
    grown: Grown,
) -> None:
    grown.make("one")
    path = grown.directory / "two"
    config = grown.config(table={"path": str(path)})
    plan = make_plan(config, [str(grown.directory / "one")])
    prepare_table(plan)
    before = {*path.rglob("*")}
    commit = extract_shard(worker_of(str(path)), plan.shards[0])
    record = Path("_featuretap", "commits", "00000.json")
    uploads = Path("_featuretap", "uploads")  # empty, until the table is finished
    files = {Path(file.path) for file in commit.files}
    made = {*files, *(file.parent for file in files), record.parent, record, uploads}
    assert {*path.rglob("*")} - before == {path / name for name in made}


def test_a_part_of_another_size_than_was_recorded_is_not_carried(grown: Grown) -> None:
    grown.make("one")
    commit = Table(str(grown.directory / "one")).read_commit(0)
    assert commit is not None
    part, size = grown.directory / "one" / commit.part.path, commit.part.bytes
    os.truncate(part, size - 1)
    message = f"{part} must have {size} bytes, its copy .* has {size - 1}"
    with pytest.raises(RuntimeError, match=message):
        grown.make("two", "one")


def test_bad_rows_are_told_from_which_piece_they_are() -> None:
    pieces = [Piece("a", "a", 0, 3), Piece("b", "b", 5, 4), Piece("a", "a", 3, 3)]
    part = StoredFile("", 7, 0, "")
    record = Commit(0, "", "", {}, 10, part, None, StoredStatistics(part, None, 0))

    def bad(file: str, row: int) -> BadRow:
        return BadRow(None, 0, file, row, "infer", "", "")

    rows = [bad("a", 4), bad("b", 5), bad("b", 7)]
    stored = stored_pieces(pieces, record, rows)
    assert [one.first for one in stored] == [0, 3, 5]
    assert [one.bad.tolist() for one in stored] == [[], [0, 2], [1]]
    assert [stored[1].in_part(row) for row in range(4)] == [3, 3, 4, 4]
    with pytest.raises(RuntimeError, match="row 9 of b does not"):
        stored_pieces(pieces, record, [bad("b", 9)])
