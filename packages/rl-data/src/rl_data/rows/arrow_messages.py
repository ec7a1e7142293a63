"""The messages of an Arrow file: where its record batches are, and how many rows they have, without unpacking one.

pyarrow tells the number of a batch's rows only with the batch itself. Source of the layout: the documents "Arrow
columnar format", section "Serialization and interprocess communication", and Message.fbs; "FlatBuffers internals".
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

_MAGIC = b"ARROW1"
"""First bytes of the file format, which holds a stream after them; the stream format has none."""
_STREAM_AT = 8
"""Where that begins."""

# Places of fields in their tables.
_HEADER_OF_MESSAGE, _LENGTH_OF_BATCH, _COMPRESSION_OF_BATCH = 2, 0, 3


class BatchMessage(NamedTuple):
    """A record batch in a file."""

    ranges: Sequence[tuple[int, int]]
    """First byte, and the one after the last, of the messages that it needs, itself the last of them."""
    num_rows: int
    is_compressed: bool


def is_file_format(content: Any) -> bool:
    """Whether a buffer of pyarrow has the file format, which tells at its end where everything is."""
    return content.size >= _STREAM_AT and content.slice(0, len(_MAGIC)).to_pybytes() == _MAGIC


def batch_messages(content: Any) -> list[BatchMessage]:
    """The record batches of a file, in order.

    Args:
        content: a buffer of pyarrow with the whole file, of which only the messages' heads are read.

    Raises:
        OSError, ValueError: as pyarrow does, if it is no Arrow file, or damaged or cut off.
    """
    import pyarrow as untyped

    pyarrow = cast(Any, untyped)
    source = pyarrow.BufferReader(content)
    if is_file_format(content):
        pyarrow.ipc.open_file(content)  # finds out whether it was cut off
        source.seek(_STREAM_AT)
    needed: tuple[tuple[int, int], ...] = ()
    batches: list[BatchMessage] = []
    while True:
        start = source.tell()
        try:
            message = pyarrow.ipc.read_message(source)
        except EOFError:
            break
        place = (start, source.tell())
        if message.type == "record batch":
            batches.append(_batch_message((*needed, place), message.metadata.to_pybytes()))
        else:
            needed = (*needed, place)  # the schema, dictionaries
    if not needed:
        raise ValueError("it has no schema")
    return batches


def _batch_message(ranges: Sequence[tuple[int, int]], head: bytes) -> BatchMessage:
    try:
        (root,) = struct.unpack_from("<I", head)
        at = _field(head, root, _HEADER_OF_MESSAGE)
        batch = at + struct.unpack_from("<I", head, at)[0]
        length = _field(head, batch, _LENGTH_OF_BATCH)
        num_rows = struct.unpack_from("<q", head, length)[0] if length else 0
        return BatchMessage(ranges, num_rows, is_compressed=bool(_field(head, batch, _COMPRESSION_OF_BATCH)))
    except struct.error as error:
        raise ValueError(f"the head of a record batch is damaged: {error}") from error


def _field(head: bytes, table: int, number: int) -> int:
    """Where a field of a table is; 0 if the table does not have it."""
    places = table - struct.unpack_from("<i", head, table)[0]
    (num_bytes,) = struct.unpack_from("<H", head, places)
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", head, places + place)[0] if place < num_bytes else 0
    return table + offset if offset else 0
