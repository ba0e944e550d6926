"""Files that a listing finds and a reader does not read -> sentences about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_MARKER = re.compile(r"_(SUCCESS|(common_)?metadata|(committed|started)_.*)")
_MOST_NAMED = 6
_LONGEST_SUFFIX = 12


@dataclass(slots=True)
class LeftOut:
    """How many files of a listing are not read, by what keeps them out.

    Markers that Spark and Hadoop leave beside their data, such as `_SUCCESS`, count
    nowhere, and neither does what lies in a folder whose name begins with `.`.

    Attributes:
      suffixes: files of another suffix than the reader takes, by suffix; empty text
        stands for none.
      folders: files in a folder whose name begins with `_`, by the folder's name.
      dotted: files whose own names begin with `.`.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    dotted: int = 0

    def takes(self, name: str, suffixes: tuple[str, ...]) -> bool:
        """Tell whether a file is to be read; count it if it is not.

        Args:
          name: path below the part of the pattern that has no wildcard.
          suffixes: in lower case; empty if the reader takes all files.
        """
        *folders, base = name.split("/")
        fits = not suffixes or base.lower().endswith(suffixes)
        hidden = next((one for one in folders if one.startswith((".", "_"))), "")
        if hidden:
            self.folders[hidden] += fits and hidden.startswith("_")
        elif base.startswith("."):
            # Systems write `._x.jpg` and `.x.crc` beside files of their users.
            self.dotted += bool(suffixes) and fits and not base.startswith("._")
        elif not _MARKER.fullmatch(base):
            if fits:
                return True
            self.suffixes[_suffix(base)] += 1
        return False

    def by_suffix(self) -> str:
        """Count the files of another suffix, most frequent first; empty if none.

        >>> LeftOut(Counter({".csv": 1, ".tif": 12, "": 2})).by_suffix()
        '12 .tif, 2 without a suffix, 1 .csv'
        """
        return _counted({s or "without a suffix": n for s, n in self.suffixes.items()})

    def notes(self, remedy: str = "") -> list[str]:
        """Say what is left out, a sentence for each reason.

        Args:
          remedy: what to do about files of another suffix; for readers that choose by
            suffixes.
        """
        said = []
        if count := self.suffixes.total():
            said.append(
                f"{_files(count)} left out for the suffix ({self.by_suffix()});"
                f" {remedy}"
            )
        if count := self.folders.total():
            said.append(
                f"{_files(count)} left out because of folders whose names begin with _"
                f" ({_counted(+self.folders, ' in ')}); name such a folder in"
                " source.path to read it"
            )
        if self.dotted:
            said.append(
                f"{_files(self.dotted)} left out because the name begins with a dot;"
                " rename what is to be read"
            )
        return said


def suffix_remedy(reads: Sequence[str]) -> str:
    """Say how to read files of other suffixes, for readers with `source.suffixes`.

    >>> suffix_remedy([".wav", ".flac"])
    'source.suffixes names what is read instead of .wav, .flac'
    """
    return f"source.suffixes names what is read instead of {', '.join(reads)}"


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


def _counted(counts: Mapping[str, int], between: str = " ") -> str:
    """Give the largest counts in words, and how many are in the rest."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    shown = [f"{count}{between}{name}" for name, count in ordered[:_MOST_NAMED]]
    rest = sum(count for _, count in ordered[_MOST_NAMED:])
    return ", ".join([*shown, *([f"{rest} others"] if rest else [])])


def _suffix(base: str) -> str:
    suffix = PurePosixPath(base).suffix.lower()
    return suffix if len(suffix) <= _LONGEST_SUFFIX else ""
