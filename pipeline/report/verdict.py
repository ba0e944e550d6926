"""Gates -> a table of verdicts, and the sentence that a report begins with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.sample import text_of
from pipeline.report.subject import Subject
from pipeline.report.work import Record
from transforms.messages import shown
from transforms.table.verdicts import Outcome, Verdict, limit_text

_ORDER: tuple[Outcome, ...] = ("failed", "warned", "passed")


@dataclass(frozen=True, slots=True)
class Sentence:
    """How good a table is.

    Attributes:
      outcome: the worst of its gates: `failed`, `warned` or `passed`.
      text: the same in a sentence.
    """

    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A line of the table of gates; all is text that is fit to be shown."""

    outcome: str
    gate: str
    column: str
    detail: str
    warn: str
    fail: str
    examples: Sequence[str]


def judged(verdicts: Sequence[Verdict]) -> list[Judged]:
    """Lay verdicts out, the worst first."""
    return [
        Judged(
            one.outcome,
            one.gate,
            one.column,
            shown(one.detail, 300),
            limit_text(one.warn),
            limit_text(one.fail),
            [text_of(key) for key in one.examples],
        )
        for one in sorted(verdicts, key=lambda one: _ORDER.index(one.outcome))
    ]


def sentence(subject: Subject, record: Record) -> Sentence:
    """Say how good a table is, in a sentence."""
    counts = Counter(one.outcome for one in subject.verdicts)
    outcome: Outcome = next((one for one in _ORDER if counts[one]), "passed")
    total = len(subject.verdicts)
    gates = {
        "failed": f"{counts['failed']} of its {total} gates failed",
        "warned": f"{counts['warned']} of its {total} gates warned",
        "passed": f"all {total} gates passed" if total else "no gate judged it",
    }[outcome]
    state = "finished" if subject.is_finished else "not finished"
    bad = record.bad_rows
    planned = record.rows + bad
    apart = f"{bad} bad rows ({bad / planned:.2%}) were set apart" if bad else ""
    text = (
        f"The table is {state} with {record.rows:,} rows in"
        f" {len(subject.plan.columns)} columns; {gates}"
    )
    return Sentence(outcome, f"{text}; {apart}." if apart else f"{text}.")
