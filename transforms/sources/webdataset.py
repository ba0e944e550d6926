"""Read tar files whose neighbouring members of one basename are an example.

This is the format of WebDataset.
"""

from __future__ import annotations

import itertools
import math
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from transforms import storage
from transforms.dtypes import Feature
from transforms.errors.failure import REST_LOST
from transforms.lookup import ConfigError, nearest
from transforms.shard import Piece
from transforms.sources.blocks import Block, dataset, nothing
from transforms.sources.files import Listing, list_files
from transforms.sources.source import File, GivenFeature, given_features
from transforms.sources.staging import in_place

if TYPE_CHECKING:
    import tensorflow as tf

_KEY = "__key__"
_TEXT = {"txt", "text", "json", "transcript"}
_NUMBERS = {"cls", "cls2", "index", "inx", "id"}
_FLAGS = {b"true": True, b"false": False, b"1": True, b"0": False}
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_PATHS = 1_000_000
_LONGEST_NUMBER = 18
_HEAD_MEMBERS = 100
_NAMED = 5
_NEIGHBOURS = "the members of an example must be neighbours"
_DOTS = "what follows the first dot of a member's name is its extension"
_BLOCK_ROWS = 256
_BLOCK_BYTES = 32 << 20
_DAMAGE = (tarfile.TarError, EOFError, OSError)
Example = dict[str, bytes]


