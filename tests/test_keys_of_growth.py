"""What changes the keys by which tables take rows over, key by key of the config.

A commit record holds `rows_key`, which says what the rows are, and `column_keys`, which
say what made the values of each computed column.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import toolbox
from conftest import vectors

from pipeline import Plan, fingerprint, make_plan, run_plan
from pipeline.config_file import parse_config
from pipeline.fingerprint import INGREDIENTS
from transforms.config import StepSpec, TapSpec

Sections = Mapping[str, Any]
HIDDEN = {"path": "features:activation_1", "column": "hidden"}
HEAD = {"path": "head"}
BOTH = ("hidden", "head")
DOUBLE = "toolbox:double"
RESCALE = {"step": "rescale", "feature": "vec", "scale": 2.0}
WITH_UID = "toolbox:with_uid"
NOON = "2026-01-01T12:00:00Z"
v1 = tf.compat.v1


class Case(NamedTuple):
    """Two configs that differ in one key, and what that makes of the keys of growth.

    Attributes:
      after: sections of the one.
      rows: whether rows are made in another way.
      columns: of the one, that are made in another way than all of the other.
      before: sections of the other, beside those of `config`.
    """

    after: Sections
    rows: bool = False
    columns: tuple[str, ...] = ()
    before: Sections = MappingProxyType({})


def source(**options: Any) -> Sections:
    return {"source": options}


def model(**options: Any) -> Sections:
    return {"model": options}


def table(**options: Any) -> Sections:
    return {"table": options}


def errors(**options: Any) -> Sections:
    return {"errors": options}


def taps(*some: Any) -> Sections:
    return {"taps": list(some)}


def stored(path: str) -> Sections:
    return model(build=None, path=path)


def saved(signature: str, tags: list[str]) -> Sections:
    """The SavedModel, of which one tap is made."""
    which = {"signature": signature, "tags": tags}
    return {**model(build=None, path="saved", **which), **taps({"path": ":out"})}


def entity(kept: str, *names: str) -> Sections:
    timed = {"event_timestamp": NOON, "entity": list(names)}
    return {**source(keep=[kept]), **table(**timed)}


GATES: dict[str, Any] = {
    **dict.fromkeys(("duplicates", "dead_dimensions", "zero_rows", "non_finite"), 0.9),
    "norm": [0.0, 100.0],
    "effective_rank": 0.1,
    "drift": {"against": "another"},
}


CASES: dict[str, list[Case]] = {
    "source": [
        Case(source(path="data/*.parquet")),  # the same files
        Case(source(filter=[["id", ">=", 0]]), rows=True),
    ],
    "source.reader": [Case(source(reader="toolbox:Parquet"), rows=True)],
    "source.key": [
        Case(source(key=None), rows=True),
        Case(source(key="text"), rows=True),
    ],
    "source.keep": [
        Case(source(keep=["text"]), rows=True),
        Case(source(keep=["maybe"]), rows=True, before=source(keep=["text"])),
        Case(source(keep={"t": "text"}), rows=True, before=source(keep=["text"])),
    ],
    "source.preprocess": [
        Case(source(preprocess=[RESCALE]), columns=BOTH),
        Case(source(preprocess=[DOUBLE]), columns=BOTH),
        Case(
            source(preprocess=[{"step": DOUBLE, "batched": True}]),
            columns=BOTH,
            before=source(preprocess=[DOUBLE]),
        ),
        Case(
            source(preprocess=[{"step": DOUBLE, "factor": 3.0}]),
            columns=BOTH,
            before=source(preprocess=[DOUBLE]),
        ),
        Case(  # a kept column that no step looks at
            source(keep=["maybe"], preprocess=[RESCALE]),
            columns=BOTH,
            before=source(keep=["maybe"]),
        ),
        Case(  # one at which a step may look, so that its nulls are bad rows
            source(keep=["maybe"], preprocess=[DOUBLE]),
            rows=True,
            columns=BOTH,
            before=source(keep=["maybe"]),
        ),
        Case(  # one that a step makes
            source(keep=["uid"], preprocess=[RESCALE, WITH_UID]),
            rows=True,
            columns=BOTH,
            before=source(keep=["uid"], preprocess=[WITH_UID]),
        ),
    ],
    "model.path": [
        Case(stored("same.keras"), before=stored("one.keras")),
        Case(stored("other.keras"), columns=BOTH, before=stored("one.keras")),
    ],
    "model.weights": [
        Case(model(weights="one.weights.h5"), columns=BOTH),
        Case(model(weights="same.weights.h5"), before=model(weights="one.weights.h5")),
        Case(
            model(weights="other.weights.h5"),
            columns=BOTH,
            before=model(weights="one.weights.h5"),
        ),
    ],
    "model.build": [Case(model(build="toolbox:other_dict_model"), columns=BOTH)],
    "model.signature": [
        Case(saved("b", ["serve"]), columns=("out",), before=saved("a", ["serve"]))
    ],
    "model.tags": [
        Case(saved("a", []), columns=("out",), before=saved("a", ["serve"]))
    ],
    "model.imports": [
        Case(model(imports=["samples"]), columns=BOTH),
        Case(
            model(imports=["toolbox", "samples"]),
            before=model(imports=["samples", "toolbox"]),
        ),
    ],
    "model.inputs": [
        Case(model(inputs=["vec"])),  # which it takes anyway
        Case(model(inputs={"vec": "vec_2"}), columns=BOTH),
    ],
    "model.batch_rows": [Case(model(batch_rows=8), columns=BOTH)],
    "model.precision": [Case(model(precision="bfloat16"), columns=BOTH)],
    "model.jit": [Case(model(jit=True), columns=BOTH)],
    "model.trusted": [Case(model(trusted=True))],
    "taps": [
        Case(taps(HEAD)),
        Case(taps(HEAD, HIDDEN)),
        Case(taps({**HIDDEN, "column": "other"}, HEAD)),
        Case(taps(HIDDEN, {**HEAD, "dtype": "float32"})),  # which it is anyway
        Case(taps(HIDDEN, {**HEAD, "dtype": "float16"}), columns=("head",)),
        Case(taps({**HIDDEN, "reduce": "l2_normalize"}, HEAD), columns=("hidden",)),
        Case(taps(HIDDEN, HEAD, {"path": "stem"}), columns=("stem",)),
        Case(taps(HIDDEN, {"path": "stem", "column": "head"}), columns=("head",)),
    ],
    "table.path": [Case(table(path="elsewhere"))],
    "table.rows_per_part": [Case(table(rows_per_part=7))],
    "table.event_timestamp": [
        Case(table(event_timestamp=NOON), rows=True),
        Case(
            table(event_timestamp="2026-01-02T12:00:00Z"),
            rows=True,
            before=table(event_timestamp=NOON),
        ),
    ],
    "table.timestamp_unit": [
        Case(
            table(event_timestamp="id", timestamp_unit="s"),
            rows=True,
            before=table(event_timestamp="id", timestamp_unit="ms"),
        )
    ],
    "table.entity": [
        Case(entity("text", "text"), before=entity("text")),
        Case(  # whose nulls are bad rows
            entity("maybe", "maybe"), rows=True, before=entity("maybe")
        ),
    ],
    "errors.max_fraction": [Case(errors(max_fraction=1.0))],
    "errors.non_finite": [
        Case(errors(non_finite="allow")),
        Case(errors(non_finite="quarantine"), rows=True),
    ],
    "errors.crash": [Case(errors(crash="quarantine"))],
    "errors.attempts": [Case(errors(attempts=1))],
    **{
        f"gates.{name}": [Case({"gates": {name: limit}})]
        for name, limit in GATES.items()
    },
    "publish": [Case({"publish": {"huggingface": {}}})],
    "limit": [Case({"limit": 7})],
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a source, and a model in many forms."""
    path = tmp_path_factory.mktemp("keys")
    (path / "data").mkdir()
    for index, name in enumerate("abc"):
        write_rows(path / "data" / f"{name}.parquet", 5 * index)
    one, other = toolbox.dict_model(), toolbox.other_dict_model()
    for suffix, save in (("keras", "save"), ("weights.h5", "save_weights")):
        getattr(one, save)(path / f"one.{suffix}")
        getattr(other, save)(path / f"other.{suffix}")
        shutil.copy(path / f"one.{suffix}", path / f"same.{suffix}")
    save_graphs(path / "saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        run_plan(make_plan(config({"table": {"path": "another"}})))
    return path


@pytest.fixture(autouse=True)
def _there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)


