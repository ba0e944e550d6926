"""What `featuretap tune` prints, of made-up measurements."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from test_ceiling import BUSY, GPU, TWO

from pipeline.show_tune import print_tuning
from pipeline.tune.batch_sizes import Trial
from pipeline.tune.ceiling import find_ceiling
from pipeline.tune.measure import Measure
from pipeline.tune.outlook import Outlook
from pipeline.tune.tune import Tuning

CEILING = find_ceiling(BUSY, TWO)
TRIALS = (
    Trial(16, False, Measure(1000, 0.020, 0.04)),
    Trial(32, False, Measure(1000, 0.010, 0.02)),
    Trial(32, True, Measure(1000, 0.008, 0.016)),
)
TUNING = Tuning(
    machine=TWO,
    measures=BUSY,
    trials=TRIALS,
    stop="no gain",
    xla=None,
    ceiling=CEILING,
    settings={"batch_rows": 32, "jit": True},
    outlook=Outlook(10_000_000, CEILING.rows_per_second, 2.0, price=3.0),
    taken_cores=0.1,
)


def shown(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    print_tuning(replace(TUNING, **changes))
    return capsys.readouterr().out


def test_all_of_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        shown(capsys)
        == """\
stage          rows/s alone  CPU µs a row  share
reading        400,000       5.00          17%
preprocessing  2,000,000     1.00          3%
computing      100,000       20.0          67%
writing        500,000       4.00          13%

batch  rows/s   XLA
16     50,000
32     100,000
32     125,000  yes
no larger batches: the last two gained less than 3 %

computing is the bottleneck: it takes 20.0 of the 30.0 µs of CPU time that a row takes \
(67%), and at the ceiling all 2 cores are busy
the ceiling is 66,700 rows/s, with 1 worker of 2 cores

to reach it, put into the config

[model]
batch_rows = 32
jit = true

(or --set model.batch_rows=32 --set model.jit=true)
that makes another table than the config as it is: set it before the first run

10000000 rows take 152 s to 169 s and cost 0.127 to 0.141: at the ceiling, and at 0.9 \
of it
"""
    )


def test_the_fragment_is_toml() -> None:
    assert tomllib.loads(TUNING.fragment) == {"model": TUNING.settings}
    assert replace(TUNING, settings={"jit": False}).fragment == "[model]\njit = false\n"


def test_a_config_that_is_best_is_said_to_be_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(capsys, settings={})
    assert "the config reaches it as it is" in text
    assert "--set" not in text
    assert replace(TUNING, settings={}).fragment == ""
    assert replace(TUNING, settings={}).to_json()["settings"] == {}


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ("fixed", "the model takes no other number of rows"),
        ("memory", "memory would not suffice"),
        ("time", "one would take longer than its share of --seconds"),
        ("largest", "4096 rows are the most"),
    ],
)
def test_why_there_are_no_larger_batches_is_said(
    capsys: pytest.CaptureFixture[str], stop: str, words: str
) -> None:
    assert f"no larger batches: {words}" in shown(capsys, stop=stop)


def test_why_xla_was_not_compared_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, xla="model.jit must be false", trials=TRIALS[:2])
    assert "XLA was not compared: model.jit must be false" in text
    assert "yes" not in text


@pytest.mark.parametrize(
    ("cores", "said"), [(0.0, False), (0.4, False), (1.9, True), (None, False)]
)
def test_a_busy_machine_is_said_to_be_one(
    capsys: pytest.CaptureFixture[str], cores: float | None, said: bool
) -> None:
    words = "other programs kept 1.9 of 2 cores busy meanwhile: tune again"
    assert (words in shown(capsys, taken_cores=cores)) == said


def test_without_a_price_only_time_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, outlook=replace(TUNING.outlook, price=None))
    assert "10000000 rows take" in text
    assert "cost" not in text


@pytest.mark.parametrize(
    ("rows", "time"),
    [(1000, "2.0 s to 2.0 s"), (10**8, "25 min to 28 min"), (10**10, "41.7 h to")],
)
def test_times_are_said_in_units_that_suit(
    capsys: pytest.CaptureFixture[str], rows: int, time: str
) -> None:
    assert f"take {time}" in shown(capsys, outlook=replace(TUNING.outlook, rows=rows))


def test_unknown_rows_are_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, outlook=replace(TUNING.outlook, rows=None))
    assert "how many rows there are is known only when they are read" in text
    assert "rows take" not in text


def test_on_a_gpu_computing_has_no_share_of_the_cores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measures = replace(BUSY, computing=Measure(1000, 0.2, 0.5))
    ceiling = find_ceiling(measures, GPU)
    text = shown(capsys, machine=GPU, measures=measures, ceiling=ceiling)
    line = next(one for one in text.splitlines() if one.startswith("computing"))
    assert line.split() == ["computing", "5,000", "500"]
    assert "the GPU makes 5,000 rows/s" in text
    document = replace(TUNING, machine=GPU, measures=measures, ceiling=ceiling)
    stages = document.to_json()["stages"]
    assert stages["computing"]["cpu_share"] is None


def test_several_workers_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    four = replace(TWO, workers=4)
    text = shown(capsys, machine=four, ceiling=find_ceiling(BUSY, four))
    assert "the ceiling is 267,000 rows/s, with 4 workers of 2 cores each" in text


def test_the_document_says_what_the_text_says() -> None:
    document = json.loads(json.dumps(TUNING.to_json()))
    assert document["settings"] == {"model": {"batch_rows": 32, "jit": True}}
    assert document["bound"] == "cores"
    assert document["bottleneck"] == "computing"
    assert document["sentence"] == CEILING.sentence
    assert document["batch_sizes"][2] == {
        **{"batch_rows": 32, "jit": True, "rows": 1000},
        "rows_per_second": 125_000.0,
        "cpu_us_per_row": 16.0,
    }
    assert document["batch_sizes_ended_by"] == "no gain"
    assert document["cores_taken_by_others"] == 0.1
