"""The files of a stored Keras model -> their documents, and whether they are sound.

A small file may expand to terabytes, and a file of HDF5 may show what others hold. No
such file comes from Keras, which stores weights as they are.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transforms.lookup import ConfigError

H5_SUFFIXES = (".h5", ".hdf5")
UNREADABLE = (
    *(OSError, KeyError, ValueError, TypeError, RuntimeError, NotImplementedError),
    *(EOFError, zipfile.BadZipFile),
)
"""What reading a broken or hostile file raises."""

_SMALL_BYTES = 64 << 20  # no harm to any worker, and more than any description has
_MAX_EXPANSION = 20  # weights of which 95% are zero


def check_files(path: Path, what: str, uri: str) -> None:
    """Check that a stored model holds itself and no more, before it is loaded.

    Args:
      path: local path of a file of Keras or HDF5, or of a directory of them.
      what: where the config names it.
      uri: the same as the config names it, for errors.

    Raises:
      ConfigError: it expands to far more than is stored, or leads to other files.
    """
    try:
        fault = next(_faults(path), None)
    except UNREADABLE as error:
        fault = f"it cannot be read ({type(error).__name__}: {error})"
    if fault:
        raise ConfigError(
            f"{what} must hold all of its model and nothing else, got {uri!r}: {fault};"
            " if you trust whoever made it, set model.trusted = true"
        )


def stored_config(path: Path) -> Any:
    """Read the whole description of the layers of a stored model.

    Raises:
      UNREADABLE: there is none to read.
    """
    if path.suffix in H5_SUFFIXES:
        return json.loads(stored_text(path, "model_config") or "null")
    return stored_json(path, "config.json")


def stored_json(path: Path, name: str) -> Any:
    """Read a JSON document of a `.keras` file, or of a directory of the same files.

    Raises:
      UNREADABLE: there is none to read.
    """
    if path.is_dir():
        return json.loads((path / name).read_text("utf-8"))
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(name))


def stored_text(path: Path, name: str) -> str | None:
    """Read an attribute of a whole `.h5` file, None if there is none of that name.

    Raises:
      UNREADABLE: it is no file of HDF5.
    """
    import h5py

    with h5py.File(path) as file:
        text = file.attrs.get(name)
    if text is None:
        return None
    return text.decode() if isinstance(text, bytes) else str(text)


def _faults(path: Path) -> Iterator[str]:
    """Yield what is wrong with a file or directory, none if it cannot be opened."""
    if path.is_dir():
        yield from _directory_faults(path)
    elif path.suffix in H5_SUFFIXES:
        with path.open("rb") as file:
            yield from _h5_faults(file, path.stat().st_size)
    elif zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield from _zip_faults(file, path.stat().st_size)


def _directory_faults(path: Path) -> Iterator[str]:
    for name in ("config.json", "metadata.json"):
        if (path / name).is_file() and (path / name).stat().st_size > _SMALL_BYTES:
            yield f"its {name!r} has more than {_SMALL_BYTES >> 20} MiB"
    for name in ("model.weights.h5", "model.weights.npz"):
        if (path / name).is_file():
            yield from _faults(path / name)
    home = path.resolve()
    for place, folders, files in os.walk(path / "assets"):
        for one in (Path(place, name) for name in (*folders, *files)):
            if one.is_symlink() and not one.resolve().is_relative_to(home):
                yield f"its {str(one.relative_to(path))!r} is a link to another file"


def _zip_faults(file: Any, stored_bytes: int) -> Iterator[str]:
    """Yield what is wrong with an archive, which gives out no more than it declares."""
    try:
        archive = zipfile.ZipFile(file)
    except UNREADABLE:
        return  # loading says what is wrong
    members = archive.infolist()
    for name in (member.filename for member in members):
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or ":" in parts[0]:
            yield f"its member {name!r} leads out of it"
    yield from _size_fault(sum(member.file_size for member in members), stored_bytes)
    for member in members:
        name, size = member.filename, member.file_size
        if name.endswith(".json") and size > _SMALL_BYTES:
            yield f"its {name!r} has more than {_SMALL_BYTES >> 20} MiB"
    for member in members:
        check = {".h5": _h5_faults, ".npz": _zip_faults}.get(
            Path(member.filename).suffix
        )
        if check:
            yield from check(io.BytesIO(archive.read(member)), member.file_size)


def _h5_faults(file: Any, stored_bytes: int) -> Iterator[str]:
    """Yield what is wrong with a file of HDF5, each object of which counts once."""
    import h5py

    try:
        root = h5py.File(file)
    except UNREADABLE:
        return  # loading says what is wrong
    left, seen, declared_bytes = [root], {_address(root)}, 0
    while left:
        group = left.pop()
        for name in group:
            place = f"{group.name.rstrip('/')}/{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                yield f"its {place!r} is a link to {_target(link)!r}"
                return
            one = group[name]
            if _address(one) in seen:
                continue
            seen.add(_address(one))
            if isinstance(one, h5py.Group):
                left.append(one)
            elif isinstance(one, h5py.Dataset):
                if one.external or one.is_virtual:
                    yield f"its {place!r} holds values of another file"
                declared_bytes += one.nbytes
    yield from _size_fault(declared_bytes, stored_bytes)


def _address(one: Any) -> Any:
    """Where an object of HDF5 lies in its file."""
    import h5py

    return h5py.h5o.get_info(one.id).addr


def _target(link: Any) -> str:
    return str(getattr(link, "filename", link.path))


def _size_fault(declared_bytes: int, stored_bytes: int) -> Iterator[str]:
    if declared_bytes > _SMALL_BYTES + _MAX_EXPANSION * stored_bytes:
        yield (
            f"its {stored_bytes:,} bytes expand to {declared_bytes:,}, where Keras"
            " stores weights as they are"
        )
