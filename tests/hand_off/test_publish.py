"""Tables in real stores: whole, once, replaced at once, never over somebody else's.

Heavy tests, which need the extra `hand-off`. With REQUIRE_HAND_OFF set they fail where
they would be skipped.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, vectors, write_parquet
from places import PLACES, Place, need_stores
from typer.testing import CliRunner

from pipeline import make_plan, read_features, run_plan
from pipeline.cli import app
from pipeline.publish.publish import publications, publish_table
from pipeline.publish.target import TARGETS
from transforms.lookup import ConfigError

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR"),
    pytest.mark.filterwarnings("ignore:Iceberg scan planning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


KILLED = """
import json, os, signal, sys
from pipeline.publish.publish import publish_table
from pipeline.publish.target import make_target

options, target, table = json.loads(sys.argv[1]), *sys.argv[2:]
kind = type(make_target(table, target, options))
kind.remove_older = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
publish_table(table, target, options)
"""
PIXELS = pa.list_(pa.uint8())


class Tables(Job):
    """Tables of one model, each with the rows of one file more."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.data.mkdir()
        source = {"reader": "parquet", "path": str(self.data), "keep": ["text"]}
        super().__init__(directory, source)

    def make(self, name: str, files: int, *earlier: str, **sections: Any) -> str:
        """Make a table of the first files, ten rows each; give its URI."""
        for index in range(files):
            ids = range(10 * index, 10 * index + 10)
            write_parquet(self.data / f"{index}.parquet", ids, vectors(200), 5)
        uri = str(self.directory / name)
        config = self.config(table={"path": uri}, **sections)
        run_plan(make_plan(config, earlier))
        return uri


