"""Opening a data set of many conversations: `python -m bench.data_opening`. Runs on the processor.

Conversations are written once as JSON lines, 1,000,000 and a tenth of that, and indexed. Then, for each size, a process
of its own opens the file and reads 2,000 rows in a shuffled order:

- data_opening_seconds: from the call of `open_rows` to its return, of the large file; the median of several processes.
- data_opening_growth_mib: how much more memory that process holds at most (resident) with the large file than with the
  small one, reads included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from bench.record import add_out_flag, measured, report

_NUM_READ = 2000
_NUM_TRIES = 5
_WRITTEN_AT_ONCE = 10_000


def main() -> None:
    """Prints the records; with --child, does one opening."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-rows", type=int, default=1_000_000, help="of the large file")
    parser.add_argument(
        "--work", type=Path, help="folder for the files, 1.6 GB at full size (default: a temporary one)"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    add_out_flag(parser)
    arguments = parser.parse_args()
    if arguments.child is not None:
        _open_and_read(arguments.child)
        return
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        small = _measure(Path(folder) / "small.jsonl", arguments.num_rows // 10)
        large = _measure(Path(folder) / "large.jsonl", arguments.num_rows)
    growth = max(0.0, float(large["peak_mib"]) - float(small["peak_mib"]))
    report(
        [
            measured("data_opening_seconds", float(large["open_s"]), "s"),
            measured("data_opening_growth_mib", growth, "MiB"),
        ],
        {"small": small, "large": large},
        arguments.out,
    )


def _measure(path: Path, num_rows: int) -> dict[str, float]:
    """Writes and indexes a file, and opens it in several processes."""
    _write(path, num_rows)
    start = time.perf_counter()
    first = _child(path)
    first_s = time.perf_counter() - start
    tries = [_child(path) for _ in range(_NUM_TRIES)]
    assert all(one["num_rows"] == num_rows for one in tries)
    return {
        "num_rows": num_rows,
        "file_mib": path.stat().st_size / 2**20,
        "first_process_s": first_s,
        "first_open_s": first["open_s"],
        "open_s": statistics.median(one["open_s"] for one in tries),
        "open_s_most": max(one["open_s"] for one in tries),
        "row_us": statistics.median(one["row_us"] for one in tries),
        "peak_mib": statistics.median(one["peak_mib"] for one in tries),
        "first_peak_mib": first["peak_mib"],
    }


def _write(path: Path, num_rows: int) -> None:
    """Conversations of two to eight messages, 1.5 kB on average."""
    random = np.random.default_rng(0)
    filler = "The quick brown fox jumps over the lazy dog, and so on. " * 40
    with path.open("wb") as out:
        for start in range(0, num_rows, _WRITTEN_AT_ONCE):
            lines: list[bytes] = []
            for number in range(start, min(start + _WRITTEN_AT_ONCE, num_rows)):
                lengths = random.integers(20, 600, 2 * int(random.integers(1, 5)))
                turns = [
                    {"from": "gpt" if turn % 2 else "human", "value": f"{number} {filler[:length]}"}
                    for turn, length in enumerate(lengths.tolist())
                ]
                lines.append(msgspec.json.encode({"conversations": turns}))
            out.write(b"\n".join(lines) + b"\n")


def _child(path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.data_opening", "--child", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _open_and_read(path: Path) -> None:
    from rl_data.order import shuffled
    from rl_data.rows import open_rows

    start = time.perf_counter()
    rows = open_rows(str(path))
    opened = time.perf_counter()
    for position in range(_NUM_READ):
        rows.row(shuffled(position, len(rows), seed=0, epoch=0))
    read = time.perf_counter()
    print(
        json.dumps(
            {
                "num_rows": len(rows),
                "open_s": opened - start,
                "row_us": 1e6 * (read - opened) / _NUM_READ,
                "peak_mib": _peak_mib(),
            }
        )
    )


def _peak_mib() -> float:
    """The most memory that this process held: the kernel's high water mark of its resident set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel tells no VmHWM")


if __name__ == "__main__":
    main()