@dataclass(frozen=True)
class WebDataset:
    """Tar files of examples; nothing is ever unpacked to a disk.

    `dir/0001.jpg` and `dir/0001.seg.png` next to each other are one example with the
    features `jpg` and `seg.png`; its `__key__` is `dir/0001`.

    Attributes:
      path: path, directory or glob, one or a list; `{000..099}` and `{a,b}` stand for
        several; on any filesystem; also `.tar.gz`.
      features: extension to dtype: `bytes`, `string`, or a number written as text. If
        absent, the extensions of the first example are the features: `txt` and `json`
        are strings, `cls` and `id` whole numbers, the others bytes.
      max_member_bytes: a larger member makes its example a bad row.
    """

    path: str | list[str]
    features: dict[str, GivenFeature | str] | None = None
    max_member_bytes: int = 1 << 30

    default_key: ClassVar[str | None] = None
    localize = staticmethod(in_place)

    def files(self) -> list[File]:
        """List the tar files; their numbers of rows are not known."""
        return self._files

    def notes(self) -> list[str]:
        """Say which files of the listing are not read."""
        return self._files.left_out.notes()

    def describe(self) -> Mapping[str, Feature]:
        """Give the features that the config names, else those of the first example.

        Raises:
          ConfigError: a type does not fit, or the first example cannot be read.
        """
        key = {_KEY: Feature("string")}
        uri, examples = self._head
        _check_neighbours(uri, examples)
        if self.features is not None:
            given = given_features(self.features)
            for name, feature in given.items():
                if feature.shape or feature.dtype == "timestamp":
                    raise ConfigError(
                        f"source.features.{name} must be bytes, a string or a number"
                    )
            _explain_missing(given, uri, examples)
            return key | given
        if not examples:
            raise ConfigError(
                f"source.path must hold at least one example, got only empty files in"
                f" {self.path!r}"
            )
        example, fault = examples[0]
        names = sorted(example.keys() - {_KEY})
        if len(names) == _HEAD_MEMBERS:
            fault = (
                f"it has {_HEAD_MEMBERS} members or more, such as {names[0]}; {_DOTS}"
            )
        if fault:
            raise ConfigError(
                "source.features must be given, since the first example of"
                f" {uri!r} cannot be read: {fault}"
            )
        return key | {name: _feature(name) for name in names}

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read the members of the tar files one after the other, into examples."""
        return dataset(
            pieces, features, batch_rows, lambda piece: self._blocks(piece, features)
        )

    def other_columns(self) -> Mapping[str, str]:
        """Say of the ends of extensions that they are no extensions."""
        known = {name for example, _ in self._head[1] for name in example}
        ends = {name.rpartition(".")[2]: name for name in sorted(known) if "." in name}
        return {
            end: f"is the end of extension {name!r}; {_DOTS}"
            for end, name in ends.items()
            if end not in known
        }

    @cached_property
    def _files(self) -> Listing:
        paths = [self.path] if isinstance(self.path, str) else self.path
        return list_files([one for path in paths for one in expand_braces(path)])

    @cached_property
    def _head(self) -> tuple[str, list[tuple[Example, str]]]:
        """The first file that holds examples, and the first of them, without data."""
        for file in self._files:
            if found := list(self._examples(file.uri, set(), _HEAD_MEMBERS)):
                return file.uri, found
        return "", []

    def _blocks(self, piece: Piece, features: Mapping[str, Feature]) -> Iterator[Block]:
        waiting: list[tuple[Example, str]] = []
        first = 0
        size = 0
        for row, one in enumerate(self._examples(piece.file, set(features))):
            if row < piece.start:
                continue
            if piece.rows is not None and row >= piece.start + piece.rows:
                break
            waiting.append(one)
            size += sum(len(data) for data in one[0].values())
            if len(waiting) == _BLOCK_ROWS or size > _BLOCK_BYTES:
                yield _block(waiting, first, features)
                first, waiting, size = first + len(waiting), [], 0
        if waiting:
            yield _block(waiting, first, features)

    def _examples(
        self, uri: str, wanted: set[str], most: int | None = None
    ) -> Iterator[tuple[Example, str]]:
        """Yield each example with its fault, which is empty if it is sound.

        Members whose extension is not in `wanted` are given as empty bytes, those after
        the first `most` not at all.
        """
        example: Example = {}
        fault = ""
        for name, data, wrong in itertools.islice(self._members(uri, wanted), most):
            key, extension = _split(name)
            if example and example.get(_KEY) != key.encode():
                yield example, fault
                example, fault = {}, ""
            example[_KEY] = key.encode()
            if extension in example and not wrong:
                wrong = f"member {name!r} comes twice"
            example.setdefault(extension, data)
            fault = fault or wrong
        if example:
            yield example, fault

    def _members(self, uri: str, wanted: set[str]) -> Iterator[tuple[str, bytes, str]]:
        """Yield name, content and fault of each member that belongs to an example."""
        fs, path = storage.filesystem(uri)
        with fs.open(path, "rb") as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r|*") as tar:
                    for member in tar:
                        if member.isdir() or _is_hidden(member.name):
                            continue
                        wrong = self._refuse(member)
                        data = b""
                        if not wrong and _split(member.name)[1] in wanted:
                            opened = tar.extractfile(member)
                            data = opened.read() if opened else b""
                        yield member.name, data, wrong
            except _DAMAGE as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                if not _is_empty(fs, path):
                    yield "", b"", f"the tar file is damaged: {error}; {REST_LOST}"

    def _refuse(self, member: tarfile.TarInfo) -> str:
        """Say why a member must not be read; empty if it may be."""
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            return f"member {member.name!r} leaves its directory"
        if not member.isfile():
            return f"member {member.name!r} is no regular file"
        if member.size > self.max_member_bytes:
            return (
                f"member {member.name!r} has {member.size} bytes, more than"
                f" source.max_member_bytes = {self.max_member_bytes}"
            )
        return ""


def expand_braces(pattern: str) -> list[str]:
    """Expand `{000..099}` and `{a,b}` as shells do.

    >>> expand_braces("{a,b}-{08..10}.tar")[:4]
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar']
    """
    parts = _BRACES.split(pattern)  # text, and what stands in braces, in turn
    choices = [_choices(p) if i % 2 else [p] for i, p in enumerate(parts)]
    if math.prod(len(some) for some in choices) > _MOST_PATHS:
        raise ConfigError(
            f"source.path must stand for at most {_MOST_PATHS} files, got {pattern!r};"
            " use a wildcard, or several paths"
        )
    return ["".join(one) for one in itertools.product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    """Give what stands for itself in braces; more than are allowed are not made."""
    first, dots, last = inside.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal()):
        return inside.split(",")
    if max(len(first), len(last)) > _LONGEST_NUMBER:
        raise ConfigError(
            f"numbers in source.path must have at most {_LONGEST_NUMBER} digits, got"
            f" {inside!r}"
        )
    step = 1 if int(first) <= int(last) else -1
    numbers = range(int(first), int(last) + step, step)
    return [f"{n:0{len(first)}d}" for n in numbers[: _MOST_PATHS + 1]]


def _check_neighbours(uri: str, examples: Sequence[tuple[Example, str]]) -> None:
    """Refuse files in which the members of an example stand apart.

    A key that comes again with the same extensions is another example.
    """
    seen: dict[bytes, Example] = {}
    for example, _ in examples:
        key = example[_KEY]
        before = seen.setdefault(key, example)
        if before is not example and before.keys() & example.keys() == {_KEY}:
            raise ConfigError(
                f"source.path must hold tar files in which {_NEIGHBOURS}, in {uri!r}"
                f" {_names(before)} and {_names(example)} of {key.decode()!r} are not;"
                " write it anew with tar --sort=name"
            )


def _explain_missing(
    given: Mapping[str, Feature], uri: str, examples: Sequence[tuple[Example, str]]
) -> None:
    """Refuse extensions that none of the first examples has."""
    if any(fault for _, fault in examples):
        return  # reading them says what is wrong
    known = {name for example, _ in examples for name in example}
    for name, feature in given.items() if examples else ():
        if name not in known and feature.fill is None:
            raise ConfigError(
                f"source.features must name extensions of members, got {name!r}"
                f"{nearest(name, known)} (at the head of {uri!r} there are"
                f" {_names(known)}); {_DOTS}, and {_NEIGHBOURS}"
            )


def _names(extensions: Iterable[str]) -> str:
    """List extensions, the first few if there are many."""
    names = sorted(set(extensions) - {_KEY})
    more = ["…"] if len(names) > _NAMED else []
    return ", ".join(names[:_NAMED] + more)


def _split(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot of its last segment."""
    directory, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{directory}{slash}{stem}", extension.lower()


