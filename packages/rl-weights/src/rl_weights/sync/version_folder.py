"""A version of a model's weights in a folder: whole, or what changed since the version before.

    DIR/00000004.full/    manifest.json  00000.bin  00001.bin  ...
    DIR/00000005.delta/   manifest.json  00000.zst  00001.zst  ...

A `.bin` file is a bucket: its tensors end to end. A `.zst` file is a zstd frame with the deltas (see `delta`) of the
bucket's changed tensors end to end; buckets without a change have no file. The manifest names every tensor whose bytes
are there with dtype, shape and checksum, the stream of versions that this one belongs to, and the digest of all of the
version's buckets. A folder is written beside its place and renamed: one that is there is whole.
"""

from pathlib import Path
from typing import Literal

import msgspec
import xxhash

from rl_weights.errors import SyncError

MANIFEST = "manifest.json"
SCHEMA = 1


class TensorEntry(msgspec.Struct, frozen=True):
    """A tensor whose bytes, or changed bytes, are in a bucket's file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    checksum: str
    """`rl_weights.bucket_checksum` of the tensor's bytes in this version."""
    num_changed: int | None = None
    """Elements that the delta changes; None of a whole tensor."""


class BucketEntry(msgspec.Struct, frozen=True):
    """A bucket with bytes in this folder."""

    index: int
    num_bytes: int
    """Of the whole bucket."""
    checksum: str
    """`rl_weights.bucket_checksum` of the whole bucket in this version."""
    tensors: tuple[TensorEntry, ...]
    """All of the bucket in a full version, those that changed in a delta."""


class VersionManifest(msgspec.Struct, frozen=True):
    """What a folder holds."""

    schema: int
    stream: str
    """Versions of one stream were written by one publisher, one after the other."""
    kind: Literal["full", "delta"]
    version: int
    base: str | None
    """Name of the folder, beside this one, that a delta changes."""
    deltas_follow: bool
    """Whether deltas on it may follow: who reads it keeps a copy then."""
    num_tensors: int
    num_buckets: int
    digest: str
    """See `digest_of`."""
    buckets: tuple[BucketEntry, ...]


def folder_name(number: int, kind: Literal["full", "delta"]) -> str:
    """Name of a version's folder.

    Args:
        number: of the folders of its stream; one version may be published several times.
        kind: what it holds.
    """
    return f"{number:08d}.{kind}"


def bucket_file(index: int, kind: Literal["full", "delta"]) -> str:
    """Name of a bucket's file."""
    return f"{index:05d}.{'bin' if kind == 'full' else 'zst'}"


def digest_of(checksums: list[str]) -> str:
    """One checksum for those of all buckets, in their order."""
    return xxhash.xxh3_64_hexdigest("\n".join(checksums).encode())


def read_manifest(folder: Path) -> VersionManifest:
    """The manifest of a version.

    Raises:
        SyncError: if it is missing, damaged or of another schema.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=VersionManifest)
    except (OSError, msgspec.DecodeError) as error:
        raise SyncError(f"{folder / MANIFEST}: {error}") from error
    if manifest.schema != SCHEMA:
        raise SyncError(f"{folder / MANIFEST}: expected schema {SCHEMA}, got {manifest.schema}")
    return manifest
