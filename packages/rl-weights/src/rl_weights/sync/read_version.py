"""Reads a version that `DiskTransport` wrote, with the versions that it builds on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

from rl_weights.checksum import bucket_checksum
from rl_weights.dtypes import dtype_named, num_bytes
from rl_weights.errors import SyncError
from rl_weights.protocols import TensorSpec
from rl_weights.sync.delta import apply_delta, delta_bytes
from rl_weights.sync.version_folder import BucketEntry, VersionManifest, bucket_file, digest_of, read_manifest


class _Bucket(NamedTuple):
    specs: tuple[TensorSpec, ...]
    content: NDArray[np.uint8]


def read_version(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a version, in memory of its own.

    Args:
        folder: of a whole version, or of a delta beside the folders that it builds on.

    Raises:
        SyncError: naming the folder, if something is missing or not what its checksum says.
    """
    chain = [read_manifest(folder)]
    names = [folder]
    while (base := chain[0].base) is not None:
        names.insert(0, folder.parent / Path(base).name)
        chain.insert(0, read_manifest(names[0]))
    buckets: list[_Bucket] = []
    checksums: list[str] = []
    for manifest, where in zip(chain, names, strict=True):
        try:
            if manifest.kind == "full":
                buckets = [_read_whole(where, entry) for entry in manifest.buckets]
                checksums = [entry.checksum for entry in manifest.buckets]
            else:
                for entry in manifest.buckets:
                    _change(where, entry, buckets[entry.index])
                    checksums[entry.index] = entry.checksum
        except (OSError, ValueError, LookupError, zstandard.ZstdError) as error:
            raise SyncError(f"{where}: {type(error).__name__}: {error}") from error
        _check(where, manifest, buckets, checksums)
    return {
        name: _tensor(part.copy()).view(dtype_named(dtype, name)).view(shape)
        for bucket in buckets
        for (name, dtype, shape), part in zip(bucket.specs, _parts(bucket), strict=True)
    }


def _read_whole(folder: Path, entry: BucketEntry) -> _Bucket:
    content = np.fromfile(folder / bucket_file(entry.index, "full"), np.uint8)
    return _Bucket(tuple((one.name, one.dtype, one.shape) for one in entry.tensors), content)


def _change(folder: Path, entry: BucketEntry, bucket: _Bucket) -> None:
    packed = (folder / bucket_file(entry.index, "delta")).read_bytes()
    sizes = [delta_bytes(one.num_changed or 0, num_bytes(one.dtype, (1,))) for one in entry.tensors]
    content = zstandard.ZstdDecompressor().decompress(packed, max_output_size=sum(sizes))
    part_of = dict(zip((name for name, _, _ in bucket.specs), _parts(bucket), strict=True))
    start = 0
    for one, size in zip(entry.tensors, sizes, strict=True):
        apply_delta(part_of[one.name], content[start : start + size], one.num_changed or 0, num_bytes(one.dtype, (1,)))
        if bucket_checksum(_tensor(part_of[one.name])) != one.checksum:
            raise ValueError(f"{one.name} is not what its checksum says")
        start += size


def _parts(bucket: _Bucket) -> list[NDArray[np.uint8]]:
    """The bytes of each tensor, as views."""
    stops = np.cumsum([num_bytes(dtype, shape) for _, dtype, shape in bucket.specs])
    return np.split(bucket.content, stops[:-1])


def _check(folder: Path, manifest: VersionManifest, buckets: list[_Bucket], checksums: list[str]) -> None:
    found = [bucket_checksum(_tensor(bucket.content)) for bucket in buckets]
    if found != checksums or digest_of(checksums) != manifest.digest:
        raise SyncError(f"{folder}: version {manifest.version} is not what its checksums say")


def _tensor(content: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(content)  # pyright: ignore[reportUnknownMemberType]
