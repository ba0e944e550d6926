"""Import what is large in less time: TensorFlow with Keras, Beam."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_WRAPPERS = ("keras.wrappers", "keras._tf_keras.keras.wrappers")
_kept = False


def keep_imports() -> None:
    """Let this process never look for garbage among what `quick_imports` imports.

    For programs of featuretap's own, when they begin: whatever else is there at the end
    of the imports would never be found to be garbage either.
    """
    global _kept
    _kept = True


@contextmanager
def quick_imports() -> Iterator[None]:
    """Do imports in a block in less time than Python and Keras would take for them.

    Meanwhile Python does not look for garbage: of a million new objects next to none
    are, and it would look at them again and again. And Keras does not import
    scikit-learn for wrappers that few programs use; whoever uses them gets them as
    ever, they are imported then.
    """
    enabled = gc.isenabled()
    gc.disable()
    finder = _Postponing()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if _kept:
            gc.freeze()
        if enabled:
            gc.enable()


class _Postponing(MetaPathFinder):
    """Finds Keras's wrappers, which load when something of them is asked for."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find one of these modules; leave all others to the finders that follow."""
        if fullname not in _WRAPPERS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
