"""Trainers whose ranks are Ray actors."""

import json
import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from rl_train.algorithms import LossFunction, LossInputs, LossOutput, sft_loss
from rl_train.errors import MemoryReleasedError, TrainConfigError, TrainerDeadlineError, TrainerError
from rl_train.megatron.arguments import MegatronArguments, parse_megatron_args
from rl_train.megatron.config import TrainerGroupConfig
from rl_train.megatron.rank import TrainerSpec
from rl_train.testing import check_closing, check_training, sample_batch
from rl_train.trainer import TrainerPart
from rl_weights import TensorSpec

if TYPE_CHECKING:
    from rl_train.ray import TrainerGroup

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
# Of the shared group: far more than a step of the tiny model takes on a busy machine, but one test waits for its end.
STEP_TIMEOUT_S = 15.0
FLAGS = ["--lr", "1e-3", "--lr-decay-style", "constant"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return folder / "model"


def arguments(model: Path, world_size: int, *flags: str) -> MegatronArguments:
    config = json.loads((model / "config.json").read_text())
    return parse_megatron_args([*FLAGS, *flags], model_config=config, world_size=world_size)


def spec(model: Path, arguments: MegatronArguments, loss: LossFunction = sft_loss) -> TrainerSpec:
    config = json.loads((model / "config.json").read_text())
    return TrainerSpec(arguments=arguments, model_config=config, weights=model, loss=loss)


def loss_that_fails(on_rank: int, when_exists: Path) -> LossFunction:
    """The supervised loss, until there is something at the path."""

    class Loss:
        needs_entropy = False

        def __call__(self, inputs: LossInputs, /) -> LossOutput:
            import torch

            if torch.distributed.get_rank() == on_rank and when_exists.exists():
                raise ZeroDivisionError("a loss that fails on purpose")
            return sft_loss(inputs)

    return Loss()


@pytest.fixture(scope="module")
def group(cluster: None, model: Path) -> Iterator["TrainerGroup"]:
    """Two data-parallel ranks, for tests that leave them whole and, last, the one after which they answer no more."""
    from rl_train.ray import TrainerGroup

    config = TrainerGroupConfig(trainer_step_timeout_s=STEP_TIMEOUT_S)
    group = TrainerGroup.start(spec(model, arguments(model, 2)), world_size=2, config=config)
    yield group
    group.close()


class ActorSink:
    """A weight sink that keeps what comes in an actor of its own, so that a trainer's rank can be handed it."""

    def __init__(self, *, fail_at: str | None = None, slow_s: float = 0.0) -> None:
        import ray

        from rl_weights.testing import InMemorySink

        class Sink(InMemorySink):
            def load_bucket(self, specs: Sequence[TensorSpec], buffer: np.ndarray, checksum: str) -> None:
                time.sleep(slow_s)
                super().load_bucket(specs, buffer, checksum)

            def all_tensors(self) -> dict:
                return {name: tensor.numpy() for name, tensor in self.tensors.items()}

        self.actor = ray.remote(num_cpus=0)(Sink).remote("engine 3", fail_at=fail_at)

    def _get(self, reference: object) -> object:
        import ray

        return ray.get(reference, timeout=30)

    def begin_update(self, version: int) -> None:
        self._get(self.actor.begin_update.remote(version))

    def load_bucket(self, specs: object, buffer: object, checksum: str) -> None:
        self._get(self.actor.load_bucket.remote(specs, buffer, checksum))

    def commit_update(self, version: int, num_tensors: int) -> None:
        self._get(self.actor.commit_update.remote(version, num_tensors))

    def weight_version(self) -> int | None:
        return self._get(self.actor.weight_version.remote())

    def all_tensors(self) -> dict:
        return self._get(self.actor.all_tensors.remote())


def rank_processes() -> list[psutil.Process]:
    """Processes of trainer ranks that this one started and that still run."""

    def is_rank(process: psutil.Process) -> bool:
        try:
            return "_RankActor" in " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return False

    return [process for process in psutil.Process().children(recursive=True) if is_rank(process)]


def wait_until(condition, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_a_group_of_two_ranks_keeps_the_promises_of_a_trainer_until_a_rank_raises(
    cluster: None, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from rl_train.ray import TrainerGroup

    chosen = spec(model, arguments(model, 2), loss_that_fails(on_rank=1, when_exists=tmp_path / "fail"))
    started = time.monotonic()
    group = TrainerGroup.start(chosen, world_size=2)
    assert time.monotonic() - started < 5, "start waited for the ranks"
    try:
        assert group.wait_ready(120) > 0
        check_training(group, vocab_size=101, folder=tmp_path / "checkpoints")
        (tmp_path / "fail").touch()
        with pytest.raises(TrainerError) as caught:
            group.train_step(sample_batch(101, num_ranks=2))
        with pytest.raises(TrainerError, match="trainer rank 1 failed"):
            group.compute_logprobs(sample_batch(101, num_ranks=2))
    finally:
        check_closing(group, vocab_size=101)
    assert wait_until(lambda: not rank_processes()), "ranks outlived close()"
    # All that Python shows of an error that nobody catches, and all that Ray shows by itself.
    shown = "".join(traceback.format_exception(caught.value)) + "".join(capfd.readouterr())
    assert shown.count("trainer rank 1 failed while training:") == 1
    assert shown.count("ZeroDivisionError: a loss that fails on purpose") == 1, shown
    assert shown.count(", in _loss_of\n") == 1, "the rank's own traceback"


def test_pipeline_stages_publish_and_a_killed_rank_is_named(cluster: None, model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from rl_train.ray import TrainerGroup
    from rl_weights import SyncError

    group = TrainerGroup.start(spec(model, arguments(model, 2, "--pipeline-model-parallel-size", "2")), world_size=2)
    try:
        sinks = [ActorSink(), ActorSink()]
        report = group.publish(1, sinks)
        published = load_file(model / "model.safetensors")
        assert report.num_tensors == len(published)
        for sink in sinks:
            assert sink.weight_version() == 1
            for name, tensor in sink.all_tensors().items():
                assert np.array_equal(tensor, published[name]), name

        with pytest.raises(SyncError, match="load_bucket"):
            group.publish(2, [ActorSink(fail_at="load_bucket")], bucket_bytes=4096)
        batch = sample_batch(101, num_ranks=1)
        group.train_step(batch)
        group.publish(3, sinks)
        exported = load_file(group.export_hf(tmp_path / "hf", model) / "model.safetensors")
        assert exported.keys() == published.keys()
        for name, tensor in sinks[1].all_tensors().items():
            assert np.array_equal(tensor, exported[name]), name

        victim = rank_processes()[1]
        os.kill(victim.pid, signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(TrainerError, match=r"trainer rank [01] .*died while training"):
            group.train_step(batch)
        assert time.monotonic() - started < 15
        with pytest.raises(TrainerError, match="died while training"):
            group.compute_logprobs(batch)
    finally:
        group.close()


def test_errors_in_what_was_asked_for_leave_the_group_whole(group: "TrainerGroup", model: Path, tmp_path: Path) -> None:
    from rl_weights import CheckpointError, SyncConfig, SyncError

    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "something").touch()
    batch = sample_batch(101, num_ranks=2)
    own, other = batch.microbatches
    broken = replace(batch, microbatches=(own, (replace(other[0], tokens=other[0].tokens + 101), *other[1:])))
    losses = [group.train_step(batch).loss]
    with pytest.raises(TrainConfigError, match="data-parallel rank 1: expected token ids from 0 to 100"):
        group.train_step(broken)
    losses.append(group.train_step(batch).loss)
    with pytest.raises(CheckpointError, match="occupied"):
        group.export_hf(tmp_path / "occupied", model)
    losses.append(group.train_step(batch).loss)
    with pytest.raises(TrainConfigError, match="no complete checkpoint"):
        group.load_checkpoint(tmp_path / "nothing")
    losses.append(group.train_step(batch).loss)
    with pytest.raises(SyncError, match=r"no answer within 0\.5 s"):
        group.publish(1, [ActorSink(slow_s=3.0)], deadline_s=0.5)
    losses.append(group.train_step(batch).loss)
    sink = ActorSink(slow_s=1.0)
    group.publish(2, [sink], deadline_s=60.0)  # its actor may have to start first
    assert sink.weight_version() == 2
    group.release_memory(TrainerPart.PARAMETERS)
    with pytest.raises(MemoryReleasedError, match="publishing version 3 needs parameters"):
        group.publish(3, [sink], deadline_s=60.0)  # to the same sinks, whose plan is there
    to_disk = SyncConfig(transport="disk", folder=tmp_path / "sync")
    with pytest.raises(MemoryReleasedError, match="reading the weights needs parameters"):
        group.publish(3, [sink], deadline_s=60.0, sync=to_disk)
    group.resume_memory()
    group.publish(3, [sink], deadline_s=60.0)  # the plan that the failed one took the place of is made again
    assert sink.weight_version() == 3
    losses.append(group.train_step(batch).loss)
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


def test_a_rank_that_does_not_answer_is_named_with_what_it_was_doing(group: "TrainerGroup") -> None:
    group.wait_ready()
    step = group.train_step(sample_batch(101, num_ranks=2)).step
    stopped = rank_processes()[-1]
    stopped.suspend()
    try:
        with pytest.raises(TrainerDeadlineError) as caught:
            group.train_step(sample_batch(101, num_ranks=2))
    finally:
        stopped.resume()
    message = str(caught.value)
    assert f"no answer within {STEP_TIMEOUT_S:g} s while training" in message
    assert f"training step {step + 1}, at" in message, message
    assert "does not say what it is doing" in message


def test_a_missing_model_is_named(cluster: None, model: Path, tmp_path: Path) -> None:
    from rl_train.ray import TrainerGroup

    config = json.loads((model / "config.json").read_text())
    nowhere = TrainerSpec(arguments=arguments(model, 1), model_config=config, weights=tmp_path, loss=sft_loss)
    group = TrainerGroup.start(nowhere, world_size=1)
    try:
        with pytest.raises(TrainConfigError, match=str(tmp_path)):
            group.wait_ready()
    finally:
        group.close()


def test_sizes_that_do_not_fit_are_refused_before_an_actor_starts(model: Path) -> None:
    from rl_train.ray import TrainerGroup

    with pytest.raises(TrainConfigError, match="parsed for 2 ranks, got 3"):
        TrainerGroup.start(spec(model, arguments(model, 2)), world_size=3)
    with pytest.raises(TrainConfigError, match="expected 2 bundle indices, got 1"):
        TrainerGroup.start(spec(model, arguments(model, 2)), world_size=2, bundle_indices=[0])
