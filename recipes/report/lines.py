"""Files of lines that a run may still be writing, or was killed while it wrote."""

import os
from collections.abc import Iterator
from pathlib import Path


def whole_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Where each line stands, and the line. Empty ones are passed over, and so is a last one that has no end yet."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n") and not line.isspace():
                yield f"{path}:{number}", line


def cut_note(path: Path) -> list[str]:
    """A sentence about a file's last line where that has no end yet; none of a file that is whole or not there."""
    if not path.is_file() or not path.stat().st_size:
        return []
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        is_whole = file.read() == b"\n"
    return [] if is_whole else [f"The last line of {path.name} is not whole yet, so it is left out."]
