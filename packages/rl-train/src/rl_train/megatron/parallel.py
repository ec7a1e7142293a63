"""Megatron's process groups of one rank."""

# pyright: standard
# Megatron-Core is annotated in part only.

import argparse
import os
from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from rl_train.errors import RLTrainError, TrainConfigError
from rl_weights import RLWeightsError


def initialize_parallel(args: argparse.Namespace) -> torch.device:
    """Makes Megatron's process groups and random states, and returns this rank's device. Collective.

    `torch.distributed` must be initialised, with gloo on CPUs and NCCL on GPUs.

    Raises:
        TrainConfigError: if the world is not of the size that the arguments were made for.
    """
    if dist.get_world_size() != args.world_size:
        raise TrainConfigError(f"trainer: arguments are for {args.world_size} ranks, got {dist.get_world_size()}")
    is_cuda = torch.cuda.is_available()
    if is_cuda:
        # Megatron asks for it on GPUs before Blackwell, to keep communication and computation in order.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    parallel_state.initialize_model_parallel(
        args.tensor_model_parallel_size,
        args.pipeline_model_parallel_size,
        # On CPUs every group is a gloo group already.
        create_gloo_process_groups=not is_cuda,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(
        args.seed, te_rng_tracker=False, inference_rng_tracker=False, use_cudagraphable_rng=False
    )
    return torch.device("cuda", torch.cuda.current_device()) if is_cuda else torch.device("cpu")


def tensor_group() -> dist.ProcessGroup:
    """The tensor-parallel ranks that this rank is one of."""
    group = parallel_state.get_tensor_model_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    return group


def pipeline_group() -> dist.ProcessGroup:
    """The pipeline stages that this rank is one of."""
    group = parallel_state.get_pipeline_model_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    return group


def from_every_rank(content: bytes, device: torch.device) -> list[bytes]:
    """[world_size] what each rank gives, as bytes. Collective."""
    world_size = dist.get_world_size()
    own = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size)]
    dist.all_gather(sizes, torch.tensor([own.numel()], device=device))
    longest = max(int(size.item()) for size in sizes)
    padded = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in range(world_size)]
    dist.all_gather(padded, torch.nn.functional.pad(own, (0, longest - own.numel())))
    return [bytes(one[: int(size.item())].cpu().numpy()) for one, size in zip(padded, sizes, strict=True)]


@contextmanager
def same_outcome() -> Generator[None]:
    """Raises on every rank what the block raises on one, so that none waits for a rank that gave up. Collective.

    Holds for our own errors; the block must not be left halfway through a collective by them.
    """
    own: RLTrainError | RLWeightsError | None = None
    try:
        yield
    except (RLTrainError, RLWeightsError) as error:
        own = error
    errors: list[RLTrainError | RLWeightsError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, own)
    first = own or next((error for error in errors if error is not None), None)
    if first is not None:
        raise first


def destroy_parallel() -> None:
    """Takes the process groups apart."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
