"""The fingerprint changes exactly with what changes bytes, key by key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import config, planned, shards

from pipeline import fingerprint
from pipeline.cut import cut_shards
from pipeline.differences import _flat, refusal
from pipeline.fingerprint import (
    INGREDIENTS,
    changes_bytes,
    digest_of,
    hash_ingredients,
)
from pipeline.plan import Plan
from transforms.config import Config, StepSpec, TapSpec
from transforms.shard import Piece, Shard, Shards
from transforms.sources.source import File
from transforms.table.directory import Table
from transforms.table.plan_file import Claim, claim_table, read_claim, write_plan

FILES = (File("in/a", "a", 10, "1", (4,)), File("in/b", "b", 20, "2", (3, 1)))


def ingredients(
    made: Config | None = None,
    files: Any = FILES,
    units: Shards | None = None,
    model: str = "m" * 64,
) -> dict[str, str]:
    units = shards() if units is None else units
    return hash_ingredients(made or config(), files, units, model)


def different(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert set(before) == set(after)
    return {name for name, digest in before.items() if after[name] != digest}


def keys_of(model: type[pydantic.BaseModel]) -> set[str]:
    """Dotted names of a config's keys; lists of sections count as one."""
    found = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            found |= {f"{name}.{inner}" for inner in kind.model_fields}
        else:
            found.add(name)
    return found


def test_every_key_of_the_config_is_entered_and_no_other() -> None:
    assert set(INGREDIENTS) == {"source", *keys_of(Config)}
    assert "table.rows_per_part" in keys_of(Config)


CHANGES: dict[str, tuple[dict[str, Any], ...]] = {
    "source": ({"path": "other"}, {"split": "a"}, {"features": {"x": "int8"}}),
    "source.reader": ({"reader": "csv"},),
    "source.key": ({"key": "other"}, {"key": None}),
    "source.keep": ({"keep": ["a"]}, {"keep": ["a", "b"]}, {"keep": ["b", "a"]}),
    "source.preprocess": (
        {"preprocess": ["a"]},
        {"preprocess": ["a", "a"]},
        {"preprocess": [{"step": "a", "size": 1}]},
        {"preprocess": [{"step": "a", "size": [1, 2]}]},
        {"preprocess": [{"step": "a", "batched": True}]},
    ),
    "model.path": ({"path": "model.keras"},),
    "model.weights": ({"weights": "w.h5"},),
    "model.build": ({"build": "nowhere:other"},),
    "model.signature": ({"signature": "embed"},),
    "model.tags": ({"tags": []}, {"tags": ["serve"]}),
    "model.imports": ({"imports": ["m"]},),
    "model.inputs": ({"inputs": {"a": "b"}}, {"inputs": {"a": "c"}}),
    "model.batch_rows": ({"batch_rows": 8},),
    "model.precision": ({"precision": "float32"}, {"precision": "bfloat16"}),
    "model.jit": ({"jit": True},),
    "model.trusted": ({"trusted": True},),
    "table.path": ({"path": "elsewhere"},),
    "table.rows_per_part": (),  # counts by how it cuts the rows, see below
    "table.event_timestamp": ({"event_timestamp": "2026-01-01T00:00:00Z"},),
    "table.timestamp_unit": ({"timestamp_unit": "s"}, {"timestamp_unit": "us"}),
    "table.entity": ({"entity": "a"}, {"entity": ["a", "b"]}, {"entity": ["b", "a"]}),
    "errors.max_fraction": ({"max_fraction": 1.0},),
    "errors.non_finite": ({"non_finite": "quarantine"},),
    "errors.crash": ({"crash": "fail"}, {"crash": "quarantine"}),
    "errors.attempts": ({"attempts": 1},),
    "taps": (
        {"path": "tail"},
        {"path": "head", "column": "c"},
        {"path": "head", "reduce": "max"},
        {"path": "head", "reduce": ["max", "max"]},
        {"path": "head", "dtype": "float16"},
    ),
    "gates.duplicates": ({"duplicates": 0.5},),
    "gates.dead_dimensions": ({"dead_dimensions": 0.5},),
    "gates.zero_rows": ({"zero_rows": 0.5},),
    "gates.non_finite": ({"non_finite": 0.5},),
    "gates.norm": ({"norm": [1, 2]},),
    "gates.effective_rank": ({"effective_rank": 3},),
    "gates.drift": ({"drift": {"against": "there"}},),
    "publish": ({"publish": {"delta": {"path": "there"}}},),
    "limit": ({"limit": 1}, {"limit": 2}),
}


def test_every_key_is_changed_in_some_way() -> None:
    assert set(CHANGES) == set(INGREDIENTS)
    assert {k for one in CHANGES["taps"] for k in one} == set(TapSpec.model_fields)
    steps = [step for one in CHANGES["source.preprocess"] for step in one["preprocess"]]
    given = {key for step in steps for key in (step if isinstance(step, dict) else {})}
    assert set(StepSpec.model_fields) < given


