"""Turn a name from the config into the object it names, and options into its arguments.

A name is a built-in from a table, or `package.module:attribute`. Both are plain
callables, so the signature of a callable is the one description of its options.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from transforms.credentials import mask

_SHOWN = 200
_OWN_PACKAGES = ("pipeline", "transforms")


class ConfigError(ValueError):
    """What the user asked for cannot be done as written; nothing has been run.

    Credentials that the message repeats are masked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class TableError(ValueError):
    """A file of a table is damaged, so that the table cannot be worked on as it is.

    Credentials that the message repeats are masked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


def resolve(name: str, table: Mapping[str, Any], what: str) -> Any:
    """Find what `name` stands for: an entry of `table`, or `package.module:attribute`.

    Args:
      name: built-in name or `package.module:attribute`.
      table: the built-ins.
      what: where the name stands, for the error message (`"source.reader"`).

    Raises:
      ConfigError: no such built-in, module or attribute.

    >>> resolve("twice", {"twice": 2}, "example")
    2
    """
    if ":" not in name:
        if name in table:
            return table[name]
        raise ConfigError(
            f"{what} must be one of {', '.join(sorted(table))}, or"
            f" 'package.module:attribute', got {name!r}{nearest(name, table)}"
        )
    module_name, _, attribute = name.partition(":")
    found: Any = import_module(module_name, what)
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigError(
            f"{what} must name something in module {module_name!r}, got {attribute!r}"
            f"{nearest(attribute, vars(sys.modules[module_name]))}"
        ) from None
    if not callable(found):
        raise ConfigError(
            f"{what} must name a function, {name!r} is a {type(found).__name__}"
        )
    return found


def import_module(name: str, what: str) -> Any:
    """Import a user's module; the working directory is on the import path.

    Raises:
      ConfigError: there is no such module. Errors inside the module pass through.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(
            f"{what} must name a module, such as 'package.module', got {name!r}"
        )
    if name.split(".")[0] in _OWN_PACKAGES:
        raise ConfigError(
            f"{what} must name a module of your own, got {name!r}: the names"
            f" {' and '.join(_OWN_PACKAGES)} are featuretap's; rename the module"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"{what} must name an importable module, got {name!r}; modules are looked"
            f" for in the working directory {str(Path.cwd())!r} and what is installed"
        ) from None


def bind(function: Callable[..., Any], options: Mapping[str, Any], what: str) -> Any:
    """Check `options` against the keyword parameters of `function` and convert them.

    Args:
      function: any callable; with `functools.partial` for what is no option.
      options: as the config gives them.
      what: their place in the config, for error messages.

    Returns:
      The validated options, a dict.

    Raises:
      ConfigError: an unknown, missing or ill-typed option.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:
        raise ConfigError(
            f"{what} must name a function whose parameters Python can tell, got one in"
            " C; wrap it in a function of your own"
        ) from None
    parameters = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for name in options:
        if name not in parameters:
            raise ConfigError(
                f"{what}.{name} is not an option here{nearest(name, parameters)}"
                f" (known: {', '.join(parameters) or 'none'})"
            )
    fields: dict[str, Any] = {}
    for name, parameter in parameters.items():
        kind = _annotation(function, parameter)
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (kind, default)
    model = pydantic.create_model(
        "options", __config__={"arbitrary_types_allowed": True}, **fields
    )
    try:
        checked = model(**options)
    except pydantic.ValidationError as error:
        raise ConfigError("; ".join(explain(error, what))) from None
    return {name: getattr(checked, name) for name in options}


def _annotation(function: Any, parameter: inspect.Parameter) -> Any:
    """The type of one parameter; Any where there is none, or none that can be found."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    while isinstance(function, functools.partial):
        function = function.func
    owner = function
    for kind in getattr(function, "__mro__", ()):  # an inherited field of a dataclass
        if parameter.name in vars(kind).get("__annotations__", {}):
            owner = kind
            break
    try:
        return eval(annotation, vars(sys.modules[owner.__module__]))
    except (NameError, AttributeError, KeyError):
        return Any


def explain(
    error: pydantic.ValidationError,
    what: str = "",
    known: Callable[[Sequence[str | int]], Iterable[str]] | None = None,
) -> list[str]:
    """Say each fault that pydantic found in the house's form, by its dotted place.

    Args:
      error: what pydantic raised.
      what: place of the whole.
      known: gives the keys that are known at a place.
    """
    lines = []
    for fault in error.errors(include_url=False):
        place = what
        for part in fault["loc"]:
            place += f"[{part}]" if isinstance(part, int) else f".{part}"
        place = place.lstrip(".")
        if fault["type"] == "missing":
            given = fault["input"] if isinstance(fault["input"], Mapping) else ()
            lines.append(f"{place} is required{nearest(str(fault['loc'][-1]), given)}")
        elif fault["type"] == "extra_forbidden":
            keys = sorted(known(fault["loc"][:-1])) if known else []
            lines.append(
                f"{place} is not a known key{nearest(str(fault['loc'][-1]), keys)}"
                f" (known here: {', '.join(keys)})"
            )
        else:
            lines.append(f"{place}{_reason(fault)}, got {_shown(fault['input'])}")
    return lines


def _reason(fault: Mapping[str, Any]) -> str:
    """Say why a value is refused; `loc` of the fault names its place."""
    if fault["type"] in ("tuple_type", "list_type"):
        if isinstance(fault["input"], Mapping):
            head = f"[[{fault['loc'][-1]}]]"
            return f" must be a list of sections, each of them begins {head}"
        return " must be a list, in square brackets"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f": {message[:1].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:_SHOWN]} …" if len(text) > _SHOWN else text


def nearest(name: str, known: Iterable[str]) -> str:
    """Give `; nearest is 'x'` for the most alike known name, or nothing.

    >>> nearest("pth", ["path", "split"])
    "; nearest is 'path'"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; nearest is {close[0]!r}" if close else ""


def source_digest(names: Iterable[str]) -> str:
    """Hash the source text of the modules that user names stand in.

    Args:
      names: module names, or `package.module:attribute`; built-in names are skipped
        by the caller.

    Returns:
      64 hex digits, SHA-256 over module names and file contents, sorted.
    """
    digest = hashlib.sha256()
    for module_name in sorted({name.partition(":")[0] for name in names}):
        path = getattr(import_module(module_name, "imports"), "__file__", None)
        text = Path(path).read_bytes() if path else b""
        digest.update(f"{module_name}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()


def need(module: str, extra: str, who: str = "this target") -> None:
    """See that a package of one of featuretap's extras is there.

    Args:
      module: that is going to be imported.
      extra: whose package it is.
      who: needs it, for the message.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{who} needs the package {error.name or module}, which is not installed;"
            f" install featuretap[{extra}]"
        ) from error
