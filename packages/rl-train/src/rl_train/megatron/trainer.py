"""One rank of a Megatron-Core trainer on packed micro-batches."""

# pyright: standard
# Megatron-Core is annotated in part only.

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from numpy.typing import NDArray
from torch import Tensor

from rl_data import Microbatch, TrainBatch
from rl_data.json import JsonValue
from rl_train.algorithms import LossFunction
from rl_train.errors import TrainConfigError, TrainerError
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.attention import PackedCoreAttention
from rl_train.megatron.batch_check import check_batch
from rl_train.megatron.checkpoint import Checkpointer
from rl_train.megatron.config import MegatronTrainerConfig
from rl_train.megatron.export import MegatronTensorSource
from rl_train.megatron.hf_folder import export_hf
from rl_train.megatron.kernels import choose_kernels
from rl_train.megatron.layer_settings import LayerSettings
from rl_train.megatron.memory import RankMemory
from rl_train.megatron.model import build_model, forward, module_of, wrap_model
from rl_train.megatron.optimizer import build_optimizer, build_scheduler, gradient_norm, learning_rate, step_if_finite
from rl_train.megatron.parallel import destroy_parallel, initialize_parallel, pipeline_group, same_outcome
from rl_train.megatron.phase_clock import PhaseClock
from rl_train.megatron.rank_batch import ModelSettings, RankMicrobatch, on_rank, predicted_tokens, trained_tokens
from rl_train.megatron.recompute_switch import RecomputeSwitch
from rl_train.megatron.reference import ReferenceWeights
from rl_train.megatron.weight_gradient import begin_gradients
from rl_train.megatron.weights import load_weights
from rl_train.trainer import MemoryUse, StepResult, TrainerPart

type LossTriple = tuple[Tensor, Tensor, dict[str, Tensor]]
"""What Megatron's schedules take from a loss: the loss, a token count that our gradients do not need, and sums."""
type Summarize = Callable[[RankMicrobatch, tuple[Tensor, Tensor]], LossTriple]
"""Turns the last stage's output for one micro-batch into a loss triple."""


