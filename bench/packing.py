"""How evenly samples are spread over ranks, and how long that takes: `python -m bench.packing`. Runs on the processor.

- Tokens of the fullest of 8 ranks over the mean, for 2,048 samples of 100 to 8,192 tokens; the same for operations.
- Seconds of the processor to pack 4,096 samples of such lengths.
"""

import argparse
import time

import numpy as np

from bench.model_configs import MODEL_CONFIGS
from bench.record import add_out_flag, measured, report
from rl_data import Sample, TrainBatch, pack
from rl_data.balance import attention_length_of

_RANKS = 8
_BUDGET = 9216


def main() -> None:
    """Prints the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, default=2048, help="for the balance; twice as many for the seconds")
    add_out_flag(parser)
    arguments = parser.parse_args()
    attention_length = attention_length_of(MODEL_CONFIGS["qwen3-4b"])
    samples = _samples(arguments.num_samples)
    by_tokens = pack(samples, num_ranks=_RANKS, max_tokens=_BUDGET)
    by_work = pack(samples, num_ranks=_RANKS, max_tokens=_BUDGET, attention_length=attention_length)
    more = _samples(2 * arguments.num_samples)
    start = time.process_time()
    pack(more, num_ranks=_RANKS, max_tokens=_BUDGET)
    seconds = time.process_time() - start
    records = [
        measured("packing_imbalance", _imbalance(by_tokens), ""),
        measured("packing_seconds", seconds, "s"),
    ]
    details = {
        "micro_batches_per_rank": len(by_tokens.microbatches[0]),
        "fewest_possible": int(np.ceil(by_tokens.num_tokens / _RANKS / _BUDGET)),
        "imbalance_of_operations": {
            "balanced_by_tokens": _imbalance(by_tokens, attention_length),
            "balanced_by_operations": _imbalance(by_work, attention_length),
        },
    }
    report(records, details, arguments.out)


def _samples(num_samples: int) -> list[Sample]:
    lengths = np.random.default_rng(0).integers(100, 8193, num_samples)
    samples: list[Sample] = []
    for index, length in enumerate(lengths.tolist()):
        mask = np.arange(length) >= 50
        samples.append(
            Sample(
                group_id="0-0",
                index=index,
                tokens=np.zeros(length, dtype=np.int32),
                prompt_length=50,
                loss_mask=mask,
                rollout_logprobs=np.zeros(length, dtype=np.float32),
            )
        )
    return samples


def _imbalance(batch: TrainBatch, attention_length: float = np.inf) -> float:
    """Work of the fullest rank over the mean."""
    lengths = [np.concatenate([np.diff(part.cu_seqlens) for part in rank]).astype(float) for rank in batch.microbatches]
    work = np.array([(each + each**2 / attention_length).sum() for each in lengths])
    return float(work.max() / work.mean())


if __name__ == "__main__":
    main()
