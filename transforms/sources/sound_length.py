"""Tell recordings that do not hold what their headers promise.

libsndfile reads a file that was cut short as if it were whole, and one whose recorder
died before it wrote the length as if it were empty.
"""

from __future__ import annotations

from typing import BinaryIO, Literal, NamedTuple

_MOST_CHUNKS = 10_000
_NOT_KNOWN = {0x7FFFF000, 0x7FFFFFFF, 0x80000000, 2**63 - 1}
_NEARLY_ALL = 256
_LARGEST_OGG_PAGE = 65_307
_END_OF_STREAM = 4


class _Layout(NamedTuple):
    """How a format writes its chunks.

    Attributes:
      first: byte at which the first chunk begins.
      name_bytes: of a chunk's name.
      size_bytes: of the size that follows.
      order: of the bytes of the size.
      sound: name of the chunk that holds the sound, or its first four bytes.
      align: chunks begin at multiples of it.
      whole: whether the size counts name and size, too.
    """

    first: int
    name_bytes: int
    size_bytes: int
    order: Literal["little", "big"]
    sound: bytes
    align: int
    whole: bool = False


_WAV = _Layout(12, 4, 4, "little", b"data", 2)
_LAYOUTS = {
    b"RIFF": _WAV,
    b"RF64": _WAV,
    b"RIFX": _WAV._replace(order="big"),
    b"FORM": _Layout(12, 4, 4, "big", b"SSND", 2),
    b"caff": _Layout(8, 4, 8, "big", b"data", 1),
    b"riff": _Layout(40, 16, 8, "little", b"data", 8, whole=True),
}


def length_fault(stream: BinaryIO, size: int) -> str:
    """Say how a recording differs from what its header promises; empty if it does not.

    Looked at are WAV (also RF64 and Wave64), AIFF, CAF, AU and Ogg. A header that gives
    one of the lengths that stand for "not known yet" promises nothing.

    Args:
      stream: the file, which can be sought in.
      size: of the file in bytes.
    """
    kind = _read(stream, 0, 4)
    if kind == b"OggS":
        return (
            "" if _ogg_ends(stream, size) else "audio is cut short: its end is missing"
        )
    if kind == b".snd":
        head = _read(stream, 4, 8)
        start, promised = (int.from_bytes(head[i : i + 4], "big") for i in (0, 4))
        return _compared(start, promised, size - start - promised, size)
    layout = _LAYOUTS.get(kind)
    sound = _find_sound(stream, layout) if layout else None
    if not layout or not sound:  # libsndfile says what is wrong with it
        return ""
    start, promised = sound
    after = start + promised + -promised % layout.align
    chunk = _chunk(stream, after, layout)
    others = chunk and chunk[0].isascii() and chunk[0].decode().isprintable()
    more = chunk and chunk[1] + chunk[2] <= size
    return _compared(start, promised, 0 if others and more else size - after, size)


def _compared(start: int, promised: int, rest: int, size: int) -> str:
    """Compare the promised bytes of sound with those that are there.

    Args:
      start: byte at which the sound begins.
      promised: how many bytes it has by the header.
      rest: how many bytes follow that are nothing else.
      size: of the file.
    """
    if start + promised > size:
        if _is_streamed(promised):
            return ""
        return (
            f"audio is cut short: its header promises {promised} bytes of sound,"
            f" {max(size - start, 0)} are there"
        )
    if rest * 10 > promised:  # a few bytes may be anything
        return (
            f"audio has no finished header: it promises {promised} bytes of sound,"
            f" {rest} more follow"
        )
    return ""


def _is_streamed(promised: int) -> bool:
    """Tell whether a length stands for "not known yet".

    Programs that write to a pipe give about the largest number that fits, minus what
    their headers take.
    """
    largest = (2**32 - promised, 2**64 - promised)
    return promised in _NOT_KNOWN or any(0 < n <= _NEARLY_ALL for n in largest)


def _find_sound(stream: BinaryIO, layout: _Layout) -> tuple[int, int] | None:
    """Give first byte and promised bytes of the sound."""
    at, wide = layout.first, 0
    for _ in range(_MOST_CHUNKS):
        chunk = _chunk(stream, at, layout)
        if chunk is None:
            return None
        name, start, size = chunk
        if name == b"ds64":  # has the size that four bytes cannot hold
            wide = int.from_bytes(_read(stream, start + 8, 8), layout.order)
        if name == layout.sound:
            return start, wide if wide and size == 0xFFFFFFFF else size
        at = start + size + -size % layout.align
    return None


def _chunk(stream: BinaryIO, at: int, layout: _Layout) -> tuple[bytes, int, int] | None:
    """Give the name of a chunk, the first byte of what it holds, and how many."""
    length = layout.name_bytes + layout.size_bytes
    head = _read(stream, at, length)
    if len(head) < length:
        return None
    size = int.from_bytes(head[layout.name_bytes :], layout.order)
    own = length if layout.whole else 0
    return head[:4], at + length, max(size - own, 0)


def _ogg_ends(stream: BinaryIO, size: int) -> bool:
    """Tell whether an Ogg file ends with a whole page that says it is the last."""
    tail = _read(stream, max(size - _LARGEST_OGG_PAGE, 0), _LARGEST_OGG_PAGE)
    page = tail[tail.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 0
    whole = 27 + segments + sum(page[27 : 27 + segments])
    return len(page) >= max(whole, 27) and bool(page[5] & _END_OF_STREAM)


def _read(stream: BinaryIO, start: int, count: int) -> bytes:
    stream.seek(min(start, 2**62))  # some headers claim more than can be sought
    return stream.read(count)