def write_rows(file: Path, first: int, rows: int = 5) -> None:
    """Write rows with a text that may be null, and one that may not."""
    text = [f"row {first + i}" for i in range(rows)]
    columns: dict[str, tuple[pa.DataType, Any]] = {
        "id": (pa.int64(), np.arange(first, first + rows)),
        "vec": (pa.list_(pa.float32(), 6), list(vectors(rows))),
        "vec_2": (pa.list_(pa.float32(), 6), list(vectors(rows))),
        "text": (pa.string(), text),
        "maybe": (pa.string(), text),
    }
    schema = pa.schema(
        [pa.field(n, kind, nullable=n == "maybe") for n, (kind, _) in columns.items()]
    )
    values = {name: value for name, (_, value) in columns.items()}
    pq.write_table(pa.table(values, schema=schema), file)


def save_graphs(path: Path) -> None:
    """Save two graphs that differ in their tags, each with two signatures."""
    builder = v1.saved_model.Builder(str(path))
    for tags in ([], ["serve"]):
        with tf.Graph().as_default(), v1.Session() as session:
            vec = v1.placeholder(tf.float32, [None, 6], "vec")
            one = v1.get_variable("one", initializer=tf.ones([6]))
            signature = v1.saved_model.predict_signature_def
            both = {n: signature({"vec": vec}, {"out": vec + one}) for n in ("a", "b")}
            session.run(v1.global_variables_initializer())
            if tags:
                builder.add_meta_graph(tags, both)
            else:
                builder.add_meta_graph_and_variables(session, tags, both)
    builder.save()


