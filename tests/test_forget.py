"""Rows that are to be forgotten are in no file of the new table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import Job, parity_of, stacked, vectors
from hypothesis import given
from hypothesis import strategies as st

from pipeline import forget_rows, make_plan, run_plan, verify_table
from pipeline.forget import table as forgetting
from pipeline.forget.keys import Redaction, read_keys
from pipeline.forget.table import Forgotten
from transforms.extract import extract_shard
from transforms.lookup import ConfigError
from transforms.table.columns import Column
from transforms.table.directory import Table

ROWS = 60
NAMES = [f"user-{i:03d}" for i in range(ROWS)]
DAY = np.datetime64("2026-03-01T00:00:00", "us")


class Users(Job):
    """A job over two files of users, each with a word that must be long."""

    def __init__(self, directory: Path, reader: str = "parquet") -> None:
        self.data = directory / "data"
        self.data.mkdir()
        source = {"reader": reader, "path": str(self.data), "keep": ["text"]}
        super().__init__(directory, source)
        self.write("a", range(25))
        self.write("b", range(25, ROWS))

    def write(self, name: str, ids: range, text: Mapping[int, str] = {}) -> None:
        """Write a file of the source, with other text than usual in some rows."""
        rows = pa.table(
            {
                "id": [NAMES[i] for i in ids],
                "vec": list(vectors(ROWS)[list(ids)]),
                "text": [text.get(i, f"word of {NAMES[i]}") for i in ids],
                "user": [f"person-{i // 3:03d}" for i in ids],
                "day": [DAY + np.timedelta64(i % 3, "D") for i in ids],
            }
        )
        pq.write_table(rows, self.data / f"{name}.parquet", row_group_size=10)

    def make(self, name: str, *earlier: str, **sections: Any) -> dict[str, Any]:
        """Make a table, perhaps from others."""
        table = {**sections.pop("table", {}), "path": str(self.directory / name)}
        config = self.config(table=table, **sections)
        return run_plan(make_plan(config, [str(self.directory / e) for e in earlier]))

    def forget(self, keys: str | Path, old: str = "old", new: str = "new") -> Forgotten:
        """Forget keys, as text or as a file."""
        if isinstance(keys, str):
            file = self.directory / "keys.txt"
            file.write_text(keys)
            keys = file
        old, new = (str(self.directory / name) for name in (old, new))
        return forget_rows(old, str(keys), new)

    def read(self, name: str) -> pa.Table:
        """Read a table by key."""
        return pq.read_table(self.directory / name / "data").sort_by("example_id")

    def bad(self, name: str) -> list[dict[str, Any]]:
        """Read the bad rows of a table."""
        found = pq.read_table(self.directory / name / "_featuretap" / "errors")
        return list(found.to_pylist())

    def inodes(self, name: str) -> set[int]:
        """The parts of a table as files of the disk."""
        return {p.stat().st_ino for p in (self.directory / name / "data").iterdir()}

    def holding(self, name: str, *texts: str) -> list[str]:
        """Files of a table that hold a text, in their bytes or in their columns."""
        found = []
        for file in (self.directory / name).rglob("*"):
            data = file.read_bytes() if file.is_file() else b""
            if file.suffix == ".parquet":
                data += str(pq.read_table(file).to_pydict()).encode()
            if any(text.encode() in data or text in file.name for text in texts):
                found.append(file.name)
        return found


@pytest.fixture
def users(tmp_path: Path) -> Users:
    return Users(tmp_path)


def test_rows_are_left_out_and_other_parts_are_carried(users: Users) -> None:
    users.make("old")
    before = users.read("old")
    made = users.forget("user-007\nuser-008\n\nuser-030\nnobody\n")
    assert (made.rows, made.keys, made.keys_found) == (3, 4, 3)
    kept = [i for i in range(ROWS) if i not in (7, 8, 30)]
    assert users.read("new").equals(before.take(kept))
    assert users.holding("new", "user-007", "user-008", "user-030") == []
    assert users.holding("old", "user-007")  # so the search can find something
    assert made.summary["made"] == {
        "carried": {"shards": 2, "rows": 25},
        "projected": {"shards": 2, "rows": 32},
    }
    assert len(users.inodes("new") & users.inodes("old")) == 2
    assert verify_table(str(users.directory / "new")) == []
    assert users.read("old").equals(before)
    assert parity_of(str(users.directory / "new"), ROWS).passed


def test_it_ends_with_the_places_where_the_rows_may_lie_still(users: Users) -> None:
    users.make("oldest")
    users.make("older", "oldest")
    users.make("old", "older", taps=[{"path": "head"}])
    published = users.directory / "old" / "_featuretap" / "published"
    published.mkdir()
    record = {"target": "delta", "location": "/stores/delta", "was_there": False}
    text = json.dumps({**record, "rows": 60, "sampled": 4})
    (published / "delta.json").write_text(text)
    made = users.forget("user-007\n")
    assert made.places == (
        f"the old table: {users.directory / 'old'}",
        "delta: /stores/delta",
        f"a table that it took rows over from: {users.directory / 'older'}",
        f"a table that it took rows over from: {users.directory / 'oldest'}",
        f"the source: parquet {users.data}; a run that computes rows anew brings"
        " back what is still there",
    )


def test_a_later_table_takes_over_what_is_left(users: Users) -> None:
    users.make("old", taps=[{"path": "head"}])
    users.forget("user-000\nuser-024\nuser-040\n")
    both = [{"path": "head"}, {"path": "stem"}]
    summary = users.make("later", "new", taps=both)
    assert set(summary["made"]) == {"extended"}
    users.make("fresh", taps=both)
    later, fresh = users.read("later"), users.read("fresh")
    kept = fresh.take([i for i in range(ROWS) if i not in (0, 24, 40)])
    assert later["example_id"].equals(kept["example_id"])
    np.testing.assert_allclose(stacked(later["stem"]), stacked(kept["stem"]), rtol=1e-5)
    assert parity_of(str(users.directory / "later"), ROWS).passed


def test_bad_rows_are_forgotten_and_named_no_more(users: Users) -> None:
    users.write("a", range(25), text={3: "bad user-003"})
    users.write("b", range(25, ROWS), text={30: "bad 'user-003'"})
    step = {"step": "toolbox:refuse_text", "text": "bad.*"}
    source = {**users.source, "preprocess": [step]}
    users.make("old", source=source, errors={"max_fraction": 1.0})
    assert {one["example_id"] for one in users.bad("old")} == {"user-003", "user-030"}
    made = users.forget("user-003\nuser-050\n")
    assert (made.rows, made.keys_found) == (2, 1)
    (bad,) = users.bad("new")
    assert (bad["example_id"], bad["row"]) == ("user-030", 5)
    assert "bad '[forgotten]'" in bad["message"]
    assert users.holding("new", "user-003", "user-050") == []
    assert verify_table(str(users.directory / "new")) == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", ["example_id", "id"])
def test_keys_of_a_table(users: Users, suffix: str, name: str) -> None:
    users.make("old")
    rows = pa.table({"why": ["asked", "asked"], name: ["user-001", "user-059"]})
    file = users.directory / f"keys{suffix}"
    write = pacsv.write_csv if suffix == ".csv" else pq.write_table
    write(rows, file)
    assert users.forget(file).rows == 2
    assert users.holding("new", "user-001", "user-059") == []


def test_an_entity_is_forgotten_with_all_its_rows(users: Users) -> None:
    users.source.update(keep=["user"])
    table = {"entity": "user", "event_timestamp": "day"}
    users.make("old", table=table)
    file = users.directory / "people.csv"
    file.write_text("user,reason\nperson-002,asked\nperson-010,asked\n")
    made = users.forget(file)
    assert made.rows == 6
    assert users.holding("new", "person-002", "person-010") == []
    assert "bad rows" not in made.places[-1]
    step = {"step": "toolbox:refuse_text", "text": "word of user-00."}
    source = {**users.source, "keep": ["user", "text"], "preprocess": [step]}
    users.make("with bad", table=table, source=source, errors={"max_fraction": 1})
    bad = users.forget(file, "with bad", "less")
    assert bad.places[-1].startswith("10 bad rows of which nobody knows whose they are")
    both = users.directory / "both.csv"
    both.write_text("user,example_id\nperson-002,b#1\n")
    with pytest.raises(ConfigError, match="the key or the entity, it has both"):
        users.forget(both, new="other")


def test_whole_numbers_are_keys(users: Users) -> None:
    rows = pa.table({"id": pa.array(range(ROWS), pa.int16()), "vec": list(vectors(60))})
    for file in users.data.iterdir():
        file.unlink()
    pq.write_table(rows, users.data / "rows.parquet")
    users.make("old", source={**users.source, "keep": []})
    assert users.forget("17\n59\n").rows == 2
    left = users.read("new")["example_id"].to_pylist()
    assert left == [i for i in range(ROWS) if i not in (17, 59)]


def test_rows_whose_number_only_reading_tells(tmp_path: Path) -> None:
    users = Users(tmp_path, "jsonl")
    for file in users.data.iterdir():
        file.unlink()
    rows: list[dict[str, Any]] = [
        {"id": NAMES[i], "vec": vectors(ROWS)[i].tolist(), "text": "a"}
        for i in range(ROWS)
    ]
    for i in (12, 13, 40):
        rows[i]["vec"] = NAMES[i]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (users.data / "rows.jsonl").write_text(lines)
    accept = {"max_fraction": 1.0}
    users.make("old", errors=accept)
    forgotten = (0, 11, 12, 14, 59)  # 12 is bad, and nobody knows its key
    made = users.forget("".join(f"{NAMES[i]}\n" for i in forgotten))
    assert users.holding("new", *(NAMES[i] for i in forgotten)) == []
    assert (made.rows, made.summary["quarantined"]) == (4, 3)
    assert len(users.read("new")) == ROWS - 7
    assert made.places[-1] == (
        "3 bad rows of which nobody knows whose they are: what the errors table of the"
        " new table says of them names their files and rows"
    )
    users.make("later", "new", errors=accept, taps=[{"path": "head"}, {"path": "stem"}])
    assert users.read("later")["example_id"].equals(users.read("new")["example_id"])


def test_the_name_of_a_photo_is_forgotten_with_it(tmp_path: Path) -> None:
    users = Users(tmp_path, "images")
    for file in users.data.iterdir():
        file.unlink()
    for i, name in enumerate(("ann", "bob", "carl")):
        pixels = tf.constant(40 * i, tf.uint8, (8, 8, 1))
        (users.data / f"of-{name}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    decode = {"step": "decode_image", "feature": "image", "channels": 1}
    resize = {"step": "resize", "feature": "image", "size": [8, 8]}
    source = {"key": None, "keep": [], "preprocess": [decode, resize]}
    users.make(
        "old",
        source=source,
        model={"build": "toolbox:image_model"},
        taps=[{"path": "head"}],
    )
    assert users.forget("of-bob.png\n").rows == 1
    assert users.holding("new", "of-bob") == []
    assert users.read("new")["example_id"].to_pylist() == ["of-ann.png", "of-carl.png"]
    photos = {"source": source, "model": {"build": "toolbox:image_model"}}
    both = [{"path": "head"}, {"path": "conv"}]
    assert users.make("later", "new", taps=both, **photos)["rows"] == 2  # it stays out
    assert users.make("latest", "later", taps=both, **photos)["rows"] == 2
    assert users.holding("latest", "of-bob") == []
    photo = users.data / "of-bob.png"
    photo.write_bytes((users.data / "of-ann.png").read_bytes())  # another photo
    assert users.make("last", "latest", taps=both, **photos)["rows"] == 3


def test_a_file_in_several_shards_is_looked_at_in_all(users: Users) -> None:
    users.data.joinpath("b.parquet").unlink()
    users.data.joinpath("a.parquet").rename(users.data / "of-user-007.parquet")
    users.make("old", table={"rows_per_part": 10})
    made = users.forget("user-007\n")
    assert any("the name of a file" in one for one in made.places)


def test_keys_are_lines_and_nothing_else_parts_them(users: Users) -> None:
    users.make("old")
    made = users.forget("user-004\x85user-005\r\nuser-006\ruser-007\n")
    assert (made.rows, made.keys) == (2, 3)
    kept = users.read("new")["example_id"].to_pylist()
    assert {"user-004", "user-005"} < set(kept)


@pytest.mark.parametrize("key", ['o"brien', "a\\b", "tab\tkey", "two  spaces", "田中"])
def test_keys_are_found_as_messages_quote_them(key: str) -> None:
    redaction = Redaction(frozenset({key}))
    escaped = key.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    for form in (key, escaped, " ".join(key.split()), repr(key), json.dumps(key)):
        said = redaction.redacted(f"assertion failed: [{form}] さん id_{form}")
        assert said == said.replace(key, "").replace(escaped, "")
        assert said.count("[forgotten]") == 2


def test_a_call_that_was_cut_off_goes_on(
    users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.make("old")
    computed: list[int] = []

    def break_off(worker: Any, shard: Any, find: Any) -> Any:
        computed.append(shard.index)
        if len(computed) == 2:
            raise OSError("cut off")
        return extract_shard(worker, shard, find)

    monkeypatch.setattr(forgetting, "extract_shard", break_off)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(OSError, match="cut off"):
        users.forget("user-007\n")
    assert not (users.directory / "new" / "_SUCCESS").exists()
    committed = Table(str(users.directory / "new")).committed()
    assert committed
    computed[:] = [-1, -2]
    assert users.forget("user-007\n").rows == 1
    assert not set(computed) & set(committed)
    assert verify_table(str(users.directory / "new")) == []
    with pytest.raises(ConfigError, match="holds another"):
        users.forget("user-008\n")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("nobody\n", "has none of the 1 keys in its column example_id"),
        ("\n\n", "at least one key"),
        ("".join(f"{name}\n" for name in NAMES), "nothing but rows of these keys"),
    ],
)
def test_what_cannot_be_forgotten_is_refused(
    users: Users, keys: str, said: str
) -> None:
    users.make("old")
    with pytest.raises(ConfigError, match=said):
        users.forget(keys)
    assert not (users.directory / "new").exists()
    with pytest.raises(ConfigError, match="must name a new table"):
        users.forget("user-001", new="old")
    with pytest.raises(FileNotFoundError, match="--keys must name a file"):
        users.forget(users.directory / "kyes.txt")


KEY = Column("example_id", "key", "int32", source="id")
USER = Column("user", "keep", "string", source="User")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("k.txt", "12\nx\n", "'x' is no whole number"),
        ("k.csv", "person\n1\n", "'example_id' or 'id' or the entity 'user', it has"),
        ("k.csv", 'id\n1\n""\n', "'' is no whole number"),
        ("k.parquet", "no parquet", "keys of the table"),
        ("k.txt", "99999999999\n", "keys of the table"),
        ("k.txt", "0x1F\n", "'0x1F' is no whole number"),
        ("k.csv", "id,id\n1,2\n", "'id' is twice"),
    ],
)
def test_files_that_hold_no_keys_are_refused(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_keys(str(file), [KEY, USER], ["user"])


def test_leading_zeros_and_byte_order_marks(tmp_path: Path) -> None:
    file = tmp_path / "k.csv"
    file.write_bytes(b"\xef\xbb\xbfUser\r\n007\r\n7\r\n007\r\n")
    keys = read_keys(str(file), [KEY, USER], ["user"])
    assert keys.columns == ("user",)
    assert sorted(keys.values["user"].to_pylist()) == ["007", "7"]


@given(st.lists(st.text("ab -.", min_size=1, max_size=5), min_size=1), st.data())
def test_whatever_the_keys_are_redaction_finds_them(
    keys: list[str], draw: st.DataObject
) -> None:
    redaction = Redaction(frozenset(keys))
    around = st.text("xy'\" ", max_size=4)
    key = draw.draw(st.sampled_from(keys))
    before, after = draw.draw(around), draw.draw(around)
    said = redaction.redacted(f"{before}'{key}'{after}")
    assert f"'{key}'" not in said
