"""Optimizer and learning-rate schedule, from Megatron's arguments."""

# pyright: standard
# Megatron-Core is annotated in part only.

import argparse
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler, get_canonical_lr_for_logging
from megatron.training.training import get_megatron_optimizer_config
from torch import Tensor

from rl_train.errors import TrainConfigError
from rl_train.megatron.kernels import Kernels

# Keeps the division by the norm defined; the same in torch and Megatron.
_CLIP_EPSILON = 1e-6


class OptimizerOutcome(NamedTuple):
    """What an optimizer step did."""

    grad_norm: float
    """Norm of the whole gradient before clipping."""
    is_skipped: bool


def build_optimizer(args: argparse.Namespace, model: DistributedDataParallel, kernels: Kernels) -> ChainedOptimizer:
    """Adam whose state is sharded over the data-parallel ranks. Takes the weights as they are now. Collective."""
    made: Any = get_megatron_optimizer_config(args)
    config, overrides = made
    optimizer = get_megatron_optimizer(
        config, [model], config_overrides=overrides, use_gloo_process_groups=not torch.cuda.is_available()
    )
    assert isinstance(optimizer, ChainedOptimizer)
    for part in _torch_adams(optimizer):
        part.optimizer = kernels.adam.of(part.optimizer, _rounded_weights(part))
        # What Adam does itself now. In float32 its weights are the model's own.
        part._copy_main_params_to_model_params = _nothing
        _fill_state(part.optimizer)
        _accept_checkpointed_state(part)
    return optimizer


@torch.no_grad()
def load_optimizer_state(optimizer: ChainedOptimizer, state: Mapping[str, Any]) -> None:
    """Restores what Megatron's checkpoint holds of the optimizer."""
    optimizer.load_state_dict(state)
    for part in _torch_adams(optimizer):
        for moments in part.optimizer.state.values():
            # Megatron gives all parameters one and the same tensor, which each would count up for itself.
            count: torch.Tensor = moments["step"]
            moments["step"] = count.to("cpu", copy=True)


def _torch_adams(optimizer: ChainedOptimizer) -> list[Any]:
    """Megatron's wrappers of torch's own AdamW, which it takes where neither Transformer Engine nor APEX is there."""
    return [part for part in optimizer.chained_optimizers if isinstance(part.optimizer, torch.optim.AdamW)]


def _rounded_weights(part: Any) -> dict[Tensor, Tensor]:
    """Weight in float32 -> the same part of the model's weight in half precision."""
    pairs = zip(chain(*part.shard_fp32_from_float16_groups), chain(*part.shard_float16_groups), strict=True)
    return dict(pairs)


def _nothing() -> None:
    """Stands for a pass that is not needed."""


def _fill_state(adam: torch.optim.AdamW) -> None:
    """Makes Adam's state before its first step, equal to what the first step would make.

    A checkpoint is loaded into a state of the right shape, and one may be saved before the first step.
    """
    for group in adam.param_groups:
        for weight in group["params"]:
            adam.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }


def _accept_checkpointed_state(part: Any) -> None:
    """Keeps Megatron from taking this process's count of Adam steps for the checkpoint's.

    Megatron 0.19 restores the count from the parameter groups, and then overwrites it with the one that was here before
    the load. Goes when `DistributedOptimizer._set_main_param_and_optimizer_states` leaves "step" out.
    """
    real = part._set_main_param_and_optimizer_states

    def set_states(model_param: torch.nn.Parameter, tensors: Mapping[str, Any]) -> None:
        real(model_param, {**tensors, "step": None})

    part._set_main_param_and_optimizer_states = set_states


def build_scheduler(args: argparse.Namespace, optimizer: ChainedOptimizer) -> OptimizerParamScheduler:
    """The schedule of learning rate and weight decay, counted in optimizer steps.

    A warm-up longer than the run is taken as far as the run goes. After a load the schedule is the one that the
    arguments say, at the checkpoint's step: a resumed run may be longer than it was planned.

    Raises:
        TrainConfigError: if the learning rate is to decay and neither the flags nor the run say over how many steps.
    """
    num_steps = args.lr_decay_iters or args.train_iters
    if num_steps is None:
        if args.lr_decay_style != "constant" or args.weight_decay_incr_style != "constant":
            raise TrainConfigError(
                f"--lr-decay-style {args.lr_decay_style} --weight-decay-incr-style {args.weight_decay_incr_style}: "
                "give --lr-decay-iters, since the number of steps is not known"
            )
        num_steps = max(1, args.lr_warmup_iters + 1)
    fraction = args.lr_warmup_fraction
    num_warmup_steps = args.lr_warmup_iters if fraction is None else fraction * num_steps
    return OptimizerParamScheduler(
        optimizer,
        init_lr=args.lr_warmup_init,
        max_lr=args.lr,
        min_lr=args.min_lr,
        lr_warmup_steps=num_warmup_steps,
        # Megatron wants a decay to follow the warm-up.
        lr_decay_steps=max(num_steps, math.floor(num_warmup_steps) + 1),
        lr_decay_style=args.lr_decay_style,
        start_wd=args.start_weight_decay,
        end_wd=args.end_weight_decay,
        wd_incr_steps=args.train_iters or num_steps,
        wd_incr_style=args.weight_decay_incr_style,
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
        wsd_decay_steps=args.lr_wsd_decay_iters,
        lr_wsd_decay_style=args.lr_wsd_decay_style,
    )


def learning_rate(optimizer: ChainedOptimizer) -> float:
    """The rate that the next step takes."""
    rate = get_canonical_lr_for_logging(optimizer.param_groups)
    assert rate is not None
    return rate


@torch.no_grad()
def gradient_norm(optimizer: ChainedOptimizer) -> Tensor:
    """Norm of the whole gradient on the device, after which it is ready for `step_if_finite`. Collective.

    Megatron's own, without APEX or Transformer Engine, waits for the GPU once for each parameter.
    """
    optimizer.prepare_grads()
    squares: list[Tensor] = []
    for part in optimizer.chained_optimizers:
        square = torch.nn.utils.get_total_norm(part.get_grads_for_grad_norm()).square().to(torch.cuda.current_device())
        dist.all_reduce(square, group=part.get_grad_stats_parallel_group())
        squares.append(square)
    return torch.stack(squares).sum().sqrt()


@torch.no_grad()
def step_if_finite(optimizer: ChainedOptimizer, clip_grad: float, grad_norm: Tensor) -> OptimizerOutcome:
    """Clips the gradient and takes the step, or does nothing where the gradient is not finite. Collective.

    Megatron looks for infinities only where it scales losses for float16. The norm is waited for when everything is
    under way.

    Args:
        optimizer: whose gradients are ready.
        clip_grad: norm that the gradient is scaled down to; 0: it is taken as it is.
        grad_norm: what `gradient_norm` gave.
    """
    largest = torch.where(torch.isfinite(grad_norm), clip_grad if clip_grad > 0 else torch.inf, torch.nan)
    factor = (largest / (grad_norm + _CLIP_EPSILON)).clamp(max=1.0)
    adams = [part.optimizer for part in _torch_adams(optimizer)]
    for adam in adams:
        adam.factor = factor
    optimizer.step_with_ready_grads()
    waited = float(grad_norm)
    is_skipped = not math.isfinite(waited)
    if is_skipped:
        for adam in adams:
            adam.forget_step()
    return OptimizerOutcome(waited, is_skipped)
