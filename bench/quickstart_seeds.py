"""The quickstart on several seeds: seconds, rewards and held-out accuracies, and how far engine and trainer differ.

    python -m bench.quickstart_seeds --work DIR [--seeds 0 1 2] [--out bench/results]

Runs it once a seed, one after the other. Each record is of the seed that is furthest from its bar.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from bench.record import add_out_flag, measured, report
from recipes.run_folder import SUMMARY_FILE
from recipes.summary import Summary

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.quickstart_seeds", description="The quickstart, repeated.")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_out_flag(parser)
    flags = parser.parse_args()
    folders = [flags.work.absolute() / f"seed-{seed}" for seed in flags.seeds]
    loads: list[float] = []
    for seed, folder in zip(flags.seeds, folders, strict=True):
        command = [sys.executable, "-m", "recipes.quickstart", "--run-dir", str(folder), "--seed", str(seed)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        loads.append(os.getloadavg()[1])
    runs = [Summary(**json.loads((folder / SUMMARY_FILE).read_text())) for folder in folders]
    records = [
        measured("quickstart_seconds", max(run.seconds for run in runs), "s"),
        measured("quickstart_reward_last", min(run.reward_last for run in runs), ""),
        measured("quickstart_reward_ratio", min(run.reward_last / run.reward_first for run in runs), "ratio"),
        measured("quickstart_accuracy_rise", min(run.accuracy_after - run.accuracy_before for run in runs), ""),
        measured("quickstart_logprob_diff", max(run.logprob_abs_diff_max for run in runs), ""),
    ]
    report(records, {"runs": [asdict(run) for run in runs], "load_after": loads}, flags.out)


if __name__ == "__main__":
    main()
