"""JSON lines in gzip or Zstandard, unpacked once: compressed bytes cannot be read by position."""

import gzip
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from rl_data.errors import DataError
from rl_data.rows.cache import kept_file
from rl_data.rows.made_file import MadeFile

ENDINGS = (".gz", ".zst")
_CHUNK_BYTES = 1 << 22


def unpacked(path: Path) -> MadeFile:
    """The content of a .gz or .zst file, kept beside it; its only count is the content's size.

    Raises:
        DataError: if it is damaged or cut off, or .zst cannot be read because pyarrow is not installed.
    """
    return kept_file(path, "rows", lambda out: (_unpack(path, out),))


def _unpack(path: Path, out: BinaryIO) -> int:
    size = 0
    with _open(path) as stream:
        while chunk := _read(stream, path, size):
            size += out.write(chunk)
    return size


@contextmanager
def _open(path: Path) -> Generator[Any]:
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            yield stream
        return
    try:
        import pyarrow as untyped
    except ImportError as error:
        raise DataError(f"{path}: .zst needs pyarrow: pip install 'rl-data[hf]'") from error
    with cast(Any, untyped).input_stream(str(path), compression="zstd") as stream:
        yield stream


def _read(stream: Any, path: Path, size: int) -> bytes:
    try:
        return bytes(stream.read(_CHUNK_BYTES))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or cut off after {size} unpacked bytes: {error}") from error
