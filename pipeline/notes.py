"""What whoever plans should know: files left out, and images not as they may seem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pipeline.cut import cut_shards
from transforms import storage
from transforms.config import StepSpec
from transforms.dtypes import Feature
from transforms.preprocess.images import has_16_bits
from transforms.preprocess.orientation import orientation
from transforms.shard import Piece
from transforms.sources.source import File, Noting, Source
from transforms.sources.staging import readable

_SAMPLE = 8
_MOST_COPIED_BYTES = 64 << 20


def plan_notes(
    source: Source,
    files: Sequence[File],
    features: Mapping[str, Feature],
    steps: Sequence[StepSpec],
) -> tuple[str, ...]:
    """Say what will not be read, or not as one may expect, a sentence each.

    A few rows are read if steps decode images; unless their files would have to be
    copied from elsewhere and are large.

    Args:
      source: whose files are planned.
      files: of the source.
      features: that the source has.
      steps: `source.preprocess`.
    """
    notes = list(source.notes()) if isinstance(source, Noting) else []
    decoding = [step for step in steps if step.step == "decode_image"]
    sample = _sample(files) if decoding else ()
    for step in decoding:
        if (feature := step.options["feature"]) in features:
            stored = {feature: replace(features[feature], nullable=False)}
            images = list(_images(source, sample, stored)) if sample else []
            notes += _image_notes(images, step.options)
    return tuple(notes)


def _image_notes(images: Sequence[bytes], options: Mapping[str, Any]) -> Iterator[str]:
    """Compare what images hold with what the options of `decode_image` make of it."""
    deep = sum(map(has_16_bits, images))
    if deep and options.get("dtype") != "uint16":
        yield (
            f"{deep} of {len(images)} images looked at have 16 bits a channel, of which"
            " decode_image keeps the upper 8; give the step dtype ="
            ' "uint16" to keep all'
        )
    turned = sum(orientation(image) != 1 for image in images)
    if turned and not options.get("orient"):
        yield (
            f"{turned} of {len(images)} images looked at are stored turned or mirrored,"
            " as their EXIF orientation says; give the step decode_image orient = true"
            " to turn them upright"
        )


def _images(
    source: Source, pieces: Sequence[Piece], features: Mapping[str, Feature]
) -> Iterator[bytes]:
    """Read the first encoded images of some pieces.

    What cannot be read is none: the run will say so, row by row. Perhaps only workers
    may read the files.
    """
    import tensorflow as tf

    with suppress(OSError), readable(source, pieces) as local:
        rows = iter(source.read(local, features, None))
        for _ in range(_SAMPLE):
            try:
                row = next(rows, None)
            except tf.errors.OpError:
                continue
            if row is None:
                return
            (value,) = (row[1][name] for name in features)
            yield value.numpy()


def _sample(files: Sequence[File]) -> Sequence[Piece]:
    """Choose a few rows, of files all over the source where a file is a row."""
    spread = files[:: -(-len(files) // _SAMPLE) or 1]
    first = next(cut_shards(spread, _SAMPLE), None)
    pieces = first.pieces[:_SAMPLE] if first else ()
    chosen = {piece.file for piece in pieces}
    copied = sum(file.bytes for file in files if file.uri in chosen)
    are_local = all(storage.local_path(uri) is not None for uri in chosen)
    return pieces if are_local or copied <= _MOST_COPIED_BYTES else ()
