"""Optimizer and learning-rate schedule, from Megatron's arguments."""

import argparse
import math
from typing import NamedTuple

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler, get_canonical_lr_for_logging
from megatron.training.training import get_megatron_optimizer_config

from rl_train.errors import TrainConfigError


class OptimizerOutcome(NamedTuple):
    """What an optimizer step did."""

    grad_norm: float
    """Norm of the whole gradient before clipping."""
    is_skipped: bool


def build_optimizer(args: argparse.Namespace, model: DistributedDataParallel) -> ChainedOptimizer:
    """Adam whose state is sharded over the data-parallel ranks. Takes the weights as they are now. Collective."""
    config, overrides = get_megatron_optimizer_config(args)
    optimizer = get_megatron_optimizer(
        config, [model], config_overrides=overrides, use_gloo_process_groups=not torch.cuda.is_available()
    )
    assert isinstance(optimizer, ChainedOptimizer)
    return optimizer


def build_scheduler(args: argparse.Namespace, optimizer: ChainedOptimizer) -> OptimizerParamScheduler:
    """The schedule of learning rate and weight decay, counted in optimizer steps.

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
    return OptimizerParamScheduler(
        optimizer,
        init_lr=args.lr_warmup_init,
        max_lr=args.lr,
        min_lr=args.min_lr,
        lr_warmup_steps=args.lr_warmup_iters if fraction is None else fraction * num_steps,
        lr_decay_steps=num_steps,
        lr_decay_style=args.lr_decay_style,
        start_wd=args.start_weight_decay,
        end_wd=args.end_weight_decay,
        wd_incr_steps=args.train_iters or num_steps,
        wd_incr_style=args.weight_decay_incr_style,
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=False,
        wsd_decay_steps=args.lr_wsd_decay_iters,
        lr_wsd_decay_style=args.lr_wsd_decay_style,
    )


def learning_rate(optimizer: ChainedOptimizer) -> float:
    """The rate that the next step takes."""
    rate = get_canonical_lr_for_logging(optimizer.param_groups)
    assert rate is not None
    return rate


@torch.no_grad()
def step_if_finite(optimizer: ChainedOptimizer, clip_grad: float) -> OptimizerOutcome:
    """Clips the gradient and takes the step, or does nothing where the gradient is not finite. Collective.

    Megatron looks for infinities only where it scales losses for float16.
    """
    optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    if not math.isfinite(grad_norm):
        return OptimizerOutcome(grad_norm, is_skipped=True)
    if clip_grad > 0:
        for part in optimizer.chained_optimizers:
            clip_grad_by_total_norm_fp32(part.get_parameters(), clip_grad, grad_norm)
    optimizer.step_with_ready_grads()
    return OptimizerOutcome(grad_norm, is_skipped=False)
