"""Show plans, taps and progress as text for people, or as JSON for programs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from pipeline.busy import how_busy
from pipeline.quiet import TRACEBACK
from transforms.clock import PHASES
from transforms.credentials import mask
from transforms.messages import plain, shape_text, shown

if TYPE_CHECKING:
    from pipeline.earlier import Outlook
    from pipeline.forget.table import Forgotten
    from pipeline.init.draft import Draft
    from pipeline.parity.certificate import Parity
    from pipeline.plan import Plan
    from pipeline.report.report import Report
    from pipeline.status import Status
    from pipeline.versions import Pruned
    from transforms.table.columns import Column
    from transforms.table.commit_record import Made
    from transforms.table.verdicts import Verdict


# Where Beam and TensorFlow put names of steps and nodes.
_GRAPH_NOISE = re.compile(
    r"(?<!\s)\s*+\[while running '[^']*+'\]|\[\[[^\[\]\n]*+\]\] \[Op:.*"
)


def size_text(count: int | None) -> str:
    """Say a number of bytes; `?` if it is not known.

    >>> size_text(1536)
    '1.5 KiB'
    """
    if count is None:
        return "?"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns to the left, as wide as they need, so that a pipe loses nothing."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        line = "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        yield line.rstrip()


def say(text: str, *, err: bool = False) -> None:
    """Print text that may hold anything."""
    typer.echo(shown(text), err=err)


def say_progress(text: str) -> None:
    """Say to somebody at a terminal what is done next."""
    if sys.stderr.isatty():
        say(f"featuretap: {text}", err=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text in columns."""
    cells = [[plain(cell) for cell in row] for row in rows]
    typer.echo(mask("\n".join(table_lines(head, cells))))


def print_json(document: Any) -> None:
    """Print a JSON document that may hold anything."""
    text = json.dumps(_masked(document), indent=2, ensure_ascii=False)
    typer.echo(
        "".join(
            c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text
        )
    )


def print_draft(path: str, made: Draft) -> None:
    """Say what was guessed in a config that was written, and what to do next."""
    for what, texts in (("guessed", made.guessed), ("not known", made.unknown)):
        for text in texts:
            say(f"{what}: {text}")
    if made.problem:
        say(f"{path} was written, but cannot be planned yet: {made.problem}")
        return
    say(
        f"{path} was written; look at it, then\n"
        f"  featuretap run {shlex.quote(path)} --limit 100 --set table.path=out/trial\n"
        f"  featuretap run {shlex.quote(path)}"
    )


def draft_json(path: str, made: Draft) -> dict[str, Any]:
    """Give what was written, and what was guessed, as a JSON document."""
    return {
        "config": path,
        "guessed": list(made.guessed),
        "unknown": list(made.unknown),
        "problem": made.problem or None,
    }


def print_plan(made: Plan, ahead: Mapping[Made, Outlook]) -> None:
    """Print the columns of a plan, its inputs and size, what it takes over."""
    from transforms.models.inputs import input_text

    print_table(
        ("column", "role", "type", "shape", "a row", "from"),
        [
            (
                c.name,
                c.role,
                c.dtype,
                shape_text(c.shape),
                size_text(c.bytes_per_row),
                " | ".join((_origin(c), *c.reduce)),
            )
            for c in made.columns
        ],
    )
    say("")
    for one in made.inputs:
        say(f"model {input_text(one.name)} takes feature {one.feature!r}")
    rows = made.rows
    total = "unknown" if rows is None else size_text(rows * made.bytes_per_row)
    say(
        f"\n{len(made.shards)} shards, {'unknown' if rows is None else rows} rows,"
        f" {made.bytes_per_row} bytes a row, {total} before compression"
        f"\nfingerprint {made.fingerprint}\ntable {made.config.table.path}"
    )
    for how, some in ahead.items() if made.earlier else ():
        count = "unknown" if some.rows is None else some.rows
        saves = f", saves {some.seconds} s of workers" if some.seconds else ""
        say(f"{how}: {some.shards} shards, {count} rows{saves}")
    for note in made.notes:
        say(f"note: {note}")


def plan_json(made: Plan, ahead: Mapping[Made, Outlook]) -> dict[str, Any]:
    """Give a plan as a JSON document."""
    rows = made.rows
    return {
        "table": made.config.table.path,
        "fingerprint": made.fingerprint,
        "shards": len(made.shards),
        "rows": rows,
        "inputs": {one.name: one.feature for one in made.inputs},
        "bytes_per_row": made.bytes_per_row,
        "bytes": None if rows is None else rows * made.bytes_per_row,
        "columns": [
            {**column.to_json(), "bytes_per_row": column.bytes_per_row}
            for column in made.columns
        ],
        "notes": list(made.notes),
        "made": {how: asdict(some) for how, some in ahead.items()},
    }


def say_notes(made: Plan) -> None:
    """Say beside a run what its plan has to say."""
    for note in made.notes:
        say(f"featuretap: {note}", err=True)


def warn_of_non_finite(summary: Mapping[str, Any]) -> None:
    """Say in which columns rows with NaN or infinite values were kept."""
    for column, rows in summary.get("non_finite", {}).items():
        say(
            f"featuretap: {rows} rows have NaN or infinite values in column {column}"
            ' (errors.non_finite = "quarantine" would set them apart)',
            err=True,
        )


def warn_of_gates(verdicts: Sequence[Verdict]) -> None:
    """Say which gates a table has not passed, or with a warning."""
    for verdict in verdicts:
        failed = "FAILED: " if verdict.outcome == "failed" else ""
        if verdict.outcome != "passed":
            say(f"featuretap: {failed}{verdict.sentence()}", err=True)


