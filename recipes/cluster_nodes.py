"""Who is in a Ray cluster, found out by a process of its own.

    python -m recipes.cluster_nodes ADDRESS NUM_NODES TIMEOUT_S

prints the address of each live node as it joins and ends when there are so many; a later look ends with SIGALRM. Ray's
first contact takes minutes, deaf to signals, where something else listens at the address or nodes are gone.
"""

# pyright: standard
# Ray is not typed throughout.

import logging
import signal
import subprocess
import sys
import time

_POLL_S = 0.5


def why_unreachable(address: str, *, timeout_s: int) -> str | None:
    """None if a cluster with a live node is at the address, else what was seen there instead.

    Interrupts end the look at once, as they end any other wait for a process.
    """
    command = [sys.executable, "-P", __file__, address, "1", str(timeout_s)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    seen = "Ray could not join it"
    said = done.stderr.strip().splitlines()
    reasons = [line for line in said if "cluster ID" in line]  # Ray's warning that says more than its last words
    if done.returncode == -signal.SIGALRM:
        seen = f"no node of a Ray cluster answered within {timeout_s} s"
        said = reasons
    return f"{seen}: {(reasons or said)[-1]}" if said else seen


def main(address: str, num_nodes: int, timeout_s: int) -> None:
    """Prints and waits, as said above."""
    signal.alarm(timeout_s)  # by its default action, to which nothing that Ray does is deaf
    import ray

    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    seen: set[str] = set()
    while True:
        alive = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        for node in sorted(alive - seen):
            sys.stdout.write(f"{node}\n")
        sys.stdout.flush()
        seen |= alive
        if len(alive) >= num_nodes:
            return
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
