"""Turn a TOML file and overrides into a checked `Config`."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pydantic
from pydantic import BaseModel

from transforms import storage
from transforms.config import Config
from transforms.credentials import holds_credentials, is_secret_name
from transforms.lookup import ConfigError, explain

_NAMED_BY_DATA = ("source.features", "model.inputs")
_REMEDY = (
    "which is written into the table: give credentials to every worker through its"
    " environment, or the configuration of fsspec"
)


def load_config(
    path: str | Path, overrides: Sequence[str] = (), limit: int | None = None
) -> Config:
    """Read and check a config.

    Args:
      path: a TOML file, anywhere fsspec reads.
      overrides: `a.b=value`, where the value is TOML, or text if it is not;
        `taps.0.path` names an entry of a list.
      limit: extract only the first so many rows.

    Raises:
      ConfigError: the file is missing, is not TOML, or says what cannot be.
    """
    document = _read(str(path))
    for override in overrides:
        set_key(document, override)
    if limit is not None:
        document["limit"] = limit
    return parse_config(document)


def _read(path: str) -> dict[str, Any]:
    """Read a TOML file, which may begin with a byte order mark as Windows writes it."""
    try:
        text = storage.read(path).decode("utf-8-sig")
    except IsADirectoryError:
        raise ConfigError(f"CONFIG must be a file, {path!r} is a directory") from None
    except FileNotFoundError:
        raise ConfigError(
            f"CONFIG must be an existing file, got {path!r} in the working directory"
            f" {str(Path.cwd())!r}{storage.why_missing(path)}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be text in UTF-8, it is not: {error}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must be TOML: {error}{_line(text, error)}") from None


def _line(text: str, error: Exception) -> str:
    """Quote the line at fault, and say what is mostly wrong with such a line."""
    place = re.search(r"at line (\d+)", str(error))
    if not place:
        return ""
    line = text.splitlines()[int(place[1]) - 1].strip()
    if "\\" in line and '"' in line:
        remedy = (
            r"; write paths with \ in single quotes, or with /, since \ begins an"
            " escape in double quotes"
        )
    elif re.search(r"=\s*[^\s\d\[{\"'+-]", line):
        remedy = "; text must stand in quotes"
    else:
        remedy = ""
    return f", in {line!r}{remedy}"


def parse_config(document: Mapping[str, Any]) -> Config:
    """Check a config that is a document already.

    Raises:
      ConfigError: it says what cannot be; every fault is named, a line each.
    """
    _refuse_unwritable(document)
    try:
        return Config.model_validate(document)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(explain(error, known=_known_keys))) from None


def _refuse_unwritable(value: Any, place: str = "") -> None:
    """Refuse what the plan that all workers read, which is JSON, must or can not hold.

    That is what would be written as it is, and numbers of which JSON has none.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            where = f"{place}.{name}".lstrip(".")
            secret = is_secret_name(str(name)) and isinstance(inner, str)
            if secret and place not in _NAMED_BY_DATA:
                raise ConfigError(f"{where} must not stand in the config, {_REMEDY}")
            _refuse_unwritable(inner, where)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _refuse_unwritable(inner, f"{place}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place} must be a finite number, got {value}")
    elif isinstance(value, str) and holds_credentials(value):
        raise ConfigError(
            f"{place} must not hold credentials, got {value!r}; {_REMEDY}"
        )


def _known_keys(place: Sequence[str | int]) -> list[str]:
    """The keys that a config knows at a place."""
    section: type[BaseModel] = Config
    for part in place:
        if isinstance(part, str) and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            inner = [annotation, *get_args(annotation)]
            section = next(
                kind
                for kind in inner
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            )
    return list(section.model_fields)


def set_key(document: dict[str, Any], override: str) -> None:
    """Apply one `a.b=value`.

    Raises:
      ConfigError: it has no value, or names no key of a section.
    """
    place, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set must be a.b=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *parents, last = place.strip().split(".")
    target: Any = document
    for part in parents:
        if isinstance(target, dict):
            target = target.setdefault(part, {})
        else:
            target = _entry(target, part, override)
    if isinstance(target, dict):
        target[last] = value
    elif isinstance(target, list):
        _entry(target, last, override)
        target[int(last)] = value
    else:
        raise ConfigError(f"--set must name a key of a section, got {override!r}")


def _entry(target: Any, part: str, override: str) -> Any:
    is_number = part.isascii() and part.isdigit()
    if not isinstance(target, list) or not is_number or int(part) >= len(target):
        raise ConfigError(
            f"--set must name an existing entry, got {part!r} in {override!r}"
        )
    return target[int(part)]