def config(sections: Sections) -> Any:
    document: dict[str, Any] = {
        "source": {"reader": "parquet", "path": "data", "key": "id"},
        "model": {"build": "toolbox:dict_model", "batch_rows": 16},
        "taps": [HIDDEN, HEAD],
        "table": {"path": "table", "rows_per_part": 5},
    }
    for name, section in sections.items():
        inside = isinstance(section, dict)
        document[name] = {**document.get(name, {}), **section} if inside else section
    return parse_config(document)


_plans: dict[str, Plan] = {}


def planned(sections: Sections) -> Plan:
    key = json.dumps(dict(sections))
    if key not in _plans:
        _plans[key] = make_plan(config(sections))
    return _plans[key]


def made_anew(before: Plan, after: Plan) -> tuple[str, ...]:
    """Columns of a plan that are made in another way than all of another."""
    there = set(before.column_keys.values())
    return tuple(n for n, key in after.column_keys.items() if key not in there)


def test_every_key_of_the_config_is_in_the_table() -> None:
    assert set(CASES) == set(INGREDIENTS)
    changed = [tap for case in CASES["taps"] for tap in case.after["taps"]]
    assert {name for tap in changed for name in tap} == set(TapSpec.model_fields)
    steps = [
        step
        for case in CASES["source.preprocess"]
        for step in case.after["source"]["preprocess"]
        if isinstance(step, dict)
    ]
    assert set(StepSpec.model_fields) < {name for step in steps for name in step}


def flat(sections: Sections) -> dict[str, Any]:
    """A config's values by dotted name."""
    found = {}
    for name, section in config(sections).model_dump().items():
        inside = section.items() if isinstance(section, dict) else [("", section)]
        found |= {f"{name}.{key}".rstrip("."): value for key, value in inside}
    return found


@pytest.mark.parametrize("key", CASES)
def test_the_two_configs_of_a_case_differ_in_its_key_alone(key: str) -> None:
    for case in CASES[key]:
        one, other = flat(case.before), flat(case.after)
        names = {n for n in {*one, *other} if one.get(n) != other.get(n)}
        entered = {n if n in INGREDIENTS else n.partition(".")[0] for n in names}
        assert entered == {key}


@pytest.mark.parametrize("key", CASES)
def test_a_key_of_the_config_changes_these_keys_of_growth(key: str) -> None:
    for case in CASES[key]:
        before, after = planned(case.before), planned(case.after)
        rows = before.rows_made_by != after.rows_made_by
        assert (rows, made_anew(before, after)) == (case.rows, case.columns), case


