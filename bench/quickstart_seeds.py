"""The quickstart on several seeds, as JSON: seconds, rewards and accuracies before and after, logprob difference.

`python bench/quickstart_seeds.py --out DIR [--seeds 0 1 2]`
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Runs the quickstart once a seed, one after the other, and prints a list of summaries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    summaries: list[dict[str, float]] = []
    for seed in flags.seeds:
        run_dir = flags.out.absolute() / f"seed-{seed}"
        command = [sys.executable, "-m", "recipes.quickstart", "--run-dir", str(run_dir), "--seed", str(seed)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        summaries.append(json.loads((run_dir / "summary.json").read_text()) | {"load_after": os.getloadavg()[1]})
    print(json.dumps(summaries, indent=2))


if __name__ == "__main__":
    main()
