"""What every form of model promises, and a model that is ready to be tapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from transforms.messages import shape_text
from transforms.models.inputs import Declared, Input, input_text

INSIDE = "is computed inside a loop, a branch or a function of its own"


class Recorded(NamedTuple):
    """An address of a model and its value in the graph that is being traced.

    Attributes:
      address: `<layer path>[@call][:<leaf>]`.
      value: a tensor `[batch, ...]`, or whatever else was returned; None if the value
        lies in another graph.
      refusal: why it cannot be tapped; None if nothing speaks against it so far.
    """

    address: str
    value: Any
    refusal: str | None


class ModelForm(Protocol):
    """A loaded model of one kind: layers, a graph of operations, or a function.

    Attributes:
      model: the object of the model's own library: a Keras model, the signature of a
        SavedModel, or a function.
      stock: whether layers of Keras's own are all that tracing runs. Other code may
        trace differently each time, or use the number of rows.
    """

    model: Any
    stock: bool

    def declared(self) -> list[Declared]:
        """Give the inputs in the model's own order."""

    def build(self, inputs: Sequence[Input]) -> None:
        """Make the variables and layers that the model makes only on its first call.

        Raises:
          ConfigError: the model does not take these inputs.
        """

    def record(self, tensors: Mapping[str, Any]) -> Iterable[Recorded]:
        """Run inference in the graph that is being traced; give every address.

        Args:
          tensors: `{input: tensor [batch, ...]}`.
        """

    def find(self, tensors: Mapping[str, Any], addresses: Sequence[str]) -> list[Any]:
        """Run inference in the graph that is being traced, as far as addresses need it.

        Args:
          tensors: `{input: tensor [batch, ...]}`.
          addresses: addresses that `record` gives without a refusal.

        Returns:
          The value of each address.
        """

    def variables(self) -> Sequence[Any]:
        """Give the variables whose values decide what the model computes."""


def trace_once(call: Callable[[dict[str, Any]], Any], inputs: Sequence[Input]) -> None:
    """Trace a model's call, so that it makes the variables that only a call makes."""
    import tensorflow as tf

    @tf.autograph.experimental.do_not_convert
    def body(tensors: dict[str, Any]) -> None:
        call(tensors)

    specs = {i.name: tf.TensorSpec((None, *i.shape), i.dtype) for i in inputs}
    tf.function(body).get_concrete_function(specs)


def gathered(tensors: Mapping[str, Any]) -> list[Any] | dict[str, Any]:
    """Make one structure of several inputs: a list if all go by their position."""
    if all(name.isdigit() for name in tensors):
        return [tensors[name] for name in sorted(tensors, key=int)]
    return dict(tensors)


def misfit(what: str, inputs: Sequence[Input], error: Exception) -> str:
    """Write the message for a model that does not take its inputs."""
    shapes = ", ".join(
        f"{input_text(i.name)} {i.dtype} {shape_text(('batch', *i.shape))} from feature"
        f" {i.feature!r}"
        for i in inputs
    )
    return (
        f"the {what} must take its inputs ({shapes}): {type(error).__name__}: {error};"
        " change model.inputs or source.preprocess"
    )


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model that is built and knows its inputs.

    Attributes:
      form: the loaded model.
      inputs: its inputs, in the model's own order, with the features for them.
      batch_rows: the fixed batch size that the model takes; None if it takes any.
      digest: hash of all that decides what it computes, 64 hex digits.
      jit: whether XLA compiles what computes columns.
      compiled: functions that `transforms.taps.compile` has compiled of it.
    """

    form: ModelForm
    inputs: tuple[Input, ...]
    batch_rows: int | None
    digest: str = ""
    jit: bool = False
    compiled: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def tensors(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Turn `{feature: tensor [batch, ...]}` into `{input: tensor [batch, ...]}`.

        Tensors are cast to the types that the model takes.
        """
        import tensorflow as tf

        return {
            i.name: tf.cast(features[i.feature], i.dtype)
            if features[i.feature].dtype != i.dtype
            else features[i.feature]
            for i in self.inputs
        }


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of what a layer returned, each with its slash-joined path.

    The path is made of dict keys, indexes and fields of namedtuples. None is no leaf.

    >>> list(leaves({"a": (1, None), "b": {"c": 2}}))
    [('a/0', 1), ('b/c', 2)]
    """
    items: Iterator[tuple[Any, Any]]
    if value is None:
        return
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = iter(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        items = iter(enumerate(value))
    else:
        yield path, value
        return
    for key, child in items:
        yield from leaves(child, f"{path}/{key}" if path else str(key))
