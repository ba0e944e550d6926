"""Plain callables and tf.Modules: what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transforms.lookup import ConfigError
from transforms.models.base import Declared, Input, Recorded
from transforms.models.layers import leaves


class FunctionForm:
    """A function of tensors, such as a `tf.function` or a `tf.Module`.

    A parameter is an input. A function of one parameter gets a dict if several inputs
    are wired.

    Attributes:
      model: the callable.
    """

    def __init__(self, model: Callable[..., Any], wired: Sequence[str]) -> None:
        self.model = model
        self._names = _parameters(model)
        self._takes_dict = len(self._names) == 1 and len(wired) > 1
        if self._takes_dict:
            self._names = list(wired)

    def declared(self) -> list[Declared]:
        """Give the parameters, with what a `tf.function` says of them."""
        specs = getattr(self.model, "input_signature", None) or ()
        if len(specs) != len(self._names):
            return [Declared(name, None, "") for name in self._names]
        return [
            Declared(name, tuple(spec.shape), spec.dtype.name)
            for name, spec in zip(self._names, specs, strict=True)
        ]

    def build(self, inputs: Sequence[Input]) -> None:
        """Do nothing: tracing comes next, and makes what there is to make."""

    def record(self, tensors: Mapping[str, Any]) -> Iterator[Recorded]:
        """Yield what the function returns."""
        for leaf, value in leaves(self.call(tensors)):
            yield Recorded(f":{leaf}" if leaf else "", value, None)

    def find(self, tensors: Mapping[str, Any], addresses: Sequence[str]) -> list[Any]:
        """Call the function; TensorFlow leaves out what no address needs."""
        found = dict(leaves(self.call(tensors)))
        return [found[address.removeprefix(":")] for address in addresses]

    def variables(self) -> Sequence[Any]:
        """Give a module's variables; what else a function holds cannot be seen."""
        return list(getattr(self.model, "variables", ()))

    def call(self, tensors: Mapping[str, Any]) -> Any:
        """Call the function, eagerly or in the graph being traced."""
        if self._takes_dict:
            return self.model(dict(tensors))
        if len(tensors) == 1:
            return self.model(next(iter(tensors.values())))
        return self.model(**tensors)


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that must be given."""
    python = getattr(function, "python_function", function)
    parameters = inspect.signature(python).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name != "self"
    ]


def function_form(built: Any, wired: Sequence[str], where: str) -> FunctionForm:
    """Take what a build function returned, if it can be called.

    Raises:
      ConfigError: it is no function, or has no parameter.
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
