"""The names that the package promises, and what importing them costs."""

import importlib
import subprocess
import sys

import pytest

import rl_train


def modules_after(statement: str) -> set[str]:
    """Top-level modules of a fresh process after the statement."""
    program = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.split())


def test_the_names_of_the_package() -> None:
    assert sorted(rl_train.__all__) == [
        "HostMemoryError",
        "MemoryReleasedError",
        "MemoryUse",
        "RLTrainError",
        "StepResult",
        "TrainConfigError",
        "Trainer",
        "TrainerDeadlineError",
        "TrainerError",
        "TrainerPart",
    ]


def test_importing_the_package_loads_no_framework() -> None:
    statement = "import rl_train, rl_train.megatron.config, rl_train.megatron.checkpoint_folder, rl_train.testing"
    assert not modules_after(statement) & {"torch", "megatron", "ray", "transformers"}


def test_a_configuration_and_advantages_need_no_torch_and_the_losses_get_it() -> None:
    statement = "from rl_train.algorithms import AlgorithmConfig, compute_advantages"
    assert "torch" not in modules_after(statement)
    assert "torch" in modules_after("from rl_train.algorithms import make_loss")


def test_every_name_of_the_algorithms_is_there() -> None:
    import rl_train.algorithms as algorithms

    assert sorted(algorithms.__all__) == [
        *("AlgorithmConfig", "LinearLoss", "LossFunction", "LossInputs", "LossOutput", "PolicyLoss", "SFTLoss"),
        *("compute_advantages", "make_loss", "sft_loss"),
    ]
    assert all(hasattr(algorithms, name) for name in algorithms.__all__)
    assert algorithms.sft_loss is importlib.import_module("rl_train.algorithms.sft").sft_loss
    with pytest.raises(AttributeError, match="has no attribute 'Loss'"):
        _ = algorithms.Loss


def test_a_rank_sets_its_threads_before_torch_is_loaded() -> None:
    assert not modules_after("import rl_train.megatron.rank") & {"torch", "megatron", "ray"}
    assert "torch" not in modules_after("import rl_train.ray")
