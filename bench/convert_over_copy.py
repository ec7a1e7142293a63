"""Conversion of a checkpoint there and back, over `cp -r` of the same files in the same run, and its peak memory.

    python -m bench.convert_over_copy --model M [--work DIR] [--out bench/results]

A conversion ends when its output is on the disk, `cp -r` while the system may still hold it in memory; so there are
also ratios over a copy that is flushed too. Times are those of whole commands, start of Python included. The exit code
is 1 if the model that comes back is not equal to the bit.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from bench.record import add_out_flag, measured, report
from rl_weights.bench import bench_conversion


def main() -> int:
    """Measures, prints the records, returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.convert_over_copy")
    parser.add_argument("--model", type=Path, required=True, help="model folder, such as bench.random_checkpoint makes")
    parser.add_argument("--work", type=Path, default=Path("/tmp"), help="where to write, and then remove")
    add_out_flag(parser)
    flags = parser.parse_args()
    bench = bench_conversion(flags.model, flags.work)
    records = [
        measured("convert_to_torch_dist_over_copy", bench.to_torch_dist_over_copy, "times cp -r"),
        measured("convert_to_hf_over_copy", bench.to_hf_over_copy, "times cp -r"),
        measured("convert_to_torch_dist_over_flushed_copy", bench.to_torch_dist_over_flushed_copy, "times cp -r, sync"),
        measured("convert_to_hf_over_flushed_copy", bench.to_hf_over_flushed_copy, "times cp -r, sync"),
        measured("convert_peak_gib", bench.peak_bytes / 2**30, "GiB"),
    ]
    report(records, asdict(bench), flags.out)
    return 0 if bench.is_exact else 1


if __name__ == "__main__":
    sys.exit(main())
