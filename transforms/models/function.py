"""Plain functions and tf.Modules as models: their addresses are what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transforms.lookup import ConfigError
from transforms.models.inputs import Declared, Input
from transforms.models.model import Recorded, leaves, misfit, trace_once


class FunctionForm:
    """A function of tensors, such as a `tf.function` or a `tf.Module`.

    Its inputs are its parameters without a default, and of the others those that
    `model.inputs` names. A function of one parameter gets a dict if `model.inputs`
    names several inputs, some of other names than the parameter's. A parameter
    `training` is always False.

    Args:
      model: the function.
      wired: names of the inputs in `model.inputs`.

    Attributes:
      model: the function.
      stock: False.
    """

    stock = False

    def __init__(self, model: Callable[..., Any], wired: Sequence[str]) -> None:
        self.model = model
        self._function = model
        required, optional = _parameters(model)
        self._fixed = {n: False for n in ("training",) if n in {*required, *optional}}
        required = [name for name in required if name not in self._fixed]
        others = set(wired) - {*required, *optional}
        self._takes_dict = len(required) == 1 and len(wired) > 1 and bool(others)
        self._names = required + [name for name in wired if name in optional]
        if self._takes_dict:
            self._names = list(wired)

    def declared(self) -> list[Declared]:
        """Give the parameters; shapes and types if a `tf.function` declares them."""
        specs = getattr(self.model, "input_signature", None) or ()
        if len(specs) != len(self._names):
            return [Declared(name, None, "") for name in self._names]
        return [
            Declared(name, tuple(spec.shape), spec.dtype.name)
            for name, spec in zip(self._names, specs, strict=True)
        ]

    def build(self, inputs: Sequence[Input]) -> None:
        """Trace the function once, since a module may make its variables only then.

        Raises:
          ConfigError: the function does not take these inputs.
        """
        import tensorflow as tf

        def call(tensors: Mapping[str, Any]) -> Any:
            return self._call(self._function, tensors)

        try:
            try:
                trace_once(call, inputs)
            except tf.errors.OperatorNotAllowedInGraphError:  # `if` on a tensor
                self._function = tf.function(self.model)
                trace_once(call, inputs)
        except Exception as error:
            raise ConfigError(misfit("function", inputs, error)) from error

    def record(self, tensors: Mapping[str, Any]) -> Iterator[Recorded]:
        """Yield each leaf of what the function returns."""
        for leaf, value in leaves(self._call(self._function, tensors)):
            yield Recorded(f":{leaf}" if leaf else "", value, None)

    def find(self, tensors: Mapping[str, Any], addresses: Sequence[str]) -> list[Any]:
        """Call the function; TensorFlow leaves out what no address needs."""
        found = dict(leaves(self._call(self._function, tensors)))
        return [found[address.removeprefix(":")] for address in addresses]

    def variables(self) -> Sequence[Any]:
        """Give a module's variables; other state of a function cannot be seen."""
        return list(getattr(self.model, "variables", ()))

    def run(self, tensors: Mapping[str, Any]) -> Any:
        """Call the function as it is, eagerly."""
        return self._call(self.model, tensors)

    def _call(self, function: Callable[..., Any], tensors: Mapping[str, Any]) -> Any:
        if self._takes_dict:
            return function(dict(tensors), **self._fixed)
        if len(tensors) == 1 and not self._fixed:
            return function(next(iter(tensors.values())))
        return function(**tensors, **self._fixed)


def _parameters(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Name the parameters without a default, and those with one."""
    python = getattr(function, "python_function", function)
    parameters = [
        parameter
        for parameter in inspect.signature(python).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name != "self"
    ]
    required = [p.name for p in parameters if p.default is p.empty]
    return required, [p.name for p in parameters if p.name not in required]


def function_form(built: Any, wired: Sequence[str], where: str) -> FunctionForm:
    """Make a model of the function that `model.build` has returned.

    Args:
      built: what was returned.
      wired: names of the inputs in `model.inputs`.
      where: place in the config, for error messages.

    Raises:
      ConfigError: it cannot be called, or has no parameter.
    """
    if not callable(built):
        raise ConfigError(
            f"{where} must return a Keras model, a tf.Module with __call__, or a"
            f" function of tensors, it returned a {type(built).__name__}"
        )
    form = FunctionForm(built, wired)
    if not form.declared():
        raise ConfigError(
            f"{where} must return a function with a parameter for each input, it"
            f" returned {built!r}, which has none"
        )
    return form