def _is_hidden(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.startswith(".") and name != ".."


def _is_empty(fs: Any, path: str) -> bool:
    return int(fs.info(path)["size"]) == 0


def _feature(extension: str) -> Feature:
    last = extension.rpartition(".")[2]
    if last in _NUMBERS:
        return Feature("int64")
    return Feature("string" if last in _TEXT else "bytes")


def _block(
    examples: Sequence[tuple[Example, str]], first: int, features: Mapping[str, Feature]
) -> Block:
    faults = np.array([fault for _, fault in examples], object)
    values = {n: nothing(len(examples), feature) for n, feature in features.items()}
    for row, (example, _) in enumerate(examples):
        for name, feature in features.items():
            try:
                values[name][row] = _value(example, name, feature)
            except (KeyError, ValueError, OverflowError) as error:
                # The text of a KeyError is the repr of what it says.
                said = error.args[0] if isinstance(error, KeyError) else error
                faults[row] = faults[row] or str(said)
    return Block(np.arange(first, first + len(examples)), values, {}, faults)


def _value(example: Example, name: str, feature: Feature) -> Any:
    if name not in example and feature.fill is not None:
        return feature.nothing
    if name not in example:
        key = example[_KEY].decode(errors="replace")
        raise KeyError(
            f"example {key} has no member with extension {name}, only"
            f" {_names(example)}; {_DOTS}, and {_NEIGHBOURS}"
        )
    data = example[name]
    if feature.tensor_dtype == "string":
        return data
    if feature.dtype == "bool":
        if data.strip() not in _FLAGS:
            text = data[:50].decode(errors="replace")
            raise ValueError(f"{name} must be true, false, 1 or 0, got {text!r}")
        return _FLAGS[data.strip()]
    text, kind = data.decode().strip(), np.dtype(feature.dtype)
    if feature.family == "float":
        with np.errstate(over="ignore"):
            made = kind.type(text)
        infinite = np.isinf(made) and "inf" not in text.lower()
        held = None if infinite else made
    else:
        number, ends = int(text), np.iinfo(kind)
        held = number if ends.min <= number <= ends.max else None
    if held is None:
        raise ValueError(
            f"{name} must hold a value that fits into {feature.dtype}, got {text!r}"
        )
    return held
