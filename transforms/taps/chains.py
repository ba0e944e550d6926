"""Parse the reductions of a tap, and apply them one after the other."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Sequence
from typing import Any

from transforms.lookup import ConfigError, bind, resolve
from transforms.messages import shape_text
from transforms.taps.masks import mask_of, reduce_masked
from transforms.taps.reductions import REDUCTIONS


def parse_reduction(text: str, where: str) -> Callable[[Any], Any]:
    """Turn `mean(axis=1)` or `package.module:function(k=3)` into a function.

    Args:
      text: name of a reduction, or `package.module:function`; keyword arguments, which
        must be Python literals, may follow in parentheses.
      where: place in the config, for error messages.

    Raises:
      ConfigError: the text cannot be parsed, names no reduction, or has a bad option.
    """
    name, options = split_reduction(text, where)
    function = resolve(name, REDUCTIONS, where)
    checked = bind(functools.partial(function, None), options, where)
    return functools.partial(function, **checked)


def split_reduction(text: str, where: str = "reduce") -> tuple[str, dict[str, Any]]:
    """Split a reduction's text into its name and keyword arguments.

    Raises:
      ConfigError: the text cannot be parsed.

    >>> split_reduction("mean(axis=[1, 2])")
    ('mean', {'axis': [1, 2]})
    """
    name, parenthesis, arguments = text.partition("(")
    if not parenthesis:
        return name.strip(), {}
    try:
        call = ast.parse(f"_({arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError(text)
        if call.args or len({k.arg for k in call.keywords}) < len(call.keywords):
            raise ValueError(text)
        options = {k.arg or "**": ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ConfigError(
            f"{where} must be a name with keyword arguments, such as"
            f" 'mean(axis=1)' or \"mean(axis='time')\", got {text!r}"
        ) from None
    return name.strip(), options


def reduce_chain(
    values: Any, reductions: Sequence[Callable[[Any], Any]], where: str
) -> Any:
    """Apply reductions left to right and check that the batch axis is left.

    Of an activation with a mask of Keras's, reductions over the steps leave masked ones
    out.

    Args:
      values: an activation `[batch, ...]`.
      reductions: functions that `parse_reduction` has made.
      where: place of the list in the config, for error messages.

    Raises:
      ConfigError: a reduction fails, or changes the number of rows.
    """
    rows = values.shape[0]
    mask = mask_of(values)
    for index, reduction in enumerate(reductions):
        given, shown = values, shape_text(("batch", *values.shape[1:]))
        try:
            if mask is None:
                values = reduction(given)
            else:
                values, mask = reduce_masked(reduction, given, mask)
        except Exception as error:
            raise ConfigError(
                f"{where}[{index}] must fit an activation of shape {shown}: {error}"
            ) from error
        if not hasattr(values, "shape"):
            raise ConfigError(
                f"{where}[{index}] must return a tensor, got {type(values).__name__}"
            )
        if values.shape.rank == 0 or values.shape[0] != rows:
            raise ConfigError(
                f"{where}[{index}] must keep the batch axis of {rows} rows, it turns"
                f" shape {shown} into {shape_text(values.shape)}"
            )
    return values
