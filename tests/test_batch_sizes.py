"""Which sizes of batches are tried, when trying ends, and which one is chosen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.tune.batch_sizes import FIRST, MOST, Stop, Trial, choose, sweep
from pipeline.tune.measure import Measure

POWERS = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


def trial(rows: int, rate: float) -> Trial:
    return Trial(rows, False, Measure(rows, rows / rate, 0.1))


def swept(
    rate: Callable[[int], float],
    *,
    given: int = 256,
    fixed: int | None = None,
    most: int = 1 << 30,
    room: int = 1 << 30,
    seconds: float = 1e9,
) -> tuple[list[int], Stop]:
    """Sweep a model of some rate; give the sizes and why they ended.

    Args:
      rate: rows a second by batch size.
      given: in the config.
      fixed: of the model.
      most: larger batches do not fit, as can be foreseen.
      room: larger batches run out of memory.
      seconds: for a batch.
    """
    tried = []

    def attempt(rows: int) -> Trial | None:
        tried.append(rows)
        return trial(rows, rate(rows)) if rows <= room else None

    trials, stop = sweep(given, fixed, attempt, lambda n: n <= most, 2, seconds)
    assert [one.batch_rows for one in trials] == [n for n in tried if n <= room]
    return [one.batch_rows for one in trials], stop


def test_sizes_double_as_long_as_they_gain() -> None:
    assert swept(lambda rows: rows) == (POWERS, "largest")
    assert (POWERS[0], POWERS[-1]) == (FIRST, MOST)


def test_the_given_size_is_tried_on_the_way() -> None:
    sizes, _ = swept(lambda rows: rows, given=100)
    assert sizes == sorted([*POWERS, 100])


@pytest.mark.parametrize("given", [3, 5000])
def test_the_given_size_is_tried_if_it_is_small(given: int) -> None:
    sizes, _ = swept(lambda rows: rows, given=given)
    assert (given in sizes) == (given < MOST)


def test_two_sizes_without_gain_end_it() -> None:
    assert swept(lambda rows: min(rows, 64)) == ([16, 32, 64, 128, 256], "no gain")


def test_one_size_without_gain_does_not_end_it() -> None:
    """It may be a measurement gone wrong."""
    rates = dict(zip(POWERS, [1, 2, 3, 3, 4, 5, 5, 5, 5], strict=True))
    sizes, stop = swept(lambda rows: rates[rows])
    assert (sizes[-1], stop) == (2048, "no gain")


def test_gains_of_less_than_three_percent_are_none() -> None:
    assert swept(lambda rows: 100 + rows / 1e4)[1] == "no gain"
    assert swept(lambda rows: rows**0.1)[1] == "largest"


def test_sizes_that_would_not_fit_are_not_tried() -> None:
    assert swept(lambda rows: rows, most=100) == ([16, 32, 64], "memory")


def test_the_smallest_is_tried_whether_it_fits_or_not() -> None:
    """What fits is an estimate."""
    assert swept(lambda rows: rows, most=1) == ([16], "memory")


def test_a_device_without_room_ends_it() -> None:
    assert swept(lambda rows: rows, room=300) == ([16, 32, 64, 128, 256], "memory")
    assert swept(lambda rows: rows, room=1) == ([], "memory")


def test_batches_that_take_too_long_are_not_tried() -> None:
    """Two are in flight at 10 rows a second: 32 rows take 6.4 seconds."""
    assert swept(lambda rows: 10.0, seconds=6.5) == ([16, 32], "time")
    assert swept(lambda rows: 10.0, seconds=6.3) == ([16], "time")
    assert swept(lambda rows: 0.001, seconds=1) == ([16], "time")


def test_a_fixed_size_is_the_only_one() -> None:
    assert swept(lambda rows: rows, fixed=5) == ([5], "fixed")
    assert swept(lambda rows: rows, fixed=5, room=4) == ([], "memory")


def chosen(rates: dict[int, float], given: int, stop: Stop = "no gain") -> int:
    trials = [trial(rows, rate) for rows, rate in rates.items()]
    return choose(trials, given, stop).batch_rows


def test_the_smallest_of_the_best_is_chosen() -> None:
    assert chosen({16: 50, 32: 98, 64: 100, 128: 99}, given=16) == 32


def test_the_given_size_stays_if_it_is_as_good() -> None:
    assert chosen({16: 50, 32: 98, 64: 100, 128: 99}, given=128) == 128
    assert chosen({16: 50, 32: 98, 64: 100, 128: 90}, given=128) == 32


def test_a_given_size_beyond_all_that_were_tried_stays_if_they_end_well() -> None:
    """Whatever a larger batch gains, this one has gained."""
    rates: dict[int, float] = {16: 98, 32: 100}
    assert chosen(rates, given=256, stop="time") == 256
    assert chosen(rates, given=256, stop="memory") == 16
    assert chosen({16: 100, 32: 90}, given=256, stop="time") == 16


def test_a_size_that_was_not_tried_has_the_measure_of_the_largest() -> None:
    trials = [trial(16, 98), trial(32, 100)]
    found = choose(trials, 256, "time")
    assert found == Trial(256, False, trials[1].measure)


def test_a_trial_that_saw_no_time_is_the_slowest() -> None:
    nothing = Trial(16, False, Measure(0, 1.0, 0.0))
    assert nothing.rate == 0.0
    assert choose([nothing, trial(32, 5)], 16, "largest").batch_rows == 32
