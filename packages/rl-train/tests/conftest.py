import importlib

import pytest


@pytest.fixture(scope="session", autouse=True)
def megatron_without_kernels_for_gpus(request: pytest.FixtureRequest) -> None:
    """Where there is no GPU, Megatron is loaded without them before a slow test does it: in half of the time."""
    if not any(item.get_closest_marker("slow") for item in request.session.items):
        return
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        return
    from rl_train.megatron.cpu import importing_for_cpu

    with importing_for_cpu():
        importlib.import_module("megatron.training.arguments")
