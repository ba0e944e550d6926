"""Load a SavedModel, and choose the graph and the signature of it that are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transforms.lookup import ConfigError, nearest
from transforms.models.saved_model import SavedForm
from transforms.models.saved_runs import DEFAULT_SIGNATURE
from transforms.models.signature_parts import check_inputs


def load_saved(
    path: Path, signature: str | None, tags: Sequence[str] | None, uri: str
) -> SavedForm:
    """Load a SavedModel and choose its signature.

    Args:
      path: local path of the directory.
      signature: name of the signature, or None as for `choose_signature`.
      tags: those of the graph; None chooses the only one, or the one for serving.
      uri: the directory as the config names it, for errors.

    Raises:
      ConfigError: TensorFlow cannot load it, several graphs could be meant, or there
        is no such graph or signature.
    """
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path), _tags(path, tags, uri))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            "model.path must be a SavedModel that TensorFlow can load, got"
            f" {uri!r}: {type(error).__name__}: {error}; export it again, or list the"
            " modules that register its operations in model.imports"
        ) from error
    return choose_signature(loaded, signature, uri)


def choose_signature(loaded: Any, signature: str | None, uri: str) -> SavedForm:
    """Choose a signature of a loaded SavedModel.

    Args:
      loaded: what `tf.saved_model.load` has returned.
      signature: name of the signature; None chooses the only one, or `serving_default`.
      uri: the model as the config names it, for errors.

    Raises:
      ConfigError: there is no such signature, or it takes inputs by position, or ragged
        or sparse ones.
    """
    signatures = dict(loaded.signatures)
    known = ", ".join(sorted(signatures))
    if not signatures:
        raise ConfigError(
            f"a SavedModel must have a signature, {uri!r} has none; give signatures to"
            " tf.saved_model.save"
        )
    if signature is None:
        single = len(signatures) == 1
        signature = next(iter(signatures)) if single else DEFAULT_SIGNATURE
        if signature not in signatures:
            raise ConfigError(f"model.signature is required, {uri!r} has {known}")
    if signature not in signatures:
        raise ConfigError(
            f"model.signature must name a signature of {uri!r}, got {signature!r}"
            f"{nearest(signature, signatures)} (signatures: {known})"
        )
    chosen = signatures[signature]
    if chosen.structured_input_signature[0]:
        raise ConfigError(
            f"model.signature must take its inputs by name, {signature!r} of {uri!r}"
            " takes some by position"
        )
    check_inputs(loaded, chosen, signature, uri)
    return SavedForm(loaded, chosen)


def _tags(path: Path, wanted: Sequence[str] | None, uri: str) -> list[str] | None:
    """Choose a graph by its tags, by default the one for serving; None if only one."""
    from tensorflow.python.saved_model import loader_impl

    stored = loader_impl.parse_saved_model(str(path)).meta_graphs
    kinds = [sorted(graph.meta_info_def.tags) for graph in stored]
    if wanted is None and len(kinds) == 1:
        return None
    # What TensorFlow Serving takes; a module of TF Hub.
    choices = [["serve"], []] if wanted is None else [sorted(wanted)]
    for tags in choices:
        if tags in kinds:
            return tags
    said = "none of them is for serving" if wanted is None else f"got {[*wanted]}"
    raise ConfigError(
        f"model.tags must name one of several graphs by all its tags, {said}: those of"
        f" {uri!r} are tagged {kinds}"
    )
