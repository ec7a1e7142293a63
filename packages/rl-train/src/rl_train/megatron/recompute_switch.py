"""Applies a recompute policy to a model that is built, at its first step and when micro-batches grow."""

# pyright: standard
# Megatron-Core is annotated in part only.

import argparse
import logging

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import get_num_layers_to_build

from rl_train.megatron.layer_settings import LayerSettings
from rl_train.megatron.recompute import LayerShape, RecomputePlan, RecomputePolicy, plan_recompute, step_bytes

logger = logging.getLogger(__name__)


class RecomputeSwitch:
    """Decides by the free memory before a step what the step computes again.

    Megatron's own flags decide where they are given. On a CPU nothing is computed again unless the policy says so.

    Args:
        policy: of the trainer's settings.
        args: Megatron's.
        config: of the model, whose recompute fields this class alone writes.
        settings: of all layers.
        chunk_size: tokens whose logits exist at once.
    """

    def __init__(
        self,
        policy: RecomputePolicy,
        args: argparse.Namespace,
        config: TransformerConfig,
        settings: LayerSettings,
        chunk_size: int,
    ) -> None:
        self._is_given = args.recompute_granularity is not None
        self._policy: RecomputePolicy = policy
        self._config, self._settings, self._chunk_size = config, settings, chunk_size
        self._is_cuda = torch.cuda.is_available()
        self._num_tokens = 0
        self._plan: RecomputePlan | None = None
        self._shape = LayerShape(
            num_layers=get_num_layers_to_build(config),
            hidden_size=args.hidden_size,
            num_heads=args.num_attention_heads,
            num_groups=args.num_query_groups,
            head_dim=args.kv_channels,
            feed_forward=args.ffn_hidden_size,
            vocab_size=args.vocab_size,
            tensor_parallel=args.tensor_model_parallel_size,
            is_sequence_parallel=args.sequence_parallel,
            element_bytes=config.params_dtype.itemsize,
            # One forward, one backward: a stage holds as many micro-batches as there are stages from it to the last.
            num_in_flight=args.pipeline_model_parallel_size - parallel_state.get_pipeline_model_parallel_rank(),
        )

    @property
    def plan(self) -> RecomputePlan | None:
        """What the last step computed again; None before the first and where Megatron's flags decide."""
        return self._plan

    def prepare(self, num_tokens: int) -> None:
        """Chooses for micro-batches of up to `num_tokens`, if that is more than it has chosen for. Collective.

        Args:
            num_tokens: of the largest micro-batch of all ranks.
        """
        if self._is_given or num_tokens <= self._num_tokens:
            return
        self._num_tokens = num_tokens
        policy = "none" if self._policy == "auto" and not self._is_cuda else self._policy
        free_bytes = self._free_bytes()
        self._plan = plan_recompute(
            policy, self._shape, num_tokens=num_tokens, chunk_size=self._chunk_size, free_bytes=free_bytes
        )
        self._apply(self._plan)
        logger.info(
            "recompute for micro-batches of %d tokens: %s (about %.1f GiB of %.1f GiB free)",
            num_tokens,
            self._plan,
            step_bytes(self._shape, self._plan, num_tokens, self._chunk_size) / 2**30,
            free_bytes / 2**30,
        )

    def _free_bytes(self) -> int:
        """What every rank could still take of its GPU; ranks that share layers must choose alike."""
        if not self._is_cuda:
            return 0
        free, _ = torch.cuda.mem_get_info()
        least = torch.tensor(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), device="cuda")
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return int(least)

    def _apply(self, plan: RecomputePlan) -> None:
        self._settings.recomputes_activations = plan.activations
        config = self._config
        if plan.num_full_layers:
            config.recompute_granularity, config.recompute_method = "full", "block"
            config.recompute_num_layers = plan.num_full_layers
        else:
            config.recompute_granularity = config.recompute_method = config.recompute_num_layers = None
