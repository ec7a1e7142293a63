"""JSON files that hold one list of rows, as OpenHermes-2.5 is published, made into JSON lines once.

A list cannot be read by position: where its rows begin is known only after all of it was read.
"""

import mmap
from pathlib import Path
from typing import BinaryIO

import msgspec

from rl_data.errors import DataError
from rl_data.rows.cache import kept_file
from rl_data.rows.jsonl import JsonlFile
from rl_data.rows.made_file import Read

_LOOKED_AT_BYTES = 4096


class JsonListFile(JsonlFile):
    """Rows of a .json file with a list. Making the lines takes about 100 bytes of memory a row, reading them none.

    Raises:
        DataError: if the file is missing, damaged or has no row.
    """

    def where(self, index: int) -> str:
        """File and row: the elements of a list may share a line, or have many."""
        return f"{self.path}: row {index}"

    def _open(self) -> Read:
        return kept_file(self.path, "rows", lambda out: (_write_lines(self.path, out),)).read


def holds_list(path: Path) -> bool:
    """Whether a JSON file begins with a list. One that cannot be read does not; opening it says why."""
    try:
        with path.open("rb") as file:
            return file.read(_LOOKED_AT_BYTES).lstrip().startswith(b"[")
    except OSError:
        return False


def _write_lines(path: Path, out: BinaryIO) -> int:
    """Writes each element on a line of its own and returns the size of all."""
    size = 0
    with path.open("rb") as file:
        # Not closed here: the elements are views of it.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        elements = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"{path}: not a readable list of JSON objects: {error}") from error
    for element in elements:
        # Line ends stand between JSON's tokens alone; in a text they are escaped.
        size += out.write(bytes(element).replace(b"\n", b" ") + b"\n")
    return size
