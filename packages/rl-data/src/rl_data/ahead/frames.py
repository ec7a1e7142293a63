"""Python objects over a pipe between a process and its own child: 8 bytes of length, then the pickled object."""

import pickle
from typing import Any, BinaryIO

_LENGTH_BYTES = 8


def dumps(value: object) -> bytes:
    """The object's frame."""
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def write_frame(out: BinaryIO, frame: bytes) -> None:
    """Writes a frame and flushes it."""
    out.write(frame)
    out.flush()


def read_body(source: BinaryIO) -> bytes | None:
    """The next object, still pickled; None at the end, also in the middle of one."""
    length = source.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        return None
    body = source.read(int.from_bytes(length, "little"))
    return body if len(body) == int.from_bytes(length, "little") else None


def loads(body: bytes) -> Any:
    """The object. Bytes come from this process's own child, or from its parent."""
    return pickle.loads(body)  # noqa: S301
