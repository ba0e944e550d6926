"""Config files and `--set`: what they set, what they refuse, what is nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import config

from pipeline.config_file import load_config, parse_config, set_key
from transforms import storage
from transforms.config import TableSpec
from transforms.lookup import ConfigError

TEXT = """
[source]
reader = "parquet"
path = "in"
preprocess = ["a", { step = "b", size = 3 }]
[model]
build = "m:f"
[[taps]]
path = "x"
reduce = "mean"
[[taps]]
path = "y"
[table]
path = "out/"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "job.toml").write_text(TEXT)
    return tmp_path / "job.toml"


def test_a_file_becomes_a_config(path: Path) -> None:
    found = load_config(path)
    assert found.source.options == {"path": "in"}
    assert [step.step for step in found.source.preprocess] == ["a", "b"]
    assert found.source.preprocess[1].options == {"size": 3}
    assert [tap.reduce for tap in found.taps] == [("mean",), ()]
    assert found.table.path == "out"
    assert (found.model.batch_rows, found.errors.attempts, found.limit) == (
        256,
        2,
        None,
    )
    storage.replace("memory://direct/job.toml", TEXT.encode())
    assert load_config("memory://direct/job.toml") == found


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("model.batch_rows=7", "model.batch_rows", 7),
        (" model.batch_rows =7", "model.batch_rows", 7),
        ("model.trusted=true", "model.trusted", True),
        ("source.path=s3://b/a=b.parquet", "source.options.path", "s3://b/a=b.parquet"),
        ("source.path=", "source.options.path", ""),
        ("source.path='3'", "source.options.path", "3"),
        ("source.path=['a', 'b']", "source.options.path", ["a", "b"]),
        ("source.rate=1e3", "source.options.rate", 1000.0),
        ("source.features.x=int64", "source.options.features", {"x": "int64"}),
        ("model.inputs={a='b'}", "model.inputs", {"a": "b"}),
        ("errors.max_fraction=0.5", "errors.max_fraction", 0.5),
        ("taps.1.path=z", "taps.1.path", "z"),
        (
            "taps.0.reduce=['max', 'l2_normalize']",
            "taps.0.reduce",
            ("max", "l2_normalize"),
        ),
        ("taps.1={path='w'}", "taps.1.path", "w"),
        ("source.preprocess.0=c", "source.preprocess.0.step", "c"),
        ("source.preprocess.1.size=9", "source.preprocess.1.options", {"size": 9}),
        ("limit=5", "limit", 5),
    ],
)
def test_an_override_sets_its_place(
    path: Path, override: str, place: str, value: object
) -> None:
    found: Any = load_config(path, [override])
    for part in place.split("."):
        if isinstance(found, dict):
            found = found[part]
        else:
            found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_an_override_changes_nothing_else(path: Path) -> None:
    before, after = load_config(path), load_config(path, ["taps.1.column=c"])
    assert after.taps[1].column == "c"
    assert after.model_copy(update={"taps": before.taps}) == before


