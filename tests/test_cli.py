"""The command line, as a user meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import ROWS, Job
from test_extract import contents
from toolbox import wait_until
from typer.testing import CliRunner

from pipeline import __version__, run_plan
from pipeline.cli import app
from transforms import storage

TESTS = Path(__file__).parent
CONFIG = """
[source]
reader = "parquet"
path = "{data}/parquet"
key = "id"
preprocess = ["toolbox:die_half_way"]

[model]
build = "toolbox:dict_model"
batch_rows = 16

[[taps]]
path = "features:activation_1"
column = "hidden"

[table]
path = "table"
rows_per_part = 20
"""


@pytest.fixture
def config(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.toml"
    path.write_text(CONFIG.format(data=data))
    return path


def invoke(*arguments: Any, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def in_process(config: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config)]
    command += ["--", "--direct_num_workers=1"]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen(
        command,
        cwd=config.parent,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_does_not_import_what_takes_seconds() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from pipeline.cli import app;"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0;"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'pyarrow', 'numpy', 'pandas'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_commands_of_later_work_are_absent() -> None:
    stdout, _ = invoke("--help")
    there = (
        *("init", "taps", "plan", "tune", "run", "status", "verify"),
        *("show", "diff", "report", "publish", "forget", "current", "prune"),
    )
    assert all(f" {name} " in stdout for name in there)
    assert not any(name in stdout for name in ("doctor",))


def test_run_status_and_verify_tell_the_same_story(config: Path) -> None:
    stdout, stderr = invoke("run", config)
    assert "table: 100 rows in 7 parts" in stdout
    assert stderr == ""  # no bar without a terminal
    stdout, _ = invoke("status", "table")
    assert "finished, 7 of 7 shards, 100 of 100 rows, 0 bad rows" in stdout
    assert "computing" in stdout
    assert "as its manifest says" in invoke("verify", "table")[0]


def test_json_is_one_document_on_stdout(config: Path) -> None:
    taps = json.loads(invoke("taps", config, "--json")[0])
    (tapped,) = [tap for tap in taps if tap["columns"]]
    assert tapped == {
        "address": "features:activation_1",
        "shape": [4],
        "dtype": "float32",
        "rows": 100,
        "bytes_per_row": 16,
        "bytes": 1600,
        "flops_per_row": tapped["flops_per_row"],
        "flops_share": tapped["flops_share"],
        "refusal": None,
        "columns": ["hidden"],
    }
    plan = json.loads(invoke("plan", config, "--json")[0])
    assert (plan["rows"], plan["bytes_per_row"], plan["bytes"]) == (100, 24, 2400)
    run = json.loads(invoke("run", config, "--json")[0])
    assert (run["rows"], run["quarantined"]) == (100, 0)
    assert run["fingerprint"] == plan["fingerprint"]
    status = json.loads(invoke("status", "table", "--json")[0])
    assert (status["finished"], status["rows"]) == (True, 100)
    verify = json.loads(invoke("verify", "table", "--json")[0])
    assert verify == {"table": "table", "differences": []}


def test_taps_lists_every_address_and_why_not(config: Path) -> None:
    stdout, _ = invoke("taps", config, "--set", "taps.0.path=nothing")
    lines = stdout.splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == [
        "address",
        "shape",
        "dtype",
        "a row",
        "dataset",
        "FLOPs",
        "column, or why not",
    ]
    assert "features:nested/pair/0" in stdout
    assert not any(line.startswith("*") for line in lines)


def test_taps_tell_what_they_cost(config: Path) -> None:
    stdout, _ = invoke("taps", config)
    line = next(one for one in stdout.splitlines() if "features:activation_1" in one)
    cells = re.split(r"\s{2,}", line)
    assert cells == [
        "*",
        "features:activation_1",
        "[4]",
        "float32",
        "16 B",
        "1.6 KiB",
        "73%",
        "hidden",
    ]


def test_taps_are_shown_as_a_tree_and_filtered(config: Path) -> None:
    stdout, _ = invoke("taps", config, "--tree", "--filter", "features**")
    shown = [re.split(r"\s{2,}\[", line[3:])[0] for line in stdout.splitlines()[1:]]
    assert [line.rstrip() for line in shown] == [
        "└─ features",
        "   ├─ first",
        "   ├─ second",
        "   ├─ :output",
        "   ├─ :activation_1",
        "   ├─ :nested/pair/0",
        "   └─ :nested/pair/1",
    ]
    taps = json.loads(invoke("taps", config, "--json", "--filter", "stem")[0])
    assert [tap["address"] for tap in taps] == ["stem"]
    assert (taps[0]["rows"], taps[0]["bytes"]) == (100, 2000)
    assert 0 < taps[0]["flops_share"] < 1
    _, stderr = invoke("taps", config, "--filter", "stm", code=2)
    assert "--filter must match an activation, got 'stm'; nearest are 'stem'" in stderr


def test_the_version_is_shown() -> None:
    assert invoke("--version")[0] == f"featuretap {__version__}\n"


def test_a_seed_alone_is_misuse(config: Path) -> None:
    _, stderr = invoke("verify", "table", "--seed", 3, code=2)
    assert "--seed, --config and --set are for --parity" in stderr


@pytest.mark.parametrize(
    ("processes", "arguments", "workers"),
    [
        (3, [], 3),
        (1, [], None),
        (3, ["--workers", "2"], 2),
        (3, ["--", "--direct_num_workers=1"], None),
    ],
)
def test_as_many_processes_run_as_fill_the_machine_if_nobody_says(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    arguments: list[str],
    workers: int | None,
) -> None:
    monkeypatch.setattr("transforms.device.default_processes", lambda: processes)
    asked: list[int | None] = []

    def run(plan: Any, args: Any, workers: int | None, **how: Any) -> Any:
        asked.append(workers)
        return {}, False

    monkeypatch.setattr("pipeline.attended.run_attended", run)
    invoke("run", config, *arguments)
    assert asked == [workers]


def test_parity_needs_the_config_of_the_run(config: Path) -> None:
    invoke("run", config)
    _, stderr = invoke("verify", "table", "--parity", 3, code=2)
    assert "--parity needs --config CONFIG" in stderr
    shorter = ["--set", "taps.0.reduce=mean"]
    again = ["verify", "table", "--parity", 3, "--config", config]
    _, stderr = invoke(*again, *shorter, code=2)
    assert "must be the one that 'table' was made by, it differs (in: taps)" in stderr
    assert "taps.0.reduce" in stderr
    assert "within tolerance" in invoke(*again)[0]


def test_taps_names_what_matches_nothing(config: Path) -> None:
    _, stderr = invoke("taps", config, "--set", "taps.0.path=hed")
    assert "taps[0].path must match an activation, got 'hed'" in stderr


def test_a_finished_table_is_said_to_be_so(config: Path) -> None:
    assert "finished before" not in invoke("run", config)[0]
    assert "table: was finished before: 100 rows" in invoke("run", config)[0]


def test_plan_names_the_models_result(config: Path) -> None:
    stdout, _ = invoke(
        "plan", config, "--set", "taps.0.path=", "--set", "taps.0.column=all"
    )
    assert "the model's result" in stdout


def test_verify_recomputes_rows_on_demand(config: Path) -> None:
    invoke("run", config)
    stdout, _ = invoke(
        "verify", "table", "--parity", 5, "--seed", 3, "--config", config
    )
    assert "table: as its manifest says" in stdout
    assert re.search(r"hidden +float32 +\S+ +\S+ +\S+ +0 +yes", stdout)
    assert "parity of 5 rows (seed 3): within tolerance" in stdout
    again = ["verify", "table", "--parity", 5, "--config", config, "--json"]
    document = json.loads(invoke(*again)[0])
    assert document["parity"]["passed"] is True
    assert document["parity"]["columns"]["example_id"]["mismatched"] == 0


def test_verify_fails_for_a_column_that_is_not_the_models(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.parity import reference

    invoke("run", config)
    original = reference.Reference.values

    def shifted(self: object, example: dict[str, object]) -> dict[str, object]:
        return {k: v + 1 for k, v in original(self, example).items()}

    monkeypatch.setattr(reference.Reference, "values", shifted)
    again = ["verify", "table", "--parity", 5, "--config", config]
    stdout, _ = invoke(*again, code=1)
    assert re.search(r"hidden .* NO", stdout)
    assert "parity of 5 rows (seed 0): OUTSIDE tolerance" in stdout


def test_limit_and_set_change_the_run(config: Path) -> None:
    stdout, _ = invoke("run", config, "--limit", 7, "--set", "table.path=few")
    assert "few: 7 rows in 1 parts" in stdout
    assert pq.read_table("few")["example_id"].to_pylist() == list(range(7))


def test_verify_fails_on_a_difference(config: Path) -> None:
    invoke("run", config)
    part = next(iter(Path("table/data").glob("part-*")))
    part.unlink()
    assert f"data/{part.name} is missing" in invoke("verify", "table", code=1)[0]
    document = json.loads(invoke("verify", "table", "--json", code=1)[0])
    assert document["differences"] == [f"data/{part.name} is missing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.toml"], "CONFIG must be an existing file"),
        (["run", "job.toml", "other.toml"], "one CONFIG is enough, got also 'other"),
        (["run", "job.toml", "--set", "taps.0.path=heads"], "nearest are 'head'"),
        (["plan", "job.toml", "--set", "model.bach_rows=1"], "nearest is 'batch_rows'"),
        (["taps", "job.toml", "--set", "source.path=none"], "match at least one file"),
        (["status", "nowhere"], "found none in 'nowhere'"),
        (["verify", "nowhere"], "found none in 'nowhere'"),
    ],
)
def test_misuse_exits_with_2_and_says_what_to_do(
    config: Path, arguments: list[str], message: str
) -> None:
    assert message in invoke(*arguments, code=2)[1]


def test_another_plan_exits_with_2(config: Path) -> None:
    invoke("run", config)
    _, stderr = invoke("run", config, "--limit", 3, code=2)
    assert "holds another (different: limit, parts)" in stderr
    assert "    there: " in stderr
    invoke("run", config, "--limit", 3, "--overwrite")
    assert pq.read_table("table").num_rows == 3


def test_a_failed_run_exits_with_1_in_few_words(config: Path) -> None:
    refuse = "source.preprocess=['toolbox:refuse_thirteen']"
    _, stderr = invoke("run", config, "--set", refuse, code=1)
    assert "1 of 100 are (1.0000%)" in stderr
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) < 12
    accept = "errors.max_fraction=0.5"
    stdout, _ = invoke("run", config, "--set", refuse, "--set", accept)
    assert "99 rows in 7 parts" in stdout
    assert "1 bad rows set apart" in stdout


def test_beam_arguments_go_to_beam(config: Path, monkeypatch: Any) -> None:
    seen = []
    original = run_plan

    def spy(plan: Any, **options: Any) -> Any:
        seen.append(options["beam_args"])
        return original(plan, **options)

    monkeypatch.setattr("pipeline.attended.run_plan", spy)
    invoke("run", config, "--limit", 3, "--", "--direct_num_workers=1", "--x", "y")
    assert list(seen[0]) == ["--direct_num_workers=1", "--x", "y"]


def test_a_module_that_fails_on_import_says_so(config: Path) -> None:
    Path("broken.py").write_text("import math\nmath.no_such_thing\n")
    step = "source.preprocess=['broken:step']"
    _, stderr = invoke("plan", config, "--set", step, code=1)
    assert "no_such_thing" in stderr


def test_taps_are_listed_before_any_is_chosen(config: Path) -> None:
    config.write_text(
        re.sub(r"(?s)\[\[taps\]\].*?\[table\]", "[table]", CONFIG).format(
            data=re.search(r'path = "(.*)/parquet"', config.read_text())[1]  # type: ignore[index]
        )
    )
    assert "features:nested/pair/0" in invoke("taps", config)[0]
    assert "taps must name at least one" in invoke("run", config, code=2)[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Traceback (most recent call last):\n  File x\nValueError: one\n\n"
            "During\n\nTraceback (most recent call last):\n  File y\n"
            "RuntimeError: two\nlines [while running 'A/B']",
            "two\nlines",
        ),
        ("plain", "plain"),
        ("", "RuntimeError"),
        ("a\n\n\t [[{{node PyFunc}}]] [Op:IteratorGetNext] name: ", "a"),
        ("x: Traceback (most recent call last): flat", None),
        ("Traceback (most recent call last):\n  cut off", None),
    ],
)
def test_words_of_an_exception_are_found_in_any_form(
    text: str, words: str | None
) -> None:
    from pipeline.show import last_words

    found = last_words(RuntimeError(text))
    assert found == f"{words or text}\nset FEATURETAP_DEBUG=1 to see where"


def test_a_killed_run_goes_on_and_gives_the_same_table(config: Path, job: Job) -> None:
    killed = in_process(config, TEST_SIGNAL="KILL")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    table = config.parent / "table"
    committed = list((table / "_featuretap" / "commits").glob("*.json"))
    assert 0 < len(committed) < 7
    assert not (table / "_SUCCESS").exists()
    records = {path: path.read_bytes() for path in committed}

    invoke("run", config)
    assert {path: path.read_bytes() for path in committed} == records
    invoke("run", config, "--set", "table.path=whole")
    whole, resumed = contents(config.parent / "whole"), contents(table)
    different = {n for n in whole.keys() | resumed if whole.get(n) != resumed.get(n)}
    # one holds table.path, both a random id
    assert different == {"_featuretap/config.json", "_SUCCESS"}
    assert pq.read_table(table)["example_id"].to_pylist() == list(range(ROWS))


def test_a_wrong_runner_is_misuse_before_a_table_is_replaced(config: Path) -> None:
    invoke("run", config)
    before = contents(config.parent / "table")
    arguments = ("run", config, "--overwrite", "--", "--runner=Flonk")
    assert "Unexpected pipeline runner: Flonk" in invoke(*arguments, code=2)[1]
    assert contents(config.parent / "table") == before


def test_a_config_may_lie_on_any_filesystem(config: Path) -> None:
    storage.replace("memory://configs/job.toml", config.read_bytes())
    document = json.loads(invoke("plan", "memory://configs/job.toml", "--json")[0])
    assert document == json.loads(invoke("plan", str(config), "--json")[0])


def test_ctrl_c_says_how_to_go_on_and_status_sees_it_from_outside(
    config: Path, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    running = in_process(config, TEST_SIGNAL="WAIT", TEST_READY=str(ready))
    try:
        wait_until(lambda: ready.exists() or running.poll() is not None)
        assert running.poll() is None, running.communicate()
        document = json.loads(invoke("status", "table", "--json")[0])
        assert 0 < document["committed"] < 7
        assert not document["finished"]
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        said = ""
        while "once more" not in said:
            said += running.stderr.readline()
        running.send_signal(signal.SIGINT)
        stderr = said + running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert running.returncode == 130
    done = f"interrupted; {document['committed']} of 7 shards are committed"
    assert "ending after the batch at hand; once more to stop at once" in stderr
    assert f"{done}. Run the same command again to go on." in stderr
    assert not list(Path("table/_featuretap/attempts").iterdir())
    assert "Traceback" not in stderr
    invoke("run", config)
    assert pq.read_table("table").num_rows == ROWS
