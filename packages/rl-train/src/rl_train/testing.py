"""A trainer in memory, and the checks that every trainer passes, real or fake.

Example:
    >>> check_trainer(FakeTrainer(vocab_size=16), vocab_size=16, folder=Path("/tmp/check"))
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rl_data import Microbatch, TrainBatch
from rl_data.json import JsonValue
from rl_train.errors import MemoryReleasedError, RLTrainError, TrainConfigError, TrainerError
from rl_train.trainer import StepResult, Trainer, TrainerPart

_FILE = "fake_trainer.json"


class FakeTrainer:
    """Learns how often each token comes, whatever stands before it: one logit for each token of the vocabulary.

    It takes real gradient steps, on -sum of loss_weights x advantage x log-probability, with advantage 1 in a
    supervised batch, where all advantages are 0.

    Args:
        vocab_size: number of tokens.
        num_data_parallel_ranks: how many ways batches must be split.
        learning_rate: of plain gradient descent.
    """

    def __init__(self, *, vocab_size: int, num_data_parallel_ranks: int = 1, learning_rate: float = 1.0) -> None:
        self._logits = np.zeros(vocab_size)
        self._num_ranks = num_data_parallel_ranks
        self._learning_rate = learning_rate
        self._step = 0
        self._is_closed = False
        self._released: set[TrainerPart] = set()

    @property
    def num_data_parallel_ranks(self) -> int:
        """How many ways `TrainBatch.microbatches` must be split."""
        return self._num_ranks

    def train_step(self, batch: TrainBatch) -> StepResult:
        """See `Trainer.train_step`."""
        self._require(*TrainerPart)
        rows = self._rows(batch)
        is_supervised = not any(row.advantages.any() for row in rows)
        log_probs = self._log_softmax()
        loss, gradient = 0.0, np.zeros_like(self._logits)
        for row in rows:
            factors = row.loss_weights.astype(np.float64) * (1.0 if is_supervised else row.advantages)
            loss -= float((factors * log_probs[row.tokens]).sum())
            gradient -= np.bincount(row.tokens, weights=factors, minlength=len(gradient))
            gradient += factors.sum() * np.exp(log_probs)
        grad_norm = float(np.linalg.norm(gradient))
        is_finite = bool(np.isfinite(grad_norm))
        if is_finite:
            self._logits -= self._learning_rate * gradient
        self._step += 1
        return StepResult(
            step=self._step,
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=self._learning_rate,
            is_skipped=not is_finite,
            metrics={},
            seconds={"forward_backward": 0.0, "optimizer": 0.0},
        )

    def compute_logprobs(self, batch: TrainBatch) -> list[list[NDArray[np.float32]]]:
        """See `Trainer.compute_logprobs`."""
        self._require(TrainerPart.PARAMETERS)
        self._rows(batch)
        log_probs = self._log_softmax()

        def of_row(row: Microbatch) -> NDArray[np.float32]:
            values = log_probs[row.tokens].astype(np.float32)
            values[row.cu_seqlens[:-1]] = 0
            return values

        return [[of_row(row) for row in rank] for rank in batch.microbatches]

    def save_checkpoint(self, folder: Path, state: Mapping[str, JsonValue]) -> Path:
        """See `Trainer.save_checkpoint`."""
        self._check_open()
        self._require(TrainerPart.OPTIMIZER, TrainerPart.PARAMETERS)
        checkpoint = folder / f"iter_{self._step:07d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        content = {"step": self._step, "logits": self._logits.tolist(), "state": dict(state)}
        (checkpoint / _FILE).write_text(json.dumps(content))
        (folder / "latest").write_text(checkpoint.name)
        return checkpoint

    def load_checkpoint(self, folder: Path) -> Mapping[str, JsonValue]:
        """See `Trainer.load_checkpoint`."""
        self._check_open()
        self._require(*TrainerPart)
        if not (folder / "latest").is_file():
            raise TrainConfigError(f"{folder}: no checkpoint")
        content = json.loads((folder / (folder / "latest").read_text() / _FILE).read_text())
        self._step, self._logits = content["step"], np.array(content["logits"])
        return content["state"]

    def release_memory(self, *parts: TrainerPart) -> None:
        """See `Trainer.release_memory`."""
        self._check_open()
        self._released.update(parts)

    def resume_memory(self) -> None:
        """See `Trainer.resume_memory`."""
        self._check_open()
        self._released.clear()

    def close(self) -> None:
        """See `Trainer.close`."""
        self._is_closed = True

    def _log_softmax(self) -> NDArray[np.float64]:
        return self._logits - np.logaddexp.reduce(self._logits)

    def _rows(self, batch: TrainBatch) -> list[Microbatch]:
        self._check_open()
        if len(batch.microbatches) != self._num_ranks:
            raise TrainConfigError(
                f"train batch: expected micro-batches for {self._num_ranks} data-parallel ranks, "
                f"got {len(batch.microbatches)}"
            )
        return [row for rank in batch.microbatches for row in rank]

    def _require(self, *parts: TrainerPart) -> None:
        if missing := self._released & set(parts):
            raise MemoryReleasedError(f"{' and '.join(sorted(missing))} are released: resume_memory comes first")

    def _check_open(self) -> None:
        if self._is_closed:
            raise TrainerError("the trainer was closed")


def sample_batch(
    vocab_size: int, *, num_ranks: int, num_microbatches: int = 2, tokens_per_sequence: int = 6, seed: int = 0
) -> TrainBatch:
    """Supervised rows of three sequences each, of which all tokens but each first one are trained."""
    rng = np.random.default_rng(seed)
    num_sequences = 3
    num_rows = num_ranks * num_microbatches
    num_loss_tokens = num_rows * num_sequences * (tokens_per_sequence - 1)

    def row() -> Microbatch:
        position_ids = np.tile(np.arange(tokens_per_sequence), num_sequences)
        zeros = np.zeros(len(position_ids), dtype=np.float32)
        return Microbatch(
            # Two tokens in three are 1, so that there is something to learn.
            tokens=np.where(rng.random(len(position_ids)) < 2 / 3, 1, rng.integers(0, vocab_size, len(position_ids))),
            position_ids=position_ids,
            cu_seqlens=np.arange(0, len(position_ids) + 1, tokens_per_sequence, dtype=np.int32),
            loss_weights=np.where(position_ids > 0, 1 / num_loss_tokens, 0).astype(np.float32),
            advantages=zeros,
            rollout_logprobs=zeros,
        )

    return TrainBatch(
        microbatches=tuple(tuple(row() for _ in range(num_microbatches)) for _ in range(num_ranks)),
        num_samples=num_rows * num_sequences,
        num_loss_tokens=num_loss_tokens,
        num_tokens=num_rows * num_sequences * tokens_per_sequence,
    )


def check_trainer(trainer: Trainer, *, vocab_size: int, folder: Path) -> None:
    """What `Trainer` promises: `check_training`, then `check_closing`; see them."""
    check_training(trainer, vocab_size=vocab_size, folder=folder)
    check_closing(trainer, vocab_size=vocab_size)


def check_training(trainer: Trainer, *, vocab_size: int, folder: Path) -> None:
    """What `Trainer` promises of one that is open. The trainer is trained for some steps.

    Args:
        trainer: freshly made.
        vocab_size: of its model.
        folder: for checkpoints; must not hold any.

    Raises:
        AssertionError: if a promise is broken.
    """
    assert isinstance(trainer, Trainer), f"{type(trainer).__name__} lacks a method of Trainer"
    num_ranks = trainer.num_data_parallel_ranks
    assert num_ranks >= 1
    batch = sample_batch(vocab_size, num_ranks=num_ranks)
    _check_logprobs(trainer.compute_logprobs(batch), batch)
    _raises(lambda: trainer.load_checkpoint(folder / "nothing"), "loading a checkpoint that is not there")
    split_otherwise = sample_batch(vocab_size, num_ranks=num_ranks + 1)
    _raises(lambda: trainer.train_step(split_otherwise), "a batch for another number of ranks")

    first = trainer.train_step(batch)
    _check_step(first, 1)
    state: dict[str, JsonValue] = {"position": 12, "nested": {"names": ["a", "b"], "none": None}}
    saved = trainer.save_checkpoint(folder, state)
    assert saved.is_dir(), f"save_checkpoint returned {saved}, which is no folder"
    assert folder in saved.parents, f"save_checkpoint wrote to {saved}, outside of {folder}"
    later = [trainer.train_step(batch) for _ in range(3)]
    for number, step in enumerate(later):
        _check_step(step, number + 2)
    assert later[-1].loss < first.loss, f"the loss did not fall: {first.loss}, then {[step.loss for step in later]}"
    logprobs = trainer.compute_logprobs(batch)
    assert _total(logprobs) != _total(trainer.compute_logprobs(sample_batch(vocab_size, num_ranks=num_ranks, seed=1)))

    assert trainer.load_checkpoint(folder) == state, "the caller's state came back otherwise"
    _check_memory(trainer, batch, folder)
    again = [trainer.train_step(batch) for _ in range(3)]
    for step, expected in zip(again, later, strict=True):
        assert step.step == expected.step
        _check_equal(step.loss, expected.loss, "the loss after a resume")
        _check_equal(step.learning_rate, expected.learning_rate, "the learning rate after a resume")
    _check_equal(_total(trainer.compute_logprobs(batch)), _total(logprobs), "log-probabilities after a resume")


def check_closing(trainer: Trainer, *, vocab_size: int) -> None:
    """After `close` every call fails, and closing again does nothing; also where the trainer has failed before.

    Raises:
        AssertionError: if not.
    """
    batch = sample_batch(vocab_size, num_ranks=trainer.num_data_parallel_ranks)
    trainer.close()
    trainer.close()
    _raises(lambda: trainer.train_step(batch), "a step of a closed trainer")
    _raises(lambda: trainer.compute_logprobs(batch), "a forward pass of a closed trainer")
    _raises(lambda: trainer.release_memory(TrainerPart.GRADIENTS), "releasing the memory of a closed trainer")
    _raises(trainer.resume_memory, "taking back the memory of a closed trainer")


def _check_memory(trainer: Trainer, batch: TrainBatch, folder: Path) -> None:
    """Leaves the trainer as it was."""
    before = _total(trainer.compute_logprobs(batch))
    trainer.resume_memory()  # nothing was given up: nothing happens
    trainer.release_memory(TrainerPart.GRADIENTS, TrainerPart.OPTIMIZER)
    _check_equal(_total(trainer.compute_logprobs(batch)), before, "log-probabilities without the optimizer in memory")
    _needs_memory(lambda: trainer.train_step(batch), "a step without the optimizer in memory")
    _needs_memory(lambda: trainer.save_checkpoint(folder / "never", {}), "a checkpoint without the optimizer in memory")
    trainer.release_memory(TrainerPart.OPTIMIZER, TrainerPart.PARAMETERS)
    _needs_memory(lambda: trainer.compute_logprobs(batch), "a forward pass without weights")
    trainer.resume_memory()
    _check_equal(_total(trainer.compute_logprobs(batch)), before, "log-probabilities after memory was taken back")


def _needs_memory(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except MemoryReleasedError:
        return
    raise AssertionError(f"{what} raised no MemoryReleasedError")


def _check_step(result: StepResult, number: int) -> None:
    assert result.step == number, f"expected step {number}, got {result.step}"
    assert not result.is_skipped
    assert np.isfinite([result.loss, result.grad_norm, *result.metrics.values()]).all(), result
    assert result.grad_norm > 0
    assert result.learning_rate > 0
    assert {"forward_backward", "optimizer"} <= result.seconds.keys()


def _check_logprobs(logprobs: Sequence[Sequence[NDArray[np.float32]]], batch: TrainBatch) -> None:
    assert len(logprobs) == len(batch.microbatches)
    for rows, expected in zip(logprobs, batch.microbatches, strict=True):
        assert len(rows) == len(expected)
        for row, microbatch in zip(rows, expected, strict=True):
            assert row.shape == (microbatch.num_tokens,), f"expected [{microbatch.num_tokens}], got {row.shape}"
            assert row.dtype == np.float32
            is_first = microbatch.position_ids == 0
            assert (row[is_first] == 0).all(), "a sequence's first token has a log-probability"
            assert (row[~is_first] < 0).all()


def _total(logprobs: Sequence[Sequence[NDArray[np.float32]]]) -> float:
    return float(sum(row.astype(np.float64).sum() for rows in logprobs for row in rows))


def _check_equal(actual: float, expected: float, what: str) -> None:
    # Same numbers in the same order: equal but for kernels on GPUs that add in no fixed order.
    assert np.isclose(actual, expected, rtol=1e-5, atol=0), f"{what}: expected {expected}, got {actual}"


def _raises(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except RLTrainError:
        return
    raise AssertionError(f"{what} raised no error of rl-train")