class MegatronTrainer:
    """A policy trained with Megatron-Core: tensor, sequence, pipeline and data parallel, distributed optimizer.

    Satisfies `rl_train.Trainer`. Every rank of the world constructs one and makes the same calls in the same order.
    `torch.distributed` must be initialised before; on CPU ranks call `rl_train.megatron.cpu.enable_cpu_support()`
    before importing this module.

    Args:
        arguments: Megatron's flags, resolved for this model and number of ranks.
        model_config: the model's config.json.
        weights: a Hugging Face folder or a folder of Megatron checkpoints, whose weights training starts from.
        loss: of a micro-batch; see `rl_train.algorithms`.
        temperature: logits are divided by it, as they were when the tokens were drawn.
        config: settings of our own.

    Raises:
        TrainConfigError: if the arguments do not fit the world, or this trainer cannot honour them.
    """

    def __init__(
        self,
        *,
        arguments: MegatronArguments,
        model_config: Mapping[str, JsonValue],
        weights: Path,
        loss: LossFunction,
        temperature: float = 1.0,
        config: MegatronTrainerConfig | None = None,
    ) -> None:
        chosen = config or MegatronTrainerConfig()
        if not temperature > 0:
            raise TrainConfigError(f"trainer: expected a temperature above 0, got {temperature}")
        arguments.check_recompute_policy(chosen.recompute_policy)
        args = arguments.namespace()
        self._loss = loss
        self._clip_grad: float = args.clip_grad
        self._model_config = model_config
        device = initialize_parallel(args)
        kernels = choose_kernels(chosen.trainer_kernels)
        self._settings = ModelSettings(temperature, chosen.log_probs_chunk_size, args.vocab_size, device, kernels)
        self._pad_to_multiple: int = args.tensor_model_parallel_size if args.sequence_parallel else 1
        layers = LayerSettings(kernels)
        module = build_model(args, layers)
        self._recompute = RecomputeSwitch(
            chosen.recompute_policy, args, module.config, layers, chosen.log_probs_chunk_size
        )
        load_weights(module, weights, model_config)
        self._model = wrap_model(args, module)
        self._optimizer = build_optimizer(args, self._model, kernels)
        self._scheduler = build_scheduler(args, self._optimizer)
        self._checkpointer = Checkpointer(self._model, self._optimizer, self._scheduler)
        self._memory = RankMemory(self._model, self._optimizer)
        self._reference: ReferenceWeights | None = None
        self._num_data_parallel_ranks: int = parallel_state.get_data_parallel_world_size()
        self._num_steps = 0
        self._is_closed = False

    @property
    def num_data_parallel_ranks(self) -> int:
        """How many ways `TrainBatch.microbatches` must be split."""
        return self._num_data_parallel_ranks

    @property
    def pad_to_multiple(self) -> int:
        """What the tokens of every micro-batch must be a multiple of, for sequence parallelism to split them."""
        return self._pad_to_multiple

    @property
    def num_steps(self) -> int:
        """Optimizer steps taken since the start of training."""
        return self._num_steps

    @property
    def chosen(self) -> Mapping[str, JsonValue]:
        """What was chosen for this machine: kernels, attention, and what the last step computed again."""
        plan = self._recompute.plan
        attention = next((one.kernel for one in self._model.modules() if isinstance(one, PackedCoreAttention)), None)
        return {
            "kernels": self._settings.kernels.name,
            "attention": "padded" if attention is None else attention.name,
            "recompute": None if plan is None else dict(plan._asdict()),
        }

    def train_step(self, batch: TrainBatch) -> StepResult:
        """One optimizer step on the whole batch. Collective.

        The loss is the sum over all micro-batches of all ranks, and so is its gradient: nothing is averaged. Where
        the gradient is not finite, weights, optimizer and schedule stay as they are.

        Raises:
            TrainConfigError: on every rank, if the batch is not what this trainer needs. Nothing has changed then.
        """
        self._require("a training step", *TrainerPart)
        clock = PhaseClock(self._settings.device)
        own = self._own_microbatches(batch, is_trained=True)
        items = [on_rank(one, trained_tokens(one), self._settings, self._loss) for one in own]
        self._recompute.prepare(max(one.num_tokens for rank in batch.microbatches for one in rank))
        begin_gradients(self._model, module_of(self._model))
        self._optimizer.zero_grad()
        sums = self._run(items, self._loss_of, forward_only=False)
        grad_norm = gradient_norm(self._optimizer)
        clock.mark("forward_backward")
        rate = learning_rate(self._optimizer)
        outcome = step_if_finite(self._optimizer, self._clip_grad, grad_norm)
        clock.mark("optimizer")
        loss, metrics = self._reduce(sums, batch.num_loss_tokens)
        if not outcome.is_skipped:
            self._scheduler.step(increment=1)
        self._num_steps += 1
        return StepResult(
            step=self._num_steps,
            loss=loss,
            grad_norm=outcome.grad_norm,
            learning_rate=rate,
            is_skipped=outcome.is_skipped,
            metrics=metrics,
            seconds=clock.seconds(),
        )

    def compute_logprobs(self, batch: TrainBatch) -> list[list[NDArray[np.float32]]]:
        """[R][M][T] log-probability of each token given those before it, 0 for a sequence's first. Collective.

        Every rank gets the log-probabilities of all.
        """
        own = self.compute_own_logprobs(batch)
        gathered: list[tuple[int, list[NDArray[np.float32]]] | None] = [None] * dist.get_world_size()
        rank = parallel_state.get_data_parallel_rank()
        dist.all_gather_object(gathered, None if own is None else (rank, own))
        by_rank = dict(one for one in gathered if one is not None)
        return [by_rank[rank] for rank in range(self.num_data_parallel_ranks)]

    def compute_own_logprobs(self, batch: TrainBatch) -> list[NDArray[np.float32]] | None:
        """[M][T] of this rank's data-parallel rank; None on all but one rank of those that share it. Collective."""
        self._require("a forward pass", TrainerPart.PARAMETERS)
        own = self._own_microbatches(batch, is_trained=False)
        items = [on_rank(one, predicted_tokens(one), self._settings, None) for one in own]
        self._model.eval()
        try:
            with torch.no_grad():
                rows = self._run(items, _logprobs_of, forward_only=True)
        finally:
            self._model.train()
        return [row["logprobs"].cpu().numpy() for row in rows] if self._speaks_for_data_parallel_rank else None

    def load_reference(self, weights: Path) -> None:
        """Keeps a second set of weights in host memory for `compute_reference_logprobs`. Collective."""
        self._require("loading a reference policy", TrainerPart.PARAMETERS)
        self._reference = ReferenceWeights.load(self._model, weights, self._model_config)

    def compute_reference_logprobs(self, batch: TrainBatch) -> list[list[NDArray[np.float32]]]:
        """`compute_logprobs` under the weights of `load_reference`. Collective.

        Raises:
            TrainerError: if there are none.
        """
        if self._reference is None:
            raise TrainerError("reference log-probabilities were asked for, but load_reference was not called")
        self._require("a forward pass", TrainerPart.PARAMETERS)
        with self._reference.in_place():
            return self.compute_logprobs(batch)

    def tensor_source(self) -> MegatronTensorSource:
        """The present weights under their Hugging Face names, for `rl_weights.Publisher`. Collective.

        It reads them anew each time, and only where `require_weights` does nothing.
        """
        self.require_weights("reading the weights")
        return MegatronTensorSource(self._model, self._model_config)

    def require_weights(self, doing: str) -> None:
        """Does nothing while the weights can be read. For who keeps a `tensor_source`, before each use.

        Raises:
            MemoryReleasedError: beginning with `doing`, if they are released.
            TrainerError: likewise, if the trainer was closed.
        """
        self._require(doing, TrainerPart.PARAMETERS)

    def export_hf(self, folder: Path, template: Path) -> Path:
        """Writes the present weights as a Hugging Face model, with config and tokenizer of `template`. Collective.

        Raises:
            CheckpointError: on every rank, if there is something at `folder` already, or the disk refuses.
        """
        source = self.tensor_source()
        with same_outcome():
            export_hf(source, folder, template)
        return folder

    def save_checkpoint(self, folder: Path, state: Mapping[str, JsonValue]) -> Path:
        """Writes model, optimizer, scheduler and random state, and `state`, atomically. Collective.

        Returns the folder of this step's checkpoint, `iter_0000012` of step 12.
        """
        self._require("a checkpoint", TrainerPart.OPTIMIZER, TrainerPart.PARAMETERS)
        return self._checkpointer.save(Path(folder), self._num_steps, state)

    def load_checkpoint(self, folder: Path) -> Mapping[str, JsonValue]:
        """Restores what `save_checkpoint` wrote last in `folder` and returns the caller's `state`. Collective.

        Raises:
            TrainConfigError: on every rank, if there is no complete checkpoint that fits. Nothing has changed then.
            CheckpointError: likewise, if its metadata are damaged or more than metadata.
        """
        self._require("a checkpoint", *TrainerPart)
        self._num_steps, state = self._checkpointer.load(Path(folder))
        return state

    def release_memory(self, *parts: TrainerPart) -> None:
        """Gives up the parts that are still there, so that an engine can use their memory. Collective.

        Raises:
            HostMemoryError: if the host has no room for them.
        """
        self._require("releasing memory")
        self._memory.release(parts)

    def resume_memory(self) -> None:
        """Takes back everything that was given up, as it was. Collective."""
        self._require("taking memory back")
        self._memory.resume()

    def memory_use(self) -> MemoryUse:
        """What this rank holds now and, on a GPU, held at most since the last call."""
        self._require("measuring memory")
        return self._memory.use()

    def close(self) -> None:
        """Takes the process groups apart; every later call but this one raises TrainerError. May be called twice."""
        self._is_closed = True
        destroy_parallel()

    def _require(self, what: str, *parts: TrainerPart) -> None:
        """Raises an error that begins with `what` unless the trainer is open and has these parts in memory."""
        if self._is_closed:
            raise TrainerError(f"{what} was asked of a trainer that was closed")
        self._memory.require(what, *parts)

    @property
    def _speaks_for_data_parallel_rank(self) -> bool:
        is_last = parallel_state.is_pipeline_last_stage()
        return is_last and parallel_state.get_tensor_model_parallel_rank() == 0

    def _own_microbatches(self, batch: TrainBatch, *, is_trained: bool) -> Sequence[Microbatch]:
        check_batch(
            batch,
            num_ranks=self.num_data_parallel_ranks,
            pad_to_multiple=self._pad_to_multiple,
            vocab_size=self._settings.vocab_size,
            is_trained=is_trained,
        )
        return batch.microbatches[parallel_state.get_data_parallel_rank()]

    def _run(
        self, items: Sequence[RankMicrobatch], summarize: Summarize, *, forward_only: bool
    ) -> list[dict[str, Tensor]]:
        """What `summarize` gives for each micro-batch, on the last pipeline stage; empty elsewhere."""

        def forward_step(
            iterator: Iterator[RankMicrobatch], model: torch.nn.Module
        ) -> tuple[Tensor | tuple[Tensor, Tensor], partial[LossTriple]]:
            item = next(iterator)
            return forward(model, item.tokens, item.row, item.request), partial(summarize, item)

        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(items),
            model=[self._model],
            num_microbatches=len(items),
            # Lengths vary and are exchanged between the stages.
            seq_length=1,
            micro_batch_size=1,
            forward_only=forward_only,
        )

    def _loss_of(self, item: RankMicrobatch, output: tuple[Tensor, Tensor]) -> LossTriple:
        result = self._loss(item.loss_inputs(*output))
        sums = {"loss": result.loss.detach(), **result.metrics}
        return result.loss, _no_tokens(item), sums

    def _reduce(self, sums: Sequence[Mapping[str, Tensor]], num_loss_tokens: int) -> tuple[float, dict[str, float]]:
        """Loss and metrics of the whole step, on every rank."""
        names: list[list[str] | None] = [sorted(sums[0]) if sums else None]
        pipeline = pipeline_group()
        if pipeline.size() > 1:
            last = parallel_state.get_pipeline_model_parallel_last_rank()
            assert isinstance(last, int)
            dist.broadcast_object_list(names, src=last, group=pipeline)
        assert names[0] is not None
        total = torch.zeros(len(names[0]), dtype=torch.float64, device=self._settings.device)
        if self._speaks_for_data_parallel_rank:
            for one in sums:
                total += torch.stack([one[name].double() for name in names[0]])
        dist.all_reduce(total)
        values = dict(zip(names[0], total.tolist(), strict=True))
        return values.pop("loss"), {name: value / num_loss_tokens for name, value in values.items()}


def _logprobs_of(item: RankMicrobatch, output: tuple[Tensor, Tensor]) -> LossTriple:
    logprobs = item.spread(output[0])
    return logprobs.sum(), _no_tokens(item), {"logprobs": logprobs}


def _no_tokens(item: RankMicrobatch) -> Tensor:
    return torch.zeros((), dtype=torch.int32, device=item.tokens.device)
