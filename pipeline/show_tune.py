"""Show what `featuretap tune` has measured, as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.show import print_table, say

if TYPE_CHECKING:
    from pipeline.tune.outlook import Outlook
    from pipeline.tune.tune import Tuning

_STOPS = {
    "fixed": "the model takes no other number of rows",
    "memory": "memory would not suffice",
    "time": "one would take longer than its share of --seconds",
    "no gain": "the last two gained less than 3 %",
    "largest": "4096 rows are the most that are tried",
}
_MUCH = 0.25
"""Share of the cores that others may keep busy without a word."""


def print_tuning(found: Tuning) -> None:
    """Print the stages, sizes of batches, and what follows from them."""
    from pipeline.tune.figures import micro, round_figure

    shares = found.ceiling.shares
    print_table(
        ("stage", "rows/s alone", "CPU µs a row", "share"),
        [
            (
                name,
                round_figure(one.rate),
                micro(one.cpu_per_row),
                f"{shares[name]:.0%}" if name in shares else "",
            )
            for name, one in found.measures.stages.items()
        ],
    )
    say("")
    print_table(
        ("batch", "rows/s", "XLA"),
        [
            (str(t.batch_rows), round_figure(t.rate), "yes" if t.jit else "")
            for t in found.trials
        ],
    )
    for sentence in _sentences(found):
        say(sentence)


def _sentences(found: Tuning) -> Iterator[str]:
    from pipeline.tune.figures import round_figure

    machine = found.machine
    yield f"no larger batches: {_STOPS[found.stop]}"
    if found.xla:
        yield f"XLA was not compared: {found.xla}"
    yield f"\n{found.ceiling.sentence}"
    yield (
        f"the ceiling is {round_figure(found.ceiling.rows_per_second)} rows/s, with"
        f" {_workers(found)}"
    )
    cores = machine.cores * machine.workers
    if found.taken_cores is not None and found.taken_cores > _MUCH * cores:
        yield (
            f"other programs kept {found.taken_cores:.1f} of {cores} cores busy"
            " meanwhile: tune again when they are done"
        )
    yield from _settings(found)
    yield _outlook_text(found.outlook)


def _workers(found: Tuning) -> str:
    machine = found.machine
    if machine.workers > 1:
        return f"{machine.workers} workers of {machine.cores} cores each"
    return f"1 worker of {machine.cores} cores"


def _settings(found: Tuning) -> Iterator[str]:
    if not found.settings:
        yield "the config reaches it as it is"
        return
    pairs = [f"--set model.{line}" for line in found.fragment.splitlines()[1:]]
    yield (
        f"\nto reach it, put into the config\n\n{found.fragment}\n"
        f"(or {' '.join(pairs).replace(' = ', '=')})\n"
        "that makes another table than the config as it is: set it before the first"
        " run\n"
    )


def _outlook_text(outlook: Outlook) -> str:
    from pipeline.tune.figures import round_figure

    if outlook.seconds is None:
        return "how many rows there are is known only when they are read"
    least, likely = outlook.seconds
    text = f"{outlook.rows} rows take {_time(least)} to {_time(likely)}"
    if outlook.cost is not None:
        text += " and cost " + " to ".join(map(round_figure, outlook.cost))
    return f"{text}: at the ceiling, and at 0.9 of it"


def _time(seconds: float) -> str:
    """Say a time in the unit that suits it.

    >>> _time(7.25), _time(599), _time(6000), _time(9000)
    ('7.2 s', '599 s', '100 min', '2.5 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
