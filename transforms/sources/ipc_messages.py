"""Find the messages of an Arrow IPC stream without reading what they hold.

The format: https://arrow.apache.org/docs/format/Columnar.html, "Encapsulated message
format"; Message and RecordBatch are flatbuffers tables of its Message.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

_CONTINUES = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3
_SLOTS = {"kind": 6, "header": 8, "body_bytes": 10, "rows": 4}  # of the tables' fields


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a stream.

    Attributes:
      start: its first byte.
      end: the byte after its last.
      rows: of a record batch; None for a schema or a dictionary.
    """

    start: int
    end: int
    rows: int | None


def messages(stream: BinaryIO) -> Iterator[Message]:
    """Yield the messages of a stream: schema, dictionaries, record batches.

    Args:
      stream: seekable, from its beginning on.

    Raises:
      ValueError: this is no such stream, or it ends within a message.
    """
    stream.seek(0, 2)
    size, start = stream.tell(), 0
    while start < size:
        stream.seek(start)
        head = stream.read(8)
        known = head[:4] == _CONTINUES  # streams of before 2019 have no such bytes
        length = head[4:8] if known else head[:4]
        if len(length) < 4:
            raise ValueError(f"the stream ends within a message, at byte {size}")
        (bytes_of_table,) = struct.unpack("<i", length)
        if bytes_of_table == 0:  # says that the stream ends
            return
        table_start = start + (8 if known else 4)
        if not 0 < bytes_of_table <= size - table_start:
            raise ValueError(
                f"no message of an Arrow IPC stream begins at byte {start}"
            )
        stream.seek(table_start)
        kind, body, rows = _read(stream.read(bytes_of_table), start)
        if (start == 0) != (kind == _SCHEMA):
            raise ValueError(f"a message of kind {kind} cannot stand at byte {start}")
        end = table_start + bytes_of_table + body
        if end > size:
            raise ValueError(f"the stream ends within a message, at byte {size}")
        yield Message(start, end, rows if kind == _RECORDS else None)
        start = end
    if size == 0:
        raise ValueError("the file is empty")


def _read(data: bytes, start: int) -> tuple[int, int, int]:
    """Give a message's kind, the bytes of its body, and the rows of a record batch."""
    import flatbuffers
    from flatbuffers import number_types
    from flatbuffers.table import Table

    def field(table: Any, name: str, flags: Any) -> int:
        offset = table.Offset(_SLOTS[name])
        return int(table.Get(flags, table.Pos + offset)) if offset else 0

    try:
        root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
        message = Table(data, root)
        kind = field(message, "kind", number_types.Uint8Flags)
        body = field(message, "body_bytes", number_types.Int64Flags)
        rows = 0
        if kind == _RECORDS:
            header = Table(data, 0)
            message.Union(header, message.Offset(_SLOTS["header"]))
            rows = field(header, "rows", number_types.Int64Flags)
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"no message of an Arrow IPC stream begins at byte {start}: {error}"
        ) from error
    if kind not in (_SCHEMA, _DICTIONARY, _RECORDS) or body < 0 or rows < 0:
        raise ValueError(f"no message of an Arrow IPC stream begins at byte {start}")
    return kind, body, rows