def test_later_overrides_win_and_the_limit_wins_over_all(path: Path) -> None:
    overrides = ["model.batch_rows=1", "model.batch_rows=2", "limit=3"]
    found = load_config(path, overrides, limit=4)
    assert (found.model.batch_rows, found.limit) == (2, 4)
    assert load_config(path, overrides).limit == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("taps.2.path=x", "must name an existing entry, got '2' in 'taps.2.path=x'"),
        ("taps.2=x", "must name an existing entry, got '2'"),
        ("taps.-1.path=x", "must name an existing entry, got '-1'"),
        ("taps.path=x", "must name an existing entry, got 'path'"),
        ("model.build.x=1", "must name a key of a section, got 'model.build.x=1'"),
        ("model.build.x.y=1", "must name an existing entry, got 'x'"),
        ("model.bild=x", "model.bild is not a known key; nearest is 'build'"),
        ("limt=3", "limt is not a known key; nearest is 'limit'"),
        ("=3", "is not a known key"),
        ("limit=0", "limit: .*greater than 0, got 0"),
        ("limit=many", "limit: .*integer.*, got 'many'"),
    ],
)
def test_an_override_that_cannot_be_is_named(
    path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_an_entry_is_named_by_plain_digits(path: Path) -> None:
    with pytest.raises(ConfigError, match="must name an existing entry"):
        load_config(path, ["taps.².path=x"])


keys = st.text("abc_", min_size=1, max_size=3)
values = st.integers() | st.booleans() | st.text("xyz/:* ", max_size=5)


@given(st.lists(keys, min_size=1, max_size=4), values)
def test_any_place_of_sections_can_be_set(place: list[str], value: Any) -> None:
    document: dict[str, Any] = {}
    text = str(value).lower() if isinstance(value, bool) else str(value)
    set_key(document, f"{'.'.join(place)}={text}")
    found: Any = document
    for part in place:
        assert list(found) == [part]
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {"batch_row": 1}},
            "model.batch_row is not a known key; nearest is 'batch_rows'",
        ),
        (
            {"model": {"qqqq": 1}},
            r"model.qqqq is not a known key \(known here: batch_rows,",
        ),
        (
            {"taps": [{"path": "x", "colum": 1}]},
            r"taps\[0\].colum .* nearest is 'column'",
        ),
        ({"table": {"pth": "x"}}, "table.pth is not a known key; nearest is 'path'"),
        (
            {"errors": {"crsh": "fail"}},
            "errors.crsh is not a known key; nearest is 'crash'",
        ),
        (
            {"errors": {"crash": "flee"}},
            "errors.crash: .*'isolate', 'quarantine' or 'fail'",
        ),
        ({"errors": {"attempts": 0}}, "errors.attempts: .* got 0"),
        ({"taps": [{"path": "x", "dtype": "int8"}]}, r"taps\[0\].dtype: .* got 'int8'"),
        (
            {"source": {"preprocess": [{"size": 1}]}},
            r"preprocess\[0\].step is required",
        ),
    ],
)
def test_a_wrong_key_is_named_with_what_is_near(
    change: dict[str, Any], message: str
) -> None:
    document = config().model_dump(exclude_none=True)
    for section, value in change.items():
        inside = isinstance(value, dict)
        document[section] = {**document.get(section, {}), **value} if inside else value
    with pytest.raises(ConfigError, match=message):
        parse_config(document)


def test_every_fault_gets_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"source": {}, "model": {"x": 1}, "taps": [{}]})
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "source.reader",
        "model.x",
        "taps[0].path",
        "table",
    ]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"source": {"storage": {"token": "t"}}}, "source.storage.token must not"),
        ({"source": {"api_key": "k"}}, "source.api_key must not stand in the config"),
        ({"source": {"path": ["a", "s3://k:s@b"]}}, r"source.path\[1\] must not hold"),
        ({"source": {"preprocess": [{"step": "x", "password": "p"}]}},
         r"source.preprocess\[0\].password must not stand"),
        ({"taps": [{"path": "https://t@h"}]}, r"taps\[0\].path must not hold"),
        ({"model": {"weights": "https://h/w?sig=s"}}, "model.weights must not hold"),
    ],
)  # fmt: skip
def test_credentials_are_refused_wherever_they_stand(
    change: dict[str, Any], place: str
) -> None:
    with pytest.raises(ConfigError, match=f"{place}.*environment, or the config"):
        parse_config({**config().model_dump(exclude_none=True), **change})


def test_features_may_be_called_as_they_are() -> None:
    found = parse_config(
        {
            "source": {"reader": "csv", "features": {"password": "string"}},
            "model": {"build": "m:f", "inputs": {"access_token": "password"}},
            "table": {"path": "abfs://container@account/t"},
        }
    )
    assert found.model.inputs == {"access_token": "password"}
    assert parse_config({**found.model_dump(exclude_none=True), "taps": []}) == found


def test_a_missing_file_is_named_with_the_working_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.toml")
    assert "CONFIG must be an existing file, got" in str(caught.value)
    assert str(Path.cwd()) in str(caught.value)


@pytest.mark.parametrize("path", ["", "/", "//"])
def test_a_table_has_a_directory_of_its_own(path: str) -> None:
    with pytest.raises(ValueError, match="must name a directory of its own"):
        TableSpec(path=path)
    assert TableSpec(path="a//").path == "a"


@pytest.mark.parametrize("path", ["gs://", "memory:///"])
def test_a_filesystem_is_no_directory_of_a_table(path: str) -> None:
    with pytest.raises(ValueError, match="must name a directory of its own"):
        TableSpec(path=path)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_numbers_of_which_a_plan_has_none_are_refused_by_name(value: str) -> None:
    step = {"step": "pad", "feature": "x", "lengths": [4], "value": float(value)}
    with pytest.raises(
        ConfigError, match=r"source.preprocess\[0\].value must be a fin"
    ):
        parse_config(
            {
                "source": {"reader": "csv", "preprocess": [step]},
                "model": {"build": "m:f"},
                "table": {"path": "t"},
            }
        )
