"""Files made from a data file once and kept: beside it, or in a cache folder where that is read-only.

Beside DIR/rows.jsonl.gz lie DIR/.rl-data/rows.jsonl.gz.index and, as it is compressed, DIR/.rl-data/rows.jsonl.gz.rows.
The cache folder is RL_DATA_CACHE or, where that is not set, rl-data in the user's cache folder. A kept file begins with
a stamp of the file that it was made from, and is made again when the stamp does not fit any more.
"""

import errno
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from rl_data.errors import DataError
from rl_data.rows.made_file import SMALL_BYTES, MadeFile, Make, made_for_now
from rl_data.rows.open_files import PositionedFile

logger = logging.getLogger(__name__)

HEADER_BYTES = 4096
"""What is kept begins here, after the header."""
_FORMAT = 3
_NUM_PROBES, _PROBE_BYTES = 64, 4096


class Header(msgspec.Struct, frozen=True):
    """The first bytes of a kept file."""

    stamp: str
    """Of the file that it was made from."""
    counts: tuple[int, ...] = ()
    """What the maker noted."""


type _Remake = Callable[[tuple[int, ...]], MadeFile]
"""Makes a file again that had these counts."""


def kept_file(
    source: Path, kind: str, make: Make, *, may_grow: bool = False, is_slow_to_make: bool = False
) -> MadeFile:
    """What `make` writes for `source`: from an earlier time if that still fits, or made now.

    Where it is lost while it is used, as another process made it again of data that changed, it is made again for its
    user alone.

    Several processes may do this at once: each makes a file of its own, and the last one stays.

    Args:
        kind: names what is made, such as "index".
        may_grow: whether `make` gives the same again after `source` has changed, as by more at its end.
        is_slow_to_make: whether it is kept for a small `source`, too.

    Raises:
        DataError: if `source` cannot be read, or `make` raises it.
    """
    stamp, size = _stamp(source)
    if size < SMALL_BYTES and not is_slow_to_make:
        return made_for_now(make)
    places = _places(source, kind)

    def remake(counts: tuple[int, ...]) -> MadeFile:
        if may_grow or _stamp(source)[0] == stamp:
            logger.info("%s: its %s was lost and is made again", source, kind)
            made = made_for_now(make)
            if made.counts == counts:
                return made
        raise DataError(f"{source}: changed while it was being read, and its {kind} was lost")

    for place in places:
        found = _open_if_current(place, stamp, remake)
        if found is not None:
            return found
    logger.info("%s: making its %s", source, kind)
    for place in places:
        try:
            return _made_at(place, stamp, make, remake)
        except OSError as error:
            logger.info("%s: cannot be written: %s", place, error.strerror)
    logger.warning(
        "%s: its %s can be kept neither beside it nor in %s, and is made each time that it is opened; "
        "RL_DATA_CACHE names another cache folder",
        source,
        kind,
        places[-1].parent,
    )
    return made_for_now(make)


def _stamp(source: Path) -> tuple[str, int]:
    """A digest of size, time of the last change and 256 KiB from everywhere in the file; and the size."""
    try:
        with source.open("rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            digest = hashlib.blake2b(f"{_FORMAT} {size} {status.st_mtime_ns}".encode(), digest_size=16)
            for number in range(_NUM_PROBES):
                start = max(0, size - _PROBE_BYTES) * number // (_NUM_PROBES - 1)
                digest.update(os.pread(file.fileno(), _PROBE_BYTES, start))
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    return digest.hexdigest(), size


def _places(source: Path, kind: str) -> tuple[Path, Path]:
    whole = source.resolve()
    name = f"{whole.name}.{kind}"
    of_folder = hashlib.blake2b(os.fsencode(whole.parent), digest_size=8).hexdigest()
    return whole.parent / ".rl-data" / name, cache_folder() / f"{of_folder}-{name}"


def cache_folder() -> Path:
    """Where files are kept that cannot be kept beside the data."""
    if named := os.environ.get("RL_DATA_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl-data"


def _open_if_current(place: Path, stamp: str, remake: _Remake) -> MadeFile | None:
    def counts_of(descriptor: int) -> tuple[int, ...] | None:
        try:
            header = msgspec.json.decode(os.pread(descriptor, HEADER_BYTES, 0).rstrip(b"\0"), type=Header)
        except msgspec.MsgspecError:
            return None
        return header.counts if header.stamp == stamp else None

    try:
        with place.open("rb") as file:
            counts = counts_of(file.fileno())
        if counts is None:
            return None
        # Another process may make it again meanwhile; of the same data, it is the same.
        kept = PositionedFile(place, is_same=lambda descriptor: counts_of(descriptor) == counts)
    except OSError:
        return None
    return MadeFile(_InPlace(kept, lambda: remake(counts)).read, counts)


class _InPlace:
    """A kept file in its place, and what is made again once it is lost there."""

    def __init__(self, kept: PositionedFile, remake: Callable[[], MadeFile]) -> None:
        self._kept = kept
        self._remake = remake
        self._lock = threading.Lock()
        self._remade: MadeFile | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) after the header; fewer only at the end. Safe from several threads."""
        if self._remade is None:
            try:
                return self._kept.read(HEADER_BYTES + start, HEADER_BYTES + stop)
            except DataError as error:
                logger.info("%s", error)
                with self._lock:
                    if self._remade is None:
                        self._remade = self._remake()
        return self._remade.read(start, stop)


def _made_at(place: Path, stamp: str, make: Make, remake: _Remake) -> MadeFile:
    """Made beside its place and moved there when it is whole.

    Raises:
        OSError: if it cannot be written there, or another process made it of other data at the same time.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{place.name}.", suffix=".tmp", dir=place.parent)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            _fill(file, stamp, make)
        os.chmod(name, 0o644)
        os.replace(name, place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    kept = _open_if_current(place, stamp, remake)
    if kept is None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return kept


def _fill(file: BinaryIO, stamp: str, make: Make) -> None:
    file.write(bytes(HEADER_BYTES))
    counts = tuple(make(file))
    file.seek(0)
    file.write(msgspec.json.encode(Header(stamp=stamp, counts=counts)))
