"""From made-up measurements of stages to the ceiling, its reason and an outlook."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pipeline.tune.ceiling import Machine, Measures, find_ceiling
from pipeline.tune.figures import micro, round_figure
from pipeline.tune.measure import Measure
from pipeline.tune.outlook import REACHED, Outlook

TWO = Machine(cores=2, shards_in_flight=2, reader_threads=1)
MANY = Machine(cores=32, shards_in_flight=8, reader_threads=4)
GPU = Machine(cores=16, shards_in_flight=2, reader_threads=8, gpu=True)


def made(rate: float, cpu_us: float) -> Measure:
    """1000 rows at a rate, each of some CPU microseconds."""
    return Measure(1000, 1000 / rate, cpu_us * 1e-3)


def at_work(cpu_us: float, cores: int = 2) -> Measure:
    """1000 rows of a stage that keeps all cores busy."""
    return made(cores / cpu_us * 1e6, cpu_us)


BUSY = Measures(
    reading=at_work(5.0),
    preparing=at_work(6.0),
    computing=at_work(20.0),
    writing=at_work(4.0),
)
"""All stages share two cores: 30 µs a row."""


def test_a_measure_knows_its_rate_and_cost() -> None:
    found = Measure(rows=500, seconds=2.0, cpu_seconds=1.0)
    assert found.rate == 250.0
    assert found.cpu_per_row == 0.002


@pytest.mark.parametrize("found", [Measure(0, 2.0, 1.0), Measure(10, 0.0, 0.0)])
def test_a_measure_of_nothing_has_no_rate(found: Measure) -> None:
    assert found.rate is None
    assert found.cpu_per_row == 0.0


def test_what_is_beyond_a_part_counts_by_row() -> None:
    whole = Measure(rows=1000, seconds=3.0, cpu_seconds=2.0)
    part = Measure(rows=500, seconds=1.0, cpu_seconds=0.25)
    assert whole.beyond(part) == Measure(1000, 1.0, 1.5)


def test_what_is_beyond_more_than_all_is_nothing() -> None:
    whole = Measure(rows=100, seconds=1.0, cpu_seconds=1.0)
    part = Measure(rows=100, seconds=1.5, cpu_seconds=1.2)
    assert whole.beyond(part) == Measure(100, 0.0, 0.0)
    assert whole.beyond(part).rate is None
    assert whole.beyond(Measure(0, 1.0, 1.0)) == whole


def test_copying_makes_each_row_slower_and_no_dearer() -> None:
    found = Measure(rows=100, seconds=1.0, cpu_seconds=0.5).slower(0.01)
    assert found == Measure(100, 2.0, 0.5)


def test_stages_that_keep_the_cores_busy_share_them() -> None:
    ceiling = find_ceiling(BUSY, TWO)
    assert ceiling.bound == "cores"
    assert ceiling.bottleneck == "computing"
    assert ceiling.rows_per_second == pytest.approx(2 / 30e-6)
    assert ceiling.shares == pytest.approx(
        {"reading": 5 / 30, "preprocessing": 1 / 30, "computing": 2 / 3}
        | {"writing": 4 / 30}
    )
    assert ceiling.sentence == (
        "computing is the bottleneck: it takes 20.0 of the 30.0 µs of CPU time that a"
        " row takes (67%), and at the ceiling all 2 cores are busy"
    )


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("reading", {"reading": at_work(90.0), "preparing": at_work(91.0)}),
        ("preprocessing", {"preparing": at_work(95.0)}),
        ("computing", {"computing": at_work(90.0)}),
        ("writing", {"writing": at_work(90.0)}),
    ],
)
def test_the_dearest_stage_is_named(stage: str, change: dict[str, Any]) -> None:
    ceiling = find_ceiling(replace(BUSY, **change), TWO)
    assert (ceiling.bottleneck, ceiling.bound) == (stage, "cores")
    assert ceiling.sentence.startswith(f"{stage} is the bottleneck: it takes 9")
    assert max(ceiling.shares, key=lambda name: ceiling.shares[name]) == stage


@pytest.mark.parametrize(
    ("stage", "change", "why"),
    [
        (
            "reading",
            {"reading": made(100, 5), "preparing": made(99, 6)},
            "it waits for its storage",
        ),
        ("preprocessing", {"preparing": made(100, 6)}, "a step sleeps"),
        ("computing", {"computing": made(100, 20)}, "its operations wait"),
        ("writing", {"writing": made(100, 4)}, "it waits for the table's store"),
    ],
)
def test_a_stage_that_waits_is_the_ceiling_alone(
    stage: str, change: dict[str, Any], why: str
) -> None:
    ceiling = find_ceiling(replace(BUSY, **change), TWO)
    assert (ceiling.bottleneck, ceiling.bound) == (stage, "waiting")
    assert ceiling.rows_per_second == pytest.approx(100, rel=0.011)
    assert "rows/s and keeps 0.0 of 2 cores busy" in ceiling.sentence
    assert why in ceiling.sentence


def test_a_slow_stage_that_is_at_work_does_not_wait() -> None:
    """Its own pace is the ceiling, and its cost the reason."""
    heavy = made(rate=1700, cpu_us=1000)  # 1.7 cores busy
    ceiling = find_ceiling(replace(BUSY, computing=heavy), TWO)
    assert (ceiling.bottleneck, ceiling.bound) == ("computing", "cores")
    assert ceiling.rows_per_second == pytest.approx(1700)


def test_waiting_that_hides_behind_the_cores_does_not_count() -> None:
    """It waits half of the time, and is faster than all cores together."""
    waits = made(rate=100_000, cpu_us=4.0)
    ceiling = find_ceiling(replace(BUSY, writing=waits), TWO)
    assert (ceiling.bottleneck, ceiling.bound) == ("computing", "cores")


@pytest.mark.parametrize(
    ("machine", "pace", "named"),
    [
        (TWO, 80, "reading"),  # one thread reads, then prepares: 1/80 = 1/100 + 1/400
        (TWO, 40, "preprocessing"),
        (MANY, 80, "preprocessing"),  # it would go on at 100 if it could
        (MANY, 99, "reading"),
    ],
)
def test_of_reading_and_preprocessing_the_slower_is_named(
    machine: Machine, pace: float, named: str
) -> None:
    slow = replace(BUSY, reading=made(100, 5), preparing=made(pace, 6))
    ceiling = find_ceiling(slow, machine)
    assert (ceiling.bottleneck, ceiling.bound) == (named, "waiting")
    assert ceiling.rows_per_second == pytest.approx(pace)


def test_a_gpu_has_its_own_clock() -> None:
    """What computing takes of the cores does not count: it waits for the GPU."""
    found = replace(BUSY, computing=made(5_000, 2_000))
    ceiling = find_ceiling(found, GPU)
    assert (ceiling.bottleneck, ceiling.bound) == ("computing", "GPU")
    assert ceiling.rows_per_second == pytest.approx(5_000)
    assert "computing" not in ceiling.shares
    assert sum(ceiling.shares.values()) == pytest.approx(1)
    assert ceiling.sentence == (
        "computing is the bottleneck: the GPU makes 5,000 rows/s, the other stages"
        " could make 333,000"
    )


def test_cores_can_be_too_few_for_a_gpu() -> None:
    slow = at_work(4_000, cores=16)
    found = replace(BUSY, preparing=slow, computing=made(5_000, 2_000))
    ceiling = find_ceiling(found, GPU)
    assert (ceiling.bottleneck, ceiling.bound) == ("preprocessing", "cores")
    assert ceiling.rows_per_second == pytest.approx(16 / 4_004e-6)
    assert "all 16 cores are busy" in ceiling.sentence


def test_storage_can_be_too_slow_for_a_gpu() -> None:
    found = replace(
        BUSY,
        reading=made(800, 5),
        preparing=made(799, 6),
        computing=made(5_000, 2_000),
    )
    ceiling = find_ceiling(found, GPU)
    assert (ceiling.bottleneck, ceiling.bound) == ("reading", "waiting")
    assert ceiling.rows_per_second == pytest.approx(799)


def test_workers_share_a_machine_evenly() -> None:
    four = replace(TWO, workers=4)
    alone, together = find_ceiling(BUSY, TWO), find_ceiling(BUSY, four)
    assert together.rows_per_second == pytest.approx(4 * alone.rows_per_second)
    assert "all 8 cores are busy" in together.sentence


def test_preprocessing_that_takes_no_time_is_no_bottleneck() -> None:
    found = replace(BUSY, preparing=BUSY.reading)
    assert found.stages["preprocessing"].rate is None
    assert find_ceiling(found, TWO).shares["preprocessing"] == 0.0


def test_the_shares_of_nothing_are_none() -> None:
    """CPU time has a resolution; a stage may be below it."""
    free = Measure(1000, 1.0, 0.0)
    ceiling = find_ceiling(Measures(free, free, free, free), TWO)
    assert set(ceiling.shares.values()) == {0.0}
    assert ceiling.rows_per_second == 1000


def test_the_whole_dataset_takes_time_and_money() -> None:
    found = Outlook(rows=3_600_000, rows_per_second=1000, plan_seconds=0, price=2.0)
    assert found.seconds == pytest.approx((3600, 3600 / REACHED))
    assert found.cost == pytest.approx((2.0, 2.0 / REACHED))


def test_planning_is_part_of_the_time() -> None:
    least, likely = Outlook(1000, 100, plan_seconds=5).seconds or (0, 0)
    assert least == pytest.approx(15)
    assert likely == pytest.approx(5 + 10 / REACHED)


def test_without_a_price_nothing_is_said_of_money() -> None:
    found = Outlook(1000, 100, 1)
    assert found.cost is None
    assert found.to_json()["cost_at_least"] is None
    assert found.to_json()["run_seconds_at_least"] == pytest.approx(11)


def test_without_rows_nothing_is_said_of_time() -> None:
    found = Outlook(None, 100, 1, price=1.0)
    assert (found.seconds, found.cost) == (None, None)
    assert json.loads(json.dumps(found.to_json())) == {
        "rows": None,
        "plan_seconds": 1,
        "run_seconds_at_least": None,
        "run_seconds_likely": None,
        "price_per_hour": 1.0,
        "cost_at_least": None,
        "cost_likely": None,
    }


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (None, "-"),
        (float("inf"), "-"),
        (0.0, "0"),
        (0.000123456, "0.000123"),
        (0.5, "0.500"),
        (1.0, "1.00"),
        (9.999, "10.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (999_999, "1,000,000"),
        (56_912, "56,900"),
    ],
)
def test_figures_have_three_digits(figure: float | None, text: str) -> None:
    assert round_figure(figure) == text


def test_seconds_are_said_in_microseconds() -> None:
    assert micro(20.87e-6) == "20.9"
    assert micro(0.5) == "500,000"
