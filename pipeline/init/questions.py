"""Ask somebody at a terminal where a draft is unsure; else take what is likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import typer


@dataclass(frozen=True, slots=True)
class Questions:
    """Answers to what data and model do not tell, and a record of what was assumed.

    Attributes:
      asks: whether to ask on the terminal; if not, the likeliest answer is taken.
      guessed: what was assumed and may be wrong, in the order of the config.
      unknown: what somebody has to fill in.
    """

    asks: bool = False
    guessed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def choose(self, question: str, answers: Sequence[str]) -> str:
        """Choose one of some answers, of which the first is the likeliest.

        The choice between several counts as guessed unless somebody was asked.
        """
        if len(answers) == 1:
            return answers[0]
        if not self.asks:
            others = ", ".join(answers[1:])
            self.guess(f"{question}: {answers[0]} (there is also {others})")
            return answers[0]
        for number, answer in enumerate(answers, 1):
            typer.echo(f"  {number}  {answer}", err=True)
        number = 0
        while not 1 <= number <= len(answers):
            number = typer.prompt(f"{question}?", default=1, type=int, err=True)
        return answers[number - 1]

    def guess(self, text: str) -> str:
        """Note what was assumed; give it as a comment for the config."""
        self.guessed.append(text)
        return f"guessed: {text}"

    def miss(self, text: str) -> str:
        """Note what has to be filled in; give it as a comment for the config."""
        self.unknown.append(text)
        return f"not known: {text}"