def changed(key: str, change: dict[str, Any]) -> Config:
    section, _, name = key.partition(".")
    if section in ("taps", "limit", "publish"):
        return config(**({"taps": [change]} if section == "taps" else change))
    assert key == "source" or set(change) == {name}
    return config(**{section: change})


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_changes_its_own_ingredient_or_none(key: str) -> None:
    seen = [ingredients()]
    for change in CHANGES[key]:
        after = ingredients(changed(key, change))
        expected = {INGREDIENTS[key]} - {None}
        for before in seen:
            assert different(before, after) == expected
        assert (digest_of(seen[0]) == digest_of(after)) is (not expected)
        seen.append(after)


def test_of_non_finite_only_quarantine_changes_bytes() -> None:
    kinds = ("allow", "warn", "quarantine")
    allow, warn, quarantine = (
        ingredients(config(errors={"non_finite": kind})) for kind in kinds
    )
    assert allow == warn == ingredients()
    assert different(warn, quarantine) == {"non_finite"}


blocks = st.lists(st.integers(0, 9), max_size=4).map(tuple)
listings = st.lists(st.tuples(blocks, st.booleans()), max_size=4)


@given(listings, st.integers(1, 12), st.integers(1, 12))
def test_rows_per_part_counts_as_it_cuts_the_rows(
    files: Any, one: int, other: int
) -> None:
    listed = [File(f"f{i}", f"f{i}", 1, "", b, d) for i, (b, d) in enumerate(files)]
    before, after = (
        (list(cut_shards(listed, size)), config(table={"rows_per_part": size}))
        for size in (one, other)
    )
    found = different(
        *(ingredients(made, listed, Shards.of(cut)) for cut, made in (before, after))
    )
    assert found == (set() if before[0] == after[0] else {"parts"})


@pytest.mark.parametrize(
    "pieces",
    [
        [[Piece("a", "a", 0, 4), Piece("b", "b", 0, 4)]],
        [[Piece("a", "a", 0, 2)], [Piece("a", "a", 2, 2), Piece("b", "b", 0, 4)]],
        [[Piece("a", "a", 0, 3)], [Piece("a", "a", 3, 1), Piece("b", "b", 0, 4)]],
        [[Piece("a", "a", span=(0, 9))], [Piece("b", "b", span=(0, 5))]],
        [[Piece("a", "a", span=(0, 5))], [Piece("b", "b", span=(0, 5))]],
        [],
    ],
)
def test_each_way_to_cut_has_its_own_digest(pieces: list[list[Piece]]) -> None:
    cut = Shards.of(Shard(i, tuple(one)) for i, one in enumerate(pieces))
    whole = Shards.of(
        [Shard(0, (Piece("a", "a", 0, 4),)), Shard(1, (Piece("b", "b"),))]
    )
    assert different(ingredients(units=whole), ingredients(units=cut)) == {"parts"}


@pytest.mark.parametrize(
    "change",
    [
        {"uri": "in/c"},
        {"bytes": 11},
        {"version": "3"},
        {"blocks": (2, 2)},
        {"blocks": None},
    ],
)
def test_files_count_by_place_identity_and_blocks(change: dict[str, Any]) -> None:
    files = (replace(FILES[0], **change), FILES[1])
    assert different(ingredients(), ingredients(files=files)) == {"files"}
    assert different(ingredients(), ingredients(files=FILES[::-1])) == {"files"}
    assert different(ingredients(), ingredients(files=FILES[:1])) == {"files"}


def test_the_model_counts_by_its_digest() -> None:
    assert different(ingredients(), ingredients(model="n" * 64)) == {"model"}


def test_libraries_and_formats_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ingredients()
    later = {**fingerprint.versions(), "numpy": "99"}
    monkeypatch.setattr(fingerprint, "versions", lambda: later)
    assert different(before, ingredients()) == {"versions"}
    monkeypatch.setattr(fingerprint, "FORMAT_VERSION", 99)
    assert different(before, ingredients()) == {"versions", "format_version"}


def test_code_of_steps_readers_and_reductions_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_reader", "my_step", "my_reduction", "my_other"):
        (tmp_path / f"{name}.py").write_text("def f(x):\n    return x\n")
    made = config(
        source={"reader": "my_reader:f", "preprocess": ["my_step:f", "normalize"]},
        taps=[{"path": "head", "reduce": ["mean(axis=1)", "my_reduction:f(k=1)"]}],
    )
    for name in ("my_reader", "my_step", "my_reduction"):
        before = ingredients(made)
        (tmp_path / f"{name}.py").write_text("def f(x):\n    return x + 1\n")
        assert different(before, ingredients(made)) == {"user_code"}
    before = ingredients(made)
    (tmp_path / "my_other.py").write_text("")
    assert ingredients(made) == before


