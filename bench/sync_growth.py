"""What 50 publishes leave in memory, and how few bytes a delta moves, by each way of the weights; prints JSON.

    python -m bench.sync_growth --model DIR [--publishes 50] [--transports auto gloo delta] [--out bench/results]

The writer is this process, with the checkpoint's weights on the GPU if there is one; the engine is real. A norm's
weights change before each publish. Memory is what is in use after --publishes more than after five: what is resident of
this process and of the engine's processes, but for mapped files, and, of the GPU, all that any process uses. "delta of
an unchanged model" is the share of the bytes that a publish moves if nothing has changed.
"""

import argparse
import gc
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.record import add_out_flag, measured, report
from rl_rollout import SGLangEngine
from rl_weights import HFCheckpoint, Publisher, SyncConfig
from rl_weights.testing import InMemorySource, resident_bytes

_MIB = 2**20
_NUM_WARM_UP = 5
_CHANGED = "model.norm.weight"
_GPU_ENGINE = {"attention_backend": "triton", "disable_cuda_graph": True, "mem_fraction_static": 0.4}


def main() -> None:
    """Measures and prints."""
    flags = _flags()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = HFCheckpoint(flags.model)
    source = InMemorySource({name: tensor.to(device) for name, tensor in checkpoint.iter_tensors()})
    with (
        SGLangEngine(flags.model, name="engine 0", server_args=_GPU_ENGINE if device == "cuda" else None) as engine,
        tempfile.TemporaryDirectory(dir=flags.folder) as folder,
    ):
        engine.wait_ready()
        ways = {name: _measure(name, source, engine, Path(folder), flags) for name in flags.transports}
    records = [
        measured("sync_growth_host_mib", max(one["growth_host_mib"] for one in ways.values()), "MiB"),
        measured("sync_growth_gpu_mib", max(one["growth_gpu_mib"] for one in ways.values()), "MiB"),
    ]
    if "delta" in ways:
        records.append(measured("sync_unchanged_share", ways["delta"]["unchanged_share"], "of the bytes"))
    report(records, {"publishes": flags.publishes, "by_transport": ways}, flags.out)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sync_growth", description="What publishes leave in memory, by each way of the weights."
    )
    ways = ["auto", "host", "gloo", "disk", "delta"]
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--publishes", type=int, default=50, help="publishes of each way")
    parser.add_argument("--transports", nargs="+", choices=ways, default=ways, help="ways of the weights")
    parser.add_argument("--bucket-mib", type=int, default=1024, help="bucket size")
    parser.add_argument("--folder", type=Path, help="where versions on a disk go; default: the temporary files")
    add_out_flag(parser)
    return parser.parse_args()


def _measure(
    name: str, source: InMemorySource, engine: SGLangEngine, folder: Path, flags: argparse.Namespace
) -> dict[str, Any]:
    sync = SyncConfig(
        transport="disk" if name in ("disk", "delta") else name,
        mode="delta" if name == "delta" else "full",
        folder=folder if name in ("disk", "delta") else None,
    )
    publisher = Publisher(source, [engine], bucket_bytes=flags.bucket_mib * _MIB, transport=sync.make_transport())
    processes = [os.getpid(), *engine.process_ids()]
    reports: list[Any] = []

    def publish(times: int) -> tuple[float, float]:
        for _ in range(times):
            source.tensors[_CHANGED].mul_(1.01)
            reports.append(publisher.publish(len(reports) + 1))
        gc.collect()
        return sum(map(resident_bytes, processes)) / _MIB, _gpu_mib()

    before = publish(_NUM_WARM_UP)
    after = publish(flags.publishes)
    unchanged = publisher.publish(len(reports) + 1, verify=True)
    publisher.close()
    return {
        "growth_host_mib": after[0] - before[0],
        "growth_gpu_mib": after[1] - before[1],
        "unchanged_share": unchanged.num_moved_bytes / unchanged.num_bytes,
        "num_bytes": unchanged.num_bytes,
        "buffers_on": unchanged.buffers_on,
        "verify_s": unchanged.verify_s,
        "seconds_median": statistics.median(one.total_s for one in reports[_NUM_WARM_UP:]),
        "phases_median": {
            phase: statistics.median(getattr(one, phase) for one in reports[_NUM_WARM_UP:])
            for phase in ("gather_s", "convert_s", "checksum_s", "transfer_s", "load_s", "flush_s")
        },
    }


def _gpu_mib() -> float:
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.ipc_collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return (total - free) / _MIB


if __name__ == "__main__":
    main()