def print_summary(table: str, summary: Mapping[str, Any], *, finished: bool) -> None:
    """Say what a run has made.

    Args:
      table: URI of the table.
      summary: that `_SUCCESS` holds; empty if the run was handed over.
      finished: whether the table was finished before.
    """
    if not summary:
        say(f"{table}: handed over; featuretap status follows it")
        return
    bad = summary["quarantined"]
    say(
        f"{table}: {'was finished before: ' if finished else ''}"
        f"{summary['rows']} rows in {summary['parts']} parts,"
        f" {size_text(summary['bytes'])}{f', {bad} bad rows set apart' if bad else ''}"
    )
    _say_made(summary["made"], summary["saved_seconds"], summary["saved_bytes"])
    busy = None if finished else how_busy(summary.get("phases", {}))
    if busy:
        say(busy.sentence())
    if published := summary.get("published"):
        print_published(published)


def _say_made(
    made: Mapping[Made, Mapping[str, int]], seconds: float, saved: int
) -> None:
    """Say what was taken over from earlier tables, if anything was."""
    if set(made) <= {"computed"}:
        return
    counts = [f"{how} {some['rows']} rows" for how, some in made.items()]
    say(f"{', '.join(counts)}; saved {seconds:.1f} s of workers, {size_text(saved)}")


def print_status(found: Status) -> None:
    """Say how far a table is, and where the time went."""
    state = "finished" if found.finished else "not finished"
    of = "" if found.planned_rows is None else f" of {found.planned_rows}"
    say(
        f"{found.table}: {state}, {found.committed} of {found.shards} shards,"
        f" {found.rows}{of} rows, {found.quarantined} bad rows,"
        f" {size_text(found.bytes)}"
    )
    _say_made(found.made, found.saved_seconds, found.saved_bytes)
    warn_of_gates(found.gates)
    if found.published:
        print_published(found.published)
    if not found.committed:
        return
    total = found.seconds["total"] or 1.0
    shares = [
        f"{name} {found.seconds[phase] / total:.0%}" for phase, name in PHASES.items()
    ]
    say(f"workers spent {total:.1f} s: {', '.join(shares)}")
    if found.busy:
        say(found.busy.sentence())


def print_differences(table: str, differences: Sequence[str]) -> None:
    """Say what `verify` has found."""
    for difference in differences:
        say(difference)
    if not differences:
        say(f"{table}: as its manifest says")


def print_certificate(parity: Parity) -> None:
    """Print how far each column lies from the reference."""
    print_table(
        ("column", "precision", "max abs", "relative", "1-cos", "unequal", "ok"),
        [
            (
                name,
                column.precision if column.has_error else "exact",
                _number(column.max_abs),
                _number(column.relative),
                _number(column.cosine),
                str(column.mismatched),
                "yes" if column.passed else "NO",
            )
            for name, column in parity.columns.items()
        ],
    )
    typer.echo(
        f"parity of {parity.rows} rows (seed {parity.seed}):"
        f" {'within' if parity.passed else 'OUTSIDE'} tolerance"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _origin(column: Column) -> str:
    if column.is_computed and not column.source:
        return "the model's result"
    return repr(column.source) if column.source else ""


def _masked(document: Any) -> Any:
    if isinstance(document, dict):
        return {_masked(name): _masked(value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [_masked(value) for value in document]
    return mask(document) if isinstance(document, str) else document


def last_words(error: Exception) -> str:
    """What an exception says at its end, below the worker's tracebacks."""
    lines = str(error).strip().splitlines()
    if not isinstance(error, RuntimeError) or not lines:
        lines = (
            [f"{type(error).__name__}: {lines[0]}", *lines[1:]]
            if lines
            else [type(error).__name__]
        )
    heads = [i for i, line in enumerate(lines) if line.startswith(TRACEBACK)]
    if heads:
        # Frames are indented, what was raised is not.
        below = range(heads[-1] + 1, len(lines))
        start = next((i for i in below if lines[i][:1].strip()), 0)
        lines = lines[start:]
    text = "\n".join(lines).removeprefix("RuntimeError: ")
    text = _GRAPH_NOISE.sub("", text)
    text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    return f"{text}\nset FEATURETAP_DEBUG=1 to see where"


def print_published(found: Sequence[Mapping[str, Any]]) -> None:
    """Say where a table has gone."""
    for one in found:
        there = " (it was there)" if one["was_there"] else ""
        of = f" of {one['sample_of']}" if one.get("sample_of") else ""
        say(
            f"published to {one['target']}: {one['location']}, {one['rows']}{of} rows"
            f" and {one['sampled']} sampled vectors read back{there}"
        )
    if not found:
        say("published nowhere")


def print_report(made: Report) -> None:
    """Say where a report is."""
    say(f"{made.report}: {size_text(made.bytes)}")
    if made.left_out:
        say(
            f"{len(made.left_out)} columns are not shown in detail (--column chooses):"
            f" {', '.join(made.left_out)}"
        )


def print_forgotten(made: Forgotten) -> None:
    """Say what was forgotten, and where it may lie still."""
    print_summary(made.table, made.summary, finished=False)
    say(
        f"forgotten: {made.rows} rows; {made.keys_found} of {made.keys} keys were found"
    )
    say("rows of these keys may lie still in")
    for one in made.places:
        say(f"  {one}")


def print_pruned(root: str, done: Pruned, *, as_json: bool) -> None:
    """Say which tables of a root are gone."""
    if as_json:
        print_json({"root": root, **asdict(done)})
        return
    say(f"{root}: removed {', '.join(done.removed) or 'nothing'}")
    say(f"kept {', '.join(done.kept)}")
    if done.spared:
        say(f"spared, since unfinished tables need them: {', '.join(done.spared)}")