@pytest.fixture(scope="module")
def local_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A table, the same grown, one with a column more, one of another model."""
    made = Tables(tmp_path_factory.mktemp("tables"))
    one = made.make("one", 2)
    other = made.make("other", 2, model={"build": "toolbox:other_dict_model"})
    two = made.make("two", 3, one)
    taps = [*({"path": p} for p in ("head", "stem")), {"path": "features:output"}]
    more = made.make("more", 3, two, taps=taps)
    return {"one": one, "two": two, "more": more, "other": other}


@pytest.fixture(params=PLACES)
def place(request: Any, tmp_path: Path) -> Iterator[Place]:
    need_stores()
    found = PLACES[request.param](tmp_path)
    yield found
    found.close()


@pytest.fixture
def tables(place: Place, local_tables: dict[str, str]) -> dict[str, str]:
    """The same, where the store can read them."""
    return {name: place.lay(table) for name, table in local_tables.items()}


def test_every_target_is_tried() -> None:
    assert {*PLACES, "feast"} == set(TARGETS)  # which test_feast.py tries


def test_a_table_arrives_and_the_next_takes_its_place(
    place: Place, tables: dict[str, str]
) -> None:
    first = publish_table(tables["one"], place.target, place.options)
    assert (first.rows, first.was_there) == (20, False)
    assert place.keys() == [*range(20)]
    assert first.sampled > 0
    again = publish_table(tables["one"], place.target, place.options)
    assert (again.was_there, again.key_sum) == (True, first.key_sum)
    assert place.keys() == [*range(20)]
    versions = place.versions()
    second = publish_table(tables["two"], place.target, place.options)  # a day more
    assert (second.rows, second.was_there) == (30, False)
    assert place.keys() == [*range(30)]
    assert place.versions() == versions + place.keeps
    if place.nearest:
        keys, heads = read_features(tables["two"], "head")
        for row in (0, 11, 29):
            assert place.nearest(heads[row].tolist()) == keys[row].as_py()
    (noted,) = [
        one for one in publications(tables["two"]) if one["location"] == second.location
    ]
    assert noted == second.to_json()


def test_columns_come_and_go(place: Place, tables: dict[str, str]) -> None:
    publish_table(tables["two"], place.target, place.options)
    assert publish_table(tables["more"], place.target, place.options).rows == 30
    assert place.keys() == [*range(30)]


def test_vectors_of_another_model_are_refused(
    place: Place, tables: dict[str, str]
) -> None:
    publish_table(tables["one"], place.target, place.options)
    with pytest.raises(ConfigError, match=r"vectors of one model.*\n.*there: "):
        publish_table(tables["other"], place.target, place.options)
    assert place.keys() == [*range(20)]


def test_what_is_not_featuretaps_stays(place: Place, tables: dict[str, str]) -> None:
    place.occupy()
    with pytest.raises(ConfigError, match="must be empty or of featuretap's making"):
        publish_table(tables["one"], place.target, place.options)


@pytest.mark.parametrize("there", [False, True])
def test_a_publication_that_was_cut_off_shows_nothing_and_goes_on(
    place: Place,
    there: bool,
    tables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if there:
        publish_table(tables["one"], place.target, place.options)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(place.breaks, fail)
        with pytest.raises((OSError, RuntimeError), match="cut off"):
            publish_table(tables["two"], place.target, place.options)
    assert place.keys() == ([*range(20)] if there else None)
    assert publish_table(tables["two"], place.target, place.options).rows == 30
    assert place.keys() == [*range(30)]


@pytest.mark.parametrize("place", ["faiss", "huggingface", "qdrant"], indirect=True)
def test_what_a_process_left_that_was_killed_before_it_cleared_up_is_removed(
    place: Place, tables: dict[str, str]
) -> None:
    publish_table(tables["one"], place.target, place.options)
    arguments = [json.dumps(place.options), place.target, tables["two"]]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], text=True)
    assert done.returncode == -signal.SIGKILL
    assert (place.versions(), place.keys()) == (2, [*range(30)])
    assert publish_table(tables["two"], place.target, place.options).was_there
    assert (place.versions(), place.keys()) == (1, [*range(30)])


def test_options_are_checked(place: Place, tables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=rf"target {place.target}\.pth is not an"):
        publish_table(tables["one"], place.target, {**place.options, "pth": "x"})


@pytest.mark.parametrize("place", ["delta", "faiss", "huggingface"], indirect=True)
def test_places_of_others_are_left_alone(place: Place, tables: dict[str, str]) -> None:
    Path(place.options["path"], "sales", "day=1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="must be empty or of featuretap's making"):
        publish_table(tables["one"], place.target, place.options)


@pytest.mark.parametrize("place", ["delta", "faiss"], indirect=True)
def test_what_a_killed_process_left_is_passed_over(
    place: Place, tables: dict[str, str]
) -> None:
    path = place.options["path"]
    Path(path).mkdir()
    Path(path, ".about.json.0123abcd.tmp").write_text("{")
    assert publish_table(tables["one"], place.target, place.options).rows == 20


def test_what_a_store_cannot_take_is_refused(tmp_path: Path) -> None:
    made = Tables(tmp_path)
    rows = pa.table({"id": [1], "vec": [[0.5] * 6], "pixels": [[1, 200]]})
    kinds = pa.schema(
        [("id", pa.int64()), ("vec", pa.list_(pa.float32())), ("pixels", PIXELS)]
    )
    pq.write_table(rows.cast(kinds), made.data / "rows.parquet")
    path = str(tmp_path / "pixels")
    table = {"path": path}
    source = {**made.source, "keep": ["pixels"]}
    run_plan(make_plan(made.config(table=table, source=source)))
    with pytest.raises(ConfigError, match=r"Delta has no unsigned.*pixels"):
        publish_table(path, "delta", {"path": str(tmp_path / "delta")})
    lance = {"uri": str(tmp_path / "lance")}
    assert publish_table(path, "lance", lance).rows == 1
    secret = {"dsn": "host=here password=hunter2"}
    with pytest.raises(ConfigError, match="must not hold a password"):
        publish_table(path, "pgvector", secret)


def test_cards_and_histories_say_which_table_it_is(
    local_tables: dict[str, str], tmp_path: Path
) -> None:
    table = local_tables["one"]
    publish_table(table, "huggingface", {"path": str(tmp_path / "hf")})
    card = (tmp_path / "hf" / "README.md").read_text()
    fingerprint = json.loads(Path(table, "_SUCCESS").read_text())["fingerprint"]
    assert fingerprint in card
    assert "| hidden | float32 | [4] | `features:activation_1` |" in card


def test_the_commands_of_the_documentation_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Tables(tmp_path)
    made.make("out/features", 2, taps=[{"path": "head", "column": "texture"}])
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    commands = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    for line in commands[0].splitlines():
        arguments = shlex.split(line.removeprefix("$ featuretap "))
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert result.output.count("published to") == 3
    for place in ("lake/features/_delta_log", "datasets/features", "index/features"):
        assert (tmp_path / place).is_dir()