def test_the_order_in_which_options_are_written_does_not_matter() -> None:
    one = config(
        source={"a": 1, "b": {"c": 2, "d": 3}}, model={"inputs": {"x": "1", "y": "2"}}
    )
    other = config(
        source={"b": {"d": 3, "c": 2}, "a": 1}, model={"inputs": {"y": "2", "x": "1"}}
    )
    assert ingredients(one) == ingredients(other)


def test_ingredients_are_short_digests_and_stay_as_they_are() -> None:
    found = ingredients()
    assert all(len(d) == 16 and int(d, 16) >= 0 for d in found.values())
    assert found == ingredients()
    assert set(found) >= {one for one in INGREDIENTS.values() if one}
    assert digest_of({"b": 1, "a": [1]}) == digest_of({"a": [1], "b": 1})


@pytest.mark.parametrize("key", INGREDIENTS)
def test_a_name_below_a_key_changes_bytes_as_the_key_does(key: str) -> None:
    expected = INGREDIENTS[key] is not None
    below = f"{key}.split" if key == "source" else f"{key}.0.path"
    assert changes_bytes(key) is changes_bytes(below) is expected


def claimed(plan: Plan) -> Claim:
    document = plan.config.model_dump(mode="json", exclude_none=True)
    return Claim(
        "c",
        plan.fingerprint,
        plan.ingredients,
        plan.model_digest,
        plan.versions,
        document,
    )


def said(here: Plan, there: Plan) -> str:
    return refusal(Table("memory://direct/none"), here, claimed(there))


def test_both_values_of_each_difference_are_said() -> None:
    there = planned(config=config(limit=3), ingredients={"taps": "1", "limit": "2"})
    here = planned(
        config=config(model={"batch_rows": 8}, taps=[{"path": "tail"}]),
        ingredients={"taps": "9", "limit": "2"},
        fingerprint="e" * 64,
    )
    text = said(here, there)
    assert text.splitlines()[0].endswith("holds another (different: taps)")
    for name, one, other in (
        ("model.batch_rows", "256", "8"),
        ("taps.0.path", '"head"', '"tail"'),
        ("taps.0.column", '"h"', "nothing"),
        ("limit", "3", "nothing"),
    ):
        assert f"  {name}\n    there: {one}\n    here:  {other}" in text
    assert f"    there: {'f' * 64}\n    here:  {'e' * 64}\nchoose another" in text


def test_what_changes_no_byte_is_no_difference() -> None:
    here = planned(config=config(errors={"attempts": 9}, model={"trusted": True}))
    assert len(said(here, planned()).splitlines()) == 5


def test_a_few_differences_are_named_and_the_rest_counted() -> None:
    many = {f"option_{i}": i for i in range(9)}
    lines = said(planned(config=config(source=many)), planned()).splitlines()
    assert "  and 4 differences more" in lines
    assert sum(line.startswith("  source.option_") for line in lines) == 5


def test_another_library_is_a_difference_with_both_versions() -> None:
    here = planned(versions={"numpy": "2.0", "keras": "3.16"})
    expected = '  version of keras\n    there: "3.15"\n    here:  "3.16"'
    assert expected in said(here, planned())


def test_another_model_is_a_difference_with_both_digests() -> None:
    text = said(planned(model_digest="e" * 64), planned())
    assert f"    there: {'d' * 64}\n    here:  {'e' * 64}" in text


def test_files_that_are_new_gone_or_changed_are_named(tmp_path: Path) -> None:
    table, there = Table(str(tmp_path)), planned()
    claim_table(table, there)
    pieces = [("in/0", "v"), ("in/1", "v"), ("in/2", "v")]
    write_plan(
        table,
        there,
        Shards.of(Shard(0, (Piece(u, u, 0, 1, version=v),)) for u, v in pieces),
        read_claim(table),
    )
    now = [("in/0", "v"), ("in/1", "w"), ("in/3", "v")]
    here = replace(
        there,
        shards=Shards.of(Shard(0, (Piece(u, u, 0, 1, version=v),)) for u, v in now),
    )
    text = refusal(table, here, read_claim(table))
    assert (
        "  new: in/3\n  gone: in/2\n  changed: in/1\n    there: v\n    here:  w\n"
        in text
    )
    assert "in/0" not in text


@given(
    st.recursive(
        st.none() | st.integers() | st.text("ab.", max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3)
        ),
    )
)
def test_equal_documents_are_equal_when_laid_out(document: Any) -> None:
    laid = _flat({"top": document})
    assert _flat(json.loads(json.dumps({"top": document}))) == laid
    assert all(name.startswith("top") for name in laid)
