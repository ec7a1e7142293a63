"""One trainer rank, in a process of its own, whose tensor source is checked: `python megatron_source.py MODEL`."""

import json
import sys
from pathlib import Path

from rl_train.algorithms import sft_loss
from rl_train.megatron.arguments import parse_megatron_args
from rl_train.megatron.cpu import enable_cpu_support


def main() -> None:
    """Builds the trainer on the model and runs the checks."""
    model = Path(sys.argv[1])
    model_config = json.loads((model / "config.json").read_text())
    enable_cpu_support()
    arguments = parse_megatron_args([], model_config=model_config, world_size=1, train_iters=1)
    import torch

    from rl_train.megatron.trainer import MegatronTrainer
    from rl_weights import TensorSource
    from rl_weights.hf import HFCheckpoint
    from rl_weights.testing import check_tensor_source

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    trainer = MegatronTrainer(
        arguments=arguments, model_config=model_config, weights=model, loss=sft_loss, temperature=1.0
    )
    source = trainer.tensor_source()
    assert isinstance(source, TensorSource)
    check_tensor_source(source)
    checkpoint = HFCheckpoint(model)
    given = dict(source.iter_tensors())
    assert given.keys() == checkpoint.specs.keys(), given.keys() ^ checkpoint.specs.keys()
    assert all(torch.equal(tensor, checkpoint.read(name)) for name, tensor in given.items())


if __name__ == "__main__":
    main()
