"""Tell by the names of files which reader reads them, and with which options."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from pipeline.init.questions import Questions
from transforms import storage
from transforms.lookup import ConfigError
from transforms.sources import audio, images
from transforms.sources.files import list_files
from transforms.sources.images import folder_of
from transforms.sources.npy import Numpy
from transforms.sources.row_groups import IPC_SUFFIXES
from transforms.sources.source import File

SUFFIXES: dict[str, tuple[str, ...]] = {
    "images": images.SUFFIXES,
    "audio": audio.SUFFIXES,
    "parquet": (".parquet", ".pq", *IPC_SUFFIXES),
    "tfrecord": (".tfrecord", ".tfrecords", ".tfrec"),
    "array_record": (".array_record", ".arrayrecord"),
    "webdataset": (".tar", ".tgz"),
    "csv": (".csv", ".tsv"),
    "jsonl": (".jsonl", ".ndjson"),
    "numpy": (".npy", ".npz"),
}
_CHOOSE_THEMSELVES = ("images", "audio", "numpy")  # of a directory, by suffix
_COMPRESSED = (".gz", ".gzip", ".zlib", ".bz2", ".xz")
_NUMBERED = re.compile(r"-\d+-of-\d+$")
_INFO = "dataset_info.json"
_DELIMITERS = ",;\t|"


def find_source(
    path: str, given: Mapping[str, Any], questions: Questions
) -> dict[str, Any]:
    """Find the reader for some data, and the options that it needs.

    Args:
      path: file, directory, glob or URI; a directory of TFDS, or one of its datasets.
      given: options that are known already; with `reader` nothing is looked for.
      questions: asked where files are of several kinds.

    Raises:
      ConfigError: there are no files, or none that a reader is known for.
    """
    if "reader" in given:
        return {"path": path, **given}
    found = _find_tfds(path, questions) or _find_files(path, questions)
    return {**found, **given}


def window_frames(shape: Sequence[int | None]) -> dict[str, int]:
    """Give the option that cuts recordings into what a model takes, if it says that.

    Args:
      shape: of one example, as the model takes it.
    """
    lengths = [length for length in shape if length != 1]
    return {"window_frames": lengths[0]} if len(lengths) == 1 and lengths[0] else {}


def _find_tfds(path: str, questions: Questions) -> dict[str, Any] | None:
    """Look for datasets that TFDS has prepared, in a directory or as it."""
    fs, root = storage.filesystem(path)
    if any(character in root for character in "*?[") or not fs.isdir(root):
        return None
    if storage.exists(storage.join(path, _INFO)):
        return {"reader": "tfds", "data_dir": path, **_split(path, questions)}
    infos = [*fs.glob(f"{root}/*/*/{_INFO}"), *fs.glob(f"{root}/*/*/*/{_INFO}")]
    places = {str(PurePosixPath(one).parent.relative_to(root)) for one in infos}
    newest = {str(PurePosixPath(place).parent): place for place in sorted(places)}
    if not newest:
        return None
    name = questions.choose("dataset", list(newest))
    split = _split(storage.join(path, newest[name]), questions)
    return {"reader": "tfds", "name": name, "data_dir": path, **split}


def _split(directory: str, questions: Questions) -> dict[str, Any]:
    info = json.loads(storage.read(storage.join(directory, _INFO)))
    names = [split["name"] for split in info.get("splits", [])]
    names.sort(key=lambda name: name != "train")
    return {"split": questions.choose("split", names)} if names else {}


def _find_files(path: str, questions: Questions) -> dict[str, Any]:
    files = list_files(path, "--data")
    kinds = Counter(_kind(file.name) for file in files)
    readers = [reader for reader, _ in kinds.most_common() if reader]
    if not readers:
        raise ConfigError(
            f"--data must hold files that a reader is known for, got {path!r} with"
            f" {files[0].name!r}; name it with --set source.reader=…, one of"
            f" {', '.join(sorted(SUFFIXES))} (docs/sources.md)"
        )
    reader = questions.choose("reader", readers)
    chosen = [file for file in files if _kind(file.name) == reader]
    if len(chosen) == len(files) or reader in _CHOOSE_THEMSELVES:
        place: str | list[str] = path
    else:
        place = _patterns(path, chosen)
        others = ", ".join(sorted({_suffix(f.name) for f in files if f not in chosen}))
        questions.guess(f"files of other kinds are left out ({others})")
    return {"reader": reader, "path": place, **_options(reader, chosen, questions)}


def _kind(name: str) -> str | None:
    suffix = _suffix(name)
    return next((reader for reader, all_ in SUFFIXES.items() if suffix in all_), None)


def _suffix(name: str) -> str:
    """Give a name's suffix, without numbers of parts and compression.

    >>> _suffix("x-train.tfrecord-00000-of-00002"), _suffix("a/b.CSV.gz")
    ('.tfrecord', '.csv')
    """
    path = PurePosixPath(_NUMBERED.sub("", name.lower()))
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix


def _patterns(path: str, files: Sequence[File]) -> str | list[str]:
    """Name files of one kind among others: by globs, or one by one."""
    fs, root = storage.filesystem(path)
    if not fs.isdir(root):
        return [file.uri for file in files]
    ends = sorted({"".join(PurePosixPath(file.name).suffixes[-1:]) for file in files})
    globs = [storage.join(path, "**", f"*{end}") for end in ends]
    return globs[0] if len(globs) == 1 else globs


def _options(
    reader: str, files: Sequence[File], questions: Questions
) -> dict[str, Any]:
    """Find the options without which a reader cannot read files as they are meant."""
    if reader in ("images", "audio"):
        folders = {folder_of(file.name) for file in files}
        label = {"label": "folder"} if len(folders) > 1 else {}
        return {**_sound(files[0].uri), **label} if reader == "audio" else label
    if reader == "csv":
        return _columns(files[0].uri, questions)
    if reader == "numpy":
        return _arrays(files)
    return {}


def _sound(uri: str) -> dict[str, Any]:
    """Take sample rate and channels from the header of a recording."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ConfigError(
            "recordings need the package soundfile; install featuretap[audio]"
        ) from error
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as stream:
            header = soundfile.info(stream)
    except soundfile.LibsndfileError as error:
        raise ConfigError(f"cannot read the header of {uri!r}: {error}") from None
    channels = {} if header.channels == 1 else {"channels": header.channels}
    return {"sample_rate": header.samplerate, **channels}


