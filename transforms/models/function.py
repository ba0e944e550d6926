"""Plain functions and tf.Modules as models: their addresses are what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transforms.lookup import ConfigError
from transforms.models.inputs import Declared, Input, parameters
from transforms.models.model import Recorded, gathered, leaves, misfit, trace_once


class FunctionForm:
    """A function of tensors, such as a `tf.function` or a `tf.Module`.

    Its inputs are its parameters without a default, and of the others those that
    `model.inputs` names. A function of one parameter gets a dict or a list if
    `model.inputs` has several inputs, or its `input_signature` is one. A parameter
    `training` is always False.

    Args:
      model: the function.

    Attributes:
      model: the function.
      stock: False.
    """

    stock = False

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model
        self._function = model
        python = getattr(model, "python_function", model)
        takes_training = "training" in inspect.signature(python).parameters
        self._fixed = {"training": False} if takes_training else {}
        self._parameters = parameters(python)
        specs = getattr(model, "input_signature", None) or ()
        self._specs = () if takes_training else tuple(specs)
        self._is_structured = len(self._specs) == 1 and isinstance(
            self._specs[0], Mapping | list | tuple
        )

    def declared(self) -> list[Declared]:
        """Give the parameters; shapes and types if a `tf.function` declares them."""
        specs = self._specs
        if self._is_structured:
            return [_declared(name, spec) for name, spec in leaves(specs[0])]
        known = [
            replace(_declared(one.name, spec), optional=one.optional)
            for one, spec in zip(self._parameters, specs, strict=False)
        ]
        return known + self._parameters[len(known) :]

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
        known = {one.name for one in self._parameters}
        if self._is_structured or not set(tensors) <= known:
            return function(gathered(tensors), **self._fixed)
        if len(tensors) == 1 and not self._fixed:
            return function(next(iter(tensors.values())))
        return function(**tensors, **self._fixed)


def _declared(name: str, spec: Any) -> Declared:
    shape = None if spec.shape.rank is None else tuple(spec.shape)
    return Declared(name, shape, spec.dtype.name)


def function_form(built: Any, where: str) -> FunctionForm:
    """Make a model of the function that `model.build` has returned.

    Args:
      built: what was returned.
      where: place in the config, for error messages.

    Raises:
      ConfigError: it cannot be called, or has no parameter.
    """
    if not callable(built):
        raise ConfigError(
            f"{where} must return a Keras model, a tf.Module with __call__, or a"
            f" function of tensors, it returned a {type(built).__name__}"
        )
    form = FunctionForm(built)
    if not form.declared():
        raise ConfigError(
            f"{where} must return a function with a parameter for each input, it"
            f" returned {built!r}, which has none"
        )
    return form