@pytest.fixture(scope="module")
def made(directory: Path) -> Path:
    """A table of the config as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        run_plan(planned({}))
    return directory / "table"


@pytest.mark.parametrize("key", sorted(CASES.keys() - {"limit", "table.path"}))
def test_what_keeps_the_keys_is_taken_over_and_nothing_else(
    key: str, made: Path
) -> None:
    for case in CASES[key]:
        after = {**case.after, "table": {**case.after.get("table", {}), "path": "new"}}
        plan = make_plan(config(after), [str(made)])
        start = planned({})
        rows = start.rows_made_by == plan.rows_made_by
        some = made_anew(start, plan) != tuple(plan.column_keys)
        taken = {shard.origin is not None for shard in plan.shards}
        assert taken == {bool(plan.earlier)} == {rows and some}, case
        named = [note.rpartition("(different: ")[2].rstrip(")") for note in plan.notes]
        assert bool(named) is not bool(plan.earlier)
        ingredient = INGREDIENTS[key] or "model"  # by its digest
        assert all(ingredient in note.split(", ") for note in named), case


CODE = {
    "my_reader": "from transforms.sources.parquet import Parquet as made\n",
    "my_step": "from toolbox import with_uid as made\n",
    "my_reduction": "from toolbox import scaled_sum as made\n",
    "my_model": "from toolbox import dict_model as made\n",
    "my_layers": "",
    "my_other": "",
}


@pytest.mark.parametrize(
    ("module", "rows", "columns"),
    [
        ("my_reader", True, ()),
        ("my_step", False, BOTH),
        ("my_reduction", False, ("head",)),
        ("my_model", False, BOTH),
        ("my_layers", False, BOTH),
        ("my_other", False, ()),
    ],
)
def test_code_of_the_user_changes_the_keys_of_what_it_makes(
    module: str,
    rows: bool,
    columns: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in CODE.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    sections = {
        **source(reader="my_reader:made", preprocess=["my_step:made"], keep=["text"]),
        **model(build="my_model:made", imports=["my_layers"]),
        **taps(HIDDEN, {**HEAD, "reduce": ["my_reduction:made"]}),
    }
    before = make_plan(config(sections))
    (tmp_path / f"{module}.py").write_text(f"{CODE[module]}# changed\n")
    after = make_plan(config(sections))
    assert (before.rows_made_by != after.rows_made_by) is rows
    assert made_anew(before, after) == columns


def test_code_of_a_step_that_makes_a_kept_column_makes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_step", raising=False)
    code = tmp_path / "my_step.py"
    code.write_text(CODE["my_step"])
    sections = source(preprocess=["my_step:made"], keep=["uid"])
    before = make_plan(config(sections))
    code.write_text(f"{CODE['my_step']}# changed\n")
    after = make_plan(config(sections))
    assert before.rows_made_by != after.rows_made_by
    assert made_anew(before, after) == BOTH


def test_other_libraries_make_other_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    later = {**fingerprint.versions(), "numpy": "99"}
    monkeypatch.setattr(fingerprint, "versions", lambda: later)
    after = make_plan(config({}))
    assert planned({}).rows_made_by == after.rows_made_by
    assert made_anew(planned({}), after) == BOTH


def test_other_weights_under_one_path_make_other_columns(tmp_path: Path) -> None:
    path = str(tmp_path / "model.keras")
    plans = []
    for one in ("one", "other"):
        shutil.copy(f"{one}.keras", path)
        plans.append(make_plan(config(stored(path))))
    assert plans[0].rows_made_by == plans[1].rows_made_by
    assert made_anew(*plans) == BOTH


def change(data: Path) -> None:
    write_rows(data / "b.parquet", 50)


def touch(data: Path) -> None:
    os.utime(data / "b.parquet", (1, 1))


def rename(data: Path) -> None:
    (data / "b.parquet").rename(data / "d.parquet")


def add(data: Path) -> None:
    write_rows(data / "aa.parquet", 50)


def remove(data: Path) -> None:
    (data / "b.parquet").unlink()


def move(data: Path) -> None:
    data.rename(data.parent / "moved")


def copy_elsewhere(data: Path) -> None:
    shutil.copytree(data, data.parent / "moved")
    shutil.rmtree(data)


@pytest.mark.parametrize(
    ("happens", "kept", "new"),
    [
        (change, "ac", "b"),
        (touch, "ac", "b"),
        (rename, "ac", "d"),
        (add, "abc", "aa"),
        (remove, "ac", ""),
        (move, "", "abc"),
        (copy_elsewhere, "", "abc"),
    ],
)
def test_a_change_of_the_source_changes_the_keys_of_its_files_alone(
    happens: Callable[[Path], None], kept: str, new: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree("data", data)
    before = by_file(data)
    happens(data)
    after = by_file(data if data.exists() else tmp_path / "moved")
    same = {name for name in after if before.get(name) == after[name]}
    assert same == set(kept)
    assert after.keys() - same == ({"aa"} if new == "aa" else set(new))


@pytest.mark.parametrize(("kept", "rows"), [("text", False), ("vec", True)])
def test_features_of_another_type_make_other_rows_or_columns(
    kept: str, rows: bool, tmp_path: Path
) -> None:
    """The first file says which types features have, and a new one may be first."""
    shutil.copytree("data", tmp_path / "data")
    table = {"path": str(tmp_path / "table"), "rows_per_part": 5}
    sections = source(path=str(tmp_path / "data"), keep=[kept])
    before = make_plan(config({**sections, "table": table}))
    run_plan(before)
    first = pq.read_table(tmp_path / "data" / "a.parquet")
    wide = first["vec"].cast(pa.list_(pa.float64(), 6))
    first = first.set_column(1, pa.field("vec", wide.type, nullable=False), wide)
    pq.write_table(first, tmp_path / "data" / "Z.parquet")
    after = make_plan(config(sections), [table["path"]])
    assert (before.rows_made_by != after.rows_made_by) is rows
    assert made_anew(before, after) == BOTH
    assert after.notes[0].endswith(" (different: types of features)")


def by_file(data: Path) -> dict[str, str]:
    """Keys of a part's rows, each of which is of one file; columns stay the same."""
    plan = make_plan(config(source(path=str(data))))
    assert plan.rows_made_by == planned({}).rows_made_by
    assert plan.column_keys == planned({}).column_keys
    assert all(len(shard.pieces) == 1 for shard in plan.shards)
    return {
        Path(shard.pieces[0].file).stem: plan.rows_key(shard) for shard in plan.shards
    }
