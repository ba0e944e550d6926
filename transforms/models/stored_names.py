"""Names in a stored Keras model -> the objects that Keras would take for them.

Nothing is imported or called: a name that is not there yet is a stranger's.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transforms.models.pure_functions import is_pure_function

# What Keras makes from a stored description are instances of these.
_BASES = (
    *("layers.Layer", "layers.InputSpec", "Operation", "losses.Loss", "metrics.Metric"),
    *("initializers.Initializer", "regularizers.Regularizer", "constraints.Constraint"),
    *("optimizers.Optimizer", "optimizers.legacy.Optimizer", "quantizers.Quantizer"),
    *("optimizers.schedules.LearningRateSchedule", "quantizers.QuantizationConfig"),
    *("mixed_precision.Policy", "dtype_policies.DTypePolicy", "random.SeedGenerator"),
    *("dtype_policies.DTypePolicyMap",),
)
_NAMESPACES = (
    *("layers", "models", "activations", "initializers", "regularizers", "constraints"),
    *("losses", "metrics", "optimizers", "optimizers.legacy", "optimizers.schedules"),
)
# Where Keras keeps functions that only compute, and those there that do more.
_PURE = ("activations", "losses", "metrics", "ops", "random")
_IMPURE = ("deserialize", "get", "serialize")


def find(
    described: Mapping[str, Any], package: Any, imports: Sequence[str]
) -> list[Any]:
    """Find all objects that a stored description may stand for.

    Which of its names counts differs between formats and versions, so all do.

    Args:
      described: a stored object, with its `class_name` and perhaps `config`, `module`
        and `registered_name`.
      package: the Keras that would load it, `keras` or `tf_keras`.
      imports: modules whose classes and functions may be taken though they are not
        registered.

    Returns:
      Classes and functions of Keras, those registered with it, and those of `imports`;
      empty if Keras might have to take something else.
    """
    function = described["class_name"] == "function"
    name = described.get("config") if function else described["class_name"]
    module, other = described.get("module"), described.get("registered_name", name)
    if not isinstance(name, str):
        return []
    names = [name, other] if isinstance(other, str) and other != name else [name]
    holder = _holder(package, module) if _is_ours(module) else None
    if _is_ours(module) and holder is None:
        return []
    own = [list(_own(package, holder, one, function)) for one in names]
    fits = _is_pure if function else _is_built_in
    if not all(fits(one, package) for found in own for one in found):
        return []
    registry = package.saving.get_custom_objects()
    registered = [one for one in names if one in registry]
    known = [*(one for found in own for one in found), *map(registry.get, registered)]
    if (name if function else other) in registered:
        return known
    if module in (None, "builtins") or _is_ours(module):
        return known if own[0] or name in registry else []
    others = list(_others(module, name, function, imports))
    return [*known, *others] if others else []


def _is_ours(module: Any) -> bool:
    return _root(module) in ("keras", "tf_keras")


def _root(module: Any) -> str:
    return str(module).partition(".")[0]


def _holder(package: Any, module: Any) -> types.ModuleType | None:
    """The module of a Keras that a stored name means; None if it is not loaded."""
    found = _attribute(package, str(module).partition(".")[2])
    return found if isinstance(found, types.ModuleType) else None


def _own(package: Any, holder: Any, name: str, function: bool) -> Iterator[Any]:
    """Yield what a name is in a module of Keras, or anywhere there."""
    if hasattr(holder, name):
        yield getattr(holder, name)
    for namespace in _NAMESPACES:
        one = getattr(_attribute(package, namespace), name, None)
        if isinstance(one, types.FunctionType if function else type):
            yield one
    if not function:  # early versions of Keras 2 number classes
        yield from _classes(package).get(name.removesuffix("V1").removesuffix("V2"), [])


def _attribute(package: Any, path: str) -> Any:
    """What is at a dotted path below a package; None if there is nothing."""
    for part in filter(None, path.split(".")):
        package = getattr(package, part, None)
    return package


@functools.cache
def _classes(package: Any) -> Mapping[str, list[type]]:
    """All classes of a Keras by their own names, exported or not."""
    found: dict[str, list[type]] = {}
    left = list(_bases(package))
    while left:
        one = left.pop()
        left.extend(one.__subclasses__())
        if _is_built_in(one, package) and one not in found.get(one.__name__, []):
            found.setdefault(one.__name__, []).append(one)
    return found


@functools.cache
def _bases(package: Any) -> tuple[type, ...]:
    found = (_attribute(package, path) for path in _BASES)
    return tuple(one for one in found if isinstance(one, type))


def _is_built_in(one: Any, package: Any) -> bool:
    return (
        isinstance(one, type)
        and one.__module__.startswith(f"{package.__name__}.")
        and issubclass(one, _bases(package))
    )


def _is_pure(one: Any, package: Any) -> bool:
    """Whether something of Keras is a function that only computes."""
    homes = tuple(f"{package.__name__}.src.{name}" for name in _PURE)
    return (
        isinstance(one, types.FunctionType)
        and one.__module__.startswith(homes)
        and one.__name__ not in _IMPURE
    )


def _is_tensorflow(one: Any) -> bool:
    """Whether something is a public function of TensorFlow that only computes."""
    from tensorflow.python.util import tf_export

    name = tf_export.get_canonical_name_for_symbol(one)
    return bool(name) and is_pure_function(name)


def _others(
    module: Any, name: str, function: bool, imports: Sequence[str]
) -> Iterator[Any]:
    """Yield what a module of TensorFlow, or one that the config names, defines."""
    tensorflow = function and _root(module) == "tensorflow"
    named = any(f"{module}.".startswith(f"{one}.") for one in imports)
    held = vars(sys.modules[str(module)]) if str(module) in sys.modules else {}
    one = held.get(name)
    if isinstance(one, type | types.FunctionType) and (
        (named and one.__module__ == module) or (tensorflow and _is_tensorflow(one))
    ):
        yield one
