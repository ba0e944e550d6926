"""Twice the text takes twice the time, whatever stands in it."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.show import last_words
from transforms.column_names import snake
from transforms.config import TapSpec
from transforms.credentials import holds_credentials, is_secret_name, mask
from transforms.errors.failure import clean_message
from transforms.lookup import ConfigError, nearest
from transforms.messages import shown
from transforms.sources.parquet import _hive_values
from transforms.sources.staging import target_in
from transforms.sources.webdataset import expand_braces
from transforms.taps.chains import split_reduction
from transforms.taps.language import Activation, choose_one, match

_TIMES = 2
_TRIES = 3
_CHARACTERS = (1 << 8, 1 << 10, 1 << 12, 1 << 14)
_SUPERLINEAR = 3.0
_LEAST_SECONDS = 0.02  # a hundredth of what grows with the square
_UNITS = (
    "a-", "/", "=", "{", "}", "\\", "'", '"', "0", " ", "\t", "\n", ":", "@", "?", "&",
    ".", "[", "[[{{", "{{", "[Op:", "a=", "a:", "aB", "1.", "-", "_", "://", "https://",
    "://a:", "://:1", "s3://u:p@h ", "?sig=", "&token", "&token=", "password=",
    "a-token:",
    "password='", "secret", "secret ", "bearer ", "bearer  a", "basic\n", '"password" ',
    "[while running '", ' File "', ' File "x", line 1, in ', "a,", "a/", "ü",
    "Error in user-defined function passed to ", " iterator: ", "]] [Op:",
    "(", "-1", "{a,b}", "{0..1}", "{1}",
)  # fmt: skip
_HEADS = ("", "Graph execution error:\n", "https://", "password='", "?a", "@", "{")


def _reduction(text: str) -> None:
    with contextlib.suppress(ConfigError):
        split_reduction(f"mean({text}")


def _column(text: str) -> None:
    activation = Activation("layer", (2,), "float32")
    spec = TapSpec(path="layer", column=text)
    with contextlib.suppress(ConfigError):
        choose_one(spec, "taps[0]", [activation])


def _braces(text: str) -> None:
    with contextlib.suppress(ConfigError):
        expand_braces(text)


SEEN: dict[str, Callable[[str], object]] = {
    "mask": mask,
    "mask some": lambda text: mask(text, 1000),
    "holds_credentials": holds_credentials,
    "is_secret_name": is_secret_name,
    "shown": shown,
    "clean_message": lambda text: clean_message(ValueError(text)),
    "last_words": lambda text: last_words(ValueError(text)),
    "nearest": lambda text: nearest(text, ["path", "features"]),
    "hive": lambda text: _hive_values(f"{text}/x"),
    "braces": _braces,
    "reduction": _reduction,
    "column": _column,
    "snake": snake,
    "suffix": lambda text: target_in(Path("/"), 0, text),
    "address": lambda text: match("**/a*-**/*", text + "-/"),
    "pattern": lambda text: match(text, "a-a-a/b"),
}


_MESSAGES = ("mask", "mask some", "clean_message", "last_words")


def seconds(call: Callable[[], object]) -> float:
    """The least time of some, of this thread alone: others may be busy."""
    least = math.inf
    for _ in range(_TIMES):
        began = time.thread_time()
        call()
        least = min(least, time.thread_time() - began)
    return least


def grows_faster(call: Callable[[str], object], head: str, unit: str) -> bool:
    """Whether twice the text takes much more than twice the time, however often."""

    def took(characters: int) -> float:
        text = head + unit * (characters // len(unit))
        return seconds(lambda: call(text))

    for characters in _CHARACTERS:
        if took(characters) > _LEAST_SECONDS:
            return all(
                took(2 * characters) > _SUPERLINEAR * took(characters)
                for _ in range(_TRIES)
            )
    return False


@pytest.mark.parametrize("name", SEEN)
def test_time_grows_no_faster_than_the_text(name: str) -> None:
    heads = _HEADS if name in _MESSAGES else ("",)
    cases = itertools.product(heads, _UNITS)
    assert not next((one for one in cases if grows_faster(SEEN[name], *one)), None)
