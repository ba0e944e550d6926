"""What all sections of a config share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section: keys that it does not have are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def one_or_many(value: Any) -> Any:
    """Take a text for a list of one."""
    return [value] if isinstance(value, str) else value
