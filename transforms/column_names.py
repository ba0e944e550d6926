"""Turn any text into the name of a column."""

from __future__ import annotations

import re
import unicodedata

KEY = "example_id"
TIME = "event_timestamp"
RESERVED = (KEY, TIME)
"""Columns that featuretap names itself."""


def snake(text: str) -> str:
    """Turn an address or a feature's name into a column name, of any alphabet.

    >>> snake("encoder/Block_1:attnScores"), snake("Größe (cm)"), snake("标签")
    ('encoder_block_1_attn_scores', 'größe_cm', '标签')
    """
    name = words(text) or "output"
    return name if name.isidentifier() else f"_{name}"


def words(text: str) -> str:
    """Join the words of a text, in lower case, with underscores."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", unicodedata.normalize("NFC", text))
    letters = [c if f"_{c}".isidentifier() else "_" for c in split.lower()]
    return re.sub("_+", "_", "".join(letters)).strip("_")


def is_column_name(name: str) -> bool:
    """Whether a name can be a column's as it is, in lower_snake of any alphabet."""
    return name.isidentifier() and name == name.lower()
