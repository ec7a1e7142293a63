"""What `--prompt-data` may name: files, folders, patterns, hub data sets, and slices of any of them."""

import fnmatch
import glob
import re
from collections.abc import Sequence
from pathlib import Path

from rl_data.errors import DataError
from rl_data.rows.combined import RowChain, RowSlice
from rl_data.rows.compressed import ENDINGS as COMPRESSED
from rl_data.rows.hub import PREFIX, open_hub
from rl_data.rows.json_list import JsonListFile, holds_list
from rl_data.rows.jsonl import JsonlFile
from rl_data.rows.row_file import RowFile
from rl_data.rows.unfinished import check_finished

_SLICE = re.compile(r"^(?P<source>.+)@\[(?P<start>-?\d*):(?P<stop>-?\d*)\]$")
_LIKE_A_SLICE = re.compile(r"@\[[^/]*\]$")
_JSON_LINES = (".jsonl", ".ndjson")
_EXPECTED = "expected .jsonl or .ndjson, also with .gz or .zst, .json, or .parquet or .arrow"


def open_rows(source: str) -> RowFile:
    """Opens a data set.

    Args:
        source: a file; a folder, of which every data file is read, those of folders in it too; a pattern such as
            `data/*.jsonl`; or `hub:OWNER/NAME`. Files are read in the order of their names. Each may be followed by a
            slice in Python's meaning: `data.jsonl@[:100]`, `data@[-50:]`.

    Raises:
        DataError: if nothing is there or it is empty, unreadable or of an unknown format.
    """
    match = _SLICE.match(source)
    if match is None and (written := _LIKE_A_SLICE.search(source)) and not Path(source).exists():
        raise DataError(f"{source}: expected a slice as in FILE@[0:100] or FILE@[:-5], found {written[0]}")
    whole = match["source"] if match else source
    rows = open_hub(whole) if whole.startswith(PREFIX) else _open_files(whole)
    if match is None:
        return rows
    start, stop = (int(bound) if bound else None for bound in (match["start"], match["stop"]))
    return RowSlice(rows, start, stop, name=source)


def _open_files(source: str) -> RowFile:
    path = Path(source)
    if path.is_dir():
        parts = [_open_file(file) for file in _files_of_folder(path)]
    elif path.exists() or not glob.has_magic(source):
        parts = [_open_file(path)]
    else:
        _check_pattern(path)
        found = sorted(glob.glob(source, recursive=True))
        files = [file for one in found for file in (_files_of_folder(Path(one)) if Path(one).is_dir() else [Path(one)])]
        if not files:
            raise DataError(f"{source}: expected files of this pattern, found none")
        parts = [_open_file(file) for file in files]
    return RowChain(parts) if len(parts) > 1 else parts[0]


def _check_pattern(pattern: Path) -> None:
    """Raises DataError if a download still owes a file of the pattern, or one of a folder that is of the pattern."""
    num_plain = next(number for number, part in enumerate(pattern.parts) if glob.has_magic(part))
    base, wanted = Path(*pattern.parts[:num_plain]), pattern.parts[num_plain:]

    def is_wanted(owed: Path) -> bool:
        names = owed.relative_to(base.resolve()).parts
        in_a_folder = bool(_format_of(owed)) and any(
            _is_of_pattern(names[:length], wanted) for length in range(1, len(names))
        )
        return in_a_folder or _is_of_pattern(names, wanted)

    check_finished(base, is_wanted)


def _is_of_pattern(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether `glob` would find a path of these names by a pattern of these parts. Path.full_match of Python 3.13."""
    if not pattern:
        return not names
    if pattern[0] == "**" and _is_of_pattern(names, pattern[1:]):
        return True
    if not names or (names[0][0] == "." and pattern[0][0] != "."):
        return False
    if pattern[0] == "**":
        return _is_of_pattern(names[1:], pattern)
    return fnmatch.fnmatchcase(names[0], pattern[0]) and _is_of_pattern(names[1:], pattern[1:])


def _files_of_folder(folder: Path) -> list[Path]:
    """The data files in a folder and in those in it, hidden ones left out.

    Raises:
        DataError: if there is none, they are of several formats, of which one may well be a copy of the other, or a
            download into the folder was not finished.
    """
    check_finished(folder, lambda missing: bool(_format_of(missing)))
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if _format_of(path) and path.is_file() and not any(part[0] == "." for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise DataError(f"{folder}: {_EXPECTED} in this folder, found {_some_names(folder)}")
    formats = sorted({_format_of(path) for path in found})
    if ".json" in formats and len(formats) > 1:  # beside data of another format such files say something about it
        formats.remove(".json")
        found = [path for path in found if _format_of(path) != ".json"]
    if len(formats) > 1:
        example = f"{folder}/**/*{formats[0]}"
        raise DataError(
            f"{folder}: expected files of one format, found {', '.join(formats)}; name those of one, as in {example}"
        )
    return found


def _some_names(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"


def _format_of(path: Path) -> str:
    """The ending that tells the format, that of compression included; "" if it is none."""
    inner = path.with_suffix("").suffix if path.suffix in COMPRESSED else ""
    if path.suffix in (*_JSON_LINES, ".json", ".parquet", ".arrow"):
        return path.suffix
    return inner + path.suffix if inner in (*_JSON_LINES, ".json") else ""


def _open_file(path: Path) -> RowFile:
    if not path.is_file():
        raise DataError(f"{path}: expected a file, a folder or a pattern, found nothing")
    ending = _format_of(path) or path.suffix
    if ending == ".parquet":
        from rl_data.rows.parquet import ParquetFile

        return ParquetFile(path)
    if ending == ".arrow":
        from rl_data.rows.arrow import ArrowFile

        return ArrowFile(path)
    if ending == ".json" and holds_list(path):
        return JsonListFile(path)
    if ending.startswith((*_JSON_LINES, ".json")):
        return JsonlFile(path)
    raise DataError(f"{path}: {_EXPECTED}")