def _columns(uri: str, questions: Questions) -> dict[str, Any]:
    """Tell by the first lines how fields and decimals are parted, and of a header."""
    fs, path = storage.filesystem(uri)
    text = ""
    with suppress(EOFError), fs.open(path, "rb", compression="infer") as stream:
        text = stream.read(1 << 16).decode("utf-8-sig", "replace")
    line, *others = text.splitlines() or [""]
    delimiter = max(_DELIMITERS, key=line.count)
    found: dict[str, Any] = {} if delimiter == "," else {"delimiter": delimiter}
    fields = [one.strip() for one in line.split(delimiter)]
    values = [one.strip() for row in others for one in row.split(delimiter)]
    commas, points = (
        sum(re.fullmatch(rf"[-+]?\d+{mark}\d+", one) is not None for one in values)
        for mark in (",", r"\.")
    )
    if delimiter != "," and commas > points:
        found["decimal"] = ","
        questions.guess('decimals are written with a comma (decimal = ",")')
    if all(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", one, re.I) for one in fields):
        found["columns"] = [f"c{index}" for index in range(len(fields))]
    return found


def _arrays(files: Sequence[File]) -> dict[str, Any]:
    """Tell files of one feature each, with the same rows, from parts of one feature."""
    stems = {PurePosixPath(file.name).stem: file.uri for file in files}
    if any(_suffix(file.name) == ".npz" for file in files):
        return {}
    if len(files) == 1:
        return {"feature": next(iter(stems))}
    alike = {re.sub(r"\d+", "", stem) for stem in stems}
    if len(alike) != len(files) or len(stems) != len(files):
        return {}
    try:
        Numpy(stems).files()
    except ConfigError:
        return {}
    return {"path": stems}
