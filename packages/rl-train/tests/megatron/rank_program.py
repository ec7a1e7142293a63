"""Runs trainers in this process as one of several ranks, case after case, and writes what they gave as JSON.

Usage: python rank_program.py RANK FOLDER. FOLDER/cases.json holds the cases; FOLDER/rank0.json gets the results.
One process goes through all layouts, because importing Megatron takes most of the time.
"""

import io
import json
import logging
import os
import pickle
import shutil
import sys
import threading
import time
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from batches import make_batch

from rl_data import TrainBatch
from rl_train.algorithms import AlgorithmConfig, LossInputs, LossOutput, make_loss, sft_loss
from rl_train.errors import MemoryReleasedError, TrainConfigError, TrainerError
from rl_train.megatron.cpu import enable_cpu_support
from rl_train.testing import check_trainer
from rl_train.trainer import TrainerPart
from rl_weights import CheckpointError, checksum

torch.set_num_threads(1)
logging.disable(logging.WARNING)
enable_cpu_support()

from rl_train.megatron import checkpoint_folder  # noqa: E402
from rl_train.megatron.arguments import parse_megatron_args  # noqa: E402
from rl_train.megatron.config import MegatronTrainerConfig  # noqa: E402
from rl_train.megatron.parallel import destroy_parallel  # noqa: E402
from rl_train.megatron.trainer import MegatronTrainer  # noqa: E402

FLAGS = ["--lr", "1e-3", "--lr-decay-style", "cosine", "--lr-decay-iters", "10", "--lr-warmup-iters", "2"]


class LossOfUnknownGradient:
    """The supervised loss without what it says of its gradient before."""

    needs_entropy = False

    def __call__(self, inputs: LossInputs, /) -> LossOutput:
        return sft_loss(inputs)


LOSSES = {
    "sft": sft_loss,
    "sft_unknown": LossOfUnknownGradient(),
    "policy": make_loss(AlgorithmConfig(advantage_estimator="grpo", entropy_coef=0.01)),
}


class Case:
    """One trainer layout, on the ranks that it needs."""

    def __init__(self, rank: int, folder: Path, case: dict) -> None:
        self.case, self.rank, self.folder = case, rank, folder
        self.model = folder / case.get("model", "model")
        self.config = json.loads((self.model / "config.json").read_text())

    def trainer(self, weights: Path | None = None) -> MegatronTrainer:
        name, world_size = self.case["name"], self.case["world_size"]
        self.case["num_stores"] = self.case.get("num_stores", 0) + 1
        store = dist.FileStore(str(self.folder / f"{name}.{self.case['num_stores']}.store"), world_size)
        dist.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=world_size, timeout=timedelta(seconds=60)
        )
        arguments = parse_megatron_args([*FLAGS, *self.case["flags"]], model_config=self.config, world_size=world_size)
        return MegatronTrainer(
            arguments=arguments,
            model_config=self.config,
            weights=weights or self.model,
            loss=LOSSES[self.case.get("loss", "sft")],
            temperature=self.case.get("temperature", 1.0),
            config=MegatronTrainerConfig(**self.case.get("config", {})),
        )

    def batch(self, trainer: MegatronTrainer) -> TrainBatch:
        return make_batch(
            self.config["vocab_size"],
            num_ranks=trainer.num_data_parallel_ranks,
            num_microbatches=self.case.get("num_microbatches", 2),
            pad_to_multiple=trainer.pad_to_multiple,
        )

    def run(self) -> dict:
        return getattr(self, self.case["do"])()

    def train(self) -> dict:
        weights = self.folder / self.case["weights"] if "weights" in self.case else None
        trainer = self.trainer(weights)
        batch = self.batch(trainer)
        logprobs = trainer.compute_logprobs(batch)
        steps = [step_json(trainer.train_step(batch)) for _ in range(3)]
        trainer.export_hf(self.folder / f"{self.case['name']}.hf", self.model)
        trainer.close()
        rows = [[row.tolist() for row in rank] for rank in logprobs]
        return {"logprobs": rows, "steps": steps, "batch": batch_json(batch)}

    def fused(self) -> dict:
        """A step with fused kernels and one with plain ones; few tokens, because fused kernels are interpreted here."""
        result = {}
        for kernels in ("plain", "fused"):
            self.case["config"]["trainer_kernels"] = kernels
            trainer = self.trainer()
            batch = make_batch(
                self.config["vocab_size"],
                num_ranks=1,
                num_microbatches=1,
                pad_to_multiple=trainer.pad_to_multiple,
                lengths=(3, 9, 5),
            )
            result[kernels] = [step_json(trainer.train_step(batch)), trainer.compute_logprobs(batch)[0][0].tolist()]
            trainer.close()
        return result

    def resume(self) -> dict:
        """Four steps in one go, and again with a stop after two."""
        checkpoints = self.folder / f"{self.case['name']}.checkpoints"
        trainer = self.trainer()
        batch = self.batch(trainer)
        steps = [step_json(trainer.train_step(batch)) for _ in range(2)]
        saved = trainer.save_checkpoint(checkpoints, {"position": 7, "buffer": [1, "a"]})
        trainer.export_hf(self.folder / f"{self.case['name']}.hf", self.model)
        rng = torch.rand(2).tolist()
        steps += [step_json(trainer.train_step(batch)) for _ in range(2)]
        weights = digest(trainer)
        trainer.close()

        trainer = self.trainer()
        trainer.train_step(batch)  # a trainer with a state of its own, which the checkpoint must replace
        state = trainer.load_checkpoint(checkpoints)
        result = {
            "steps": steps,
            "saved": str(saved),
            "state": state,
            "rng": [rng, torch.rand(2).tolist()],
            "resumed_steps": [step_json(trainer.train_step(batch)) for _ in range(2)],
            "weights": [weights, digest(trainer)],
        }
        trainer.close()
        return result

    def resume_elsewhere(self) -> dict:
        """The checkpoint of another case, in another layout."""
        checkpoints = self.folder / f"{self.case['from']}.checkpoints"
        trainer = self.trainer()
        batch = self.batch(trainer)
        result: dict = {"steps": [], "refused": None}
        try:
            trainer.load_checkpoint(checkpoints)
            result["steps"] = [step_json(trainer.train_step(batch)) for _ in range(2)]
        except TrainConfigError as error:
            result["refused"] = str(error)
        trainer.close()
        trainer = self.trainer(weights=checkpoints)
        result["loss_from_weights"] = trainer.train_step(batch).loss
        trainer.close()
        return result

    def release(self) -> dict:
        """Four steps in one go, and again with memory given up in several ways after each."""
        parts = [TrainerPart.GRADIENTS], [TrainerPart.GRADIENTS, TrainerPart.OPTIMIZER], list(TrainerPart)
        trainer = self.trainer()
        batch = self.batch(trainer)
        steps = [step_json(trainer.train_step(batch)) for _ in range(4)]
        weights = digest(trainer)
        trainer.close()

        trainer = self.trainer()
        released_steps, sizes, uses, published = [], [], [], []
        for given_up in ([], *parts):
            released_steps.append(step_json(trainer.train_step(batch)))
            before = digest(trainer)
            trainer.release_memory(*given_up)
            sizes.append({part: sum(one.nbytes() for one in part_storages(trainer, part)) for part in TrainerPart})
            uses.append(asdict(trainer.memory_use()))
            if TrainerPart.PARAMETERS not in given_up:
                published.append(digest(trainer) == before)
            messages = []
            for call in (
                lambda: trainer.train_step(batch),
                lambda: trainer.tensor_source(),
                lambda: trainer.load_reference(self.model),
            ):
                try:
                    call() if given_up else None
                except MemoryReleasedError as error:
                    messages.append(str(error))
            trainer.resume_memory()
            published.append(digest(trainer) == before)
        result = {
            "steps": [steps, released_steps],
            "weights": [weights, digest(trainer)],
            "sizes": sizes,
            "uses": uses,
            "published": published,
            "messages": messages,
        }
        trainer.close()
        return result

    def die(self) -> dict:
        """The second rank dies while a checkpoint is being saved."""
        checkpoints = self.folder / "dying.checkpoints"
        trainer = self.trainer()
        batch = self.batch(trainer)
        trainer.train_step(batch)
        trainer.save_checkpoint(checkpoints, {})
        trainer.train_step(batch)
        partial = checkpoints / "iter_0000002.tmp"

        def die_with_the_save() -> None:
            while not partial.exists():
                time.sleep(0.001)
            os._exit(0)

        if self.rank == 1:
            threading.Thread(target=die_with_the_save, daemon=True).start()
        error = None
        try:
            trainer.save_checkpoint(checkpoints, {})
        except RuntimeError as caught:
            error = str(caught)
        return {
            "error": error,
            "was_begun": partial.exists(),
            "latest": str(checkpoint_folder.latest_checkpoint(checkpoints)),
        }

    def skip(self) -> dict:
        """A step whose gradient is not finite."""
        trainer = self.trainer()
        batch = self.batch(trainer)
        before = digest(trainer)
        broken = make_batch(
            self.config["vocab_size"], num_ranks=trainer.num_data_parallel_ranks, num_microbatches=2, scale=np.inf
        )
        skipped = trainer.train_step(broken)
        after = digest(trainer)
        following = trainer.train_step(batch)
        trainer.close()
        return {"skipped": step_json(skipped), "is_unchanged": before == after, "following": step_json(following)}

    def reference(self) -> dict:
        trainer = self.trainer()
        batch = self.batch(trainer)
        before = trainer.compute_logprobs(batch)
        trainer.load_reference(self.model)
        for _ in range(2):  # the learning rate of the first step is 0
            trainer.train_step(batch)
        weights = digest(trainer)
        moved = trainer.compute_logprobs(batch)
        reference = trainer.compute_reference_logprobs(batch)
        result = {
            "has_moved": not np.array_equal(moved[0][0], before[0][0]),
            "is_reference": np.array_equal(reference[0][0], before[0][0]),
            "is_own_again": digest(trainer) == weights,
        }
        trainer.close()
        return result

    def promises(self) -> dict:
        """What a trainer promises, checked by all its ranks alike."""
        trainer = self.trainer()
        folder = self.folder / "promises.checkpoints"
        check_trainer(trainer, vocab_size=self.config["vocab_size"], folder=folder)
        batch = self.batch(trainer)
        messages = []
        for call in (
            lambda: trainer.compute_reference_logprobs(batch),
            lambda: trainer.load_reference(self.model),
            lambda: trainer.tensor_source(),
            lambda: trainer.export_hf(folder / "hf", self.model),
            lambda: trainer.save_checkpoint(folder, {}),
            lambda: trainer.load_checkpoint(folder),
            lambda: trainer.memory_use(),
        ):
            try:
                call()
            except TrainerError as error:
                messages.append(str(error))
        return {"has_groups": dist.is_initialized(), "messages": messages}

    def refuse(self) -> dict:
        """Errors of what does not fit."""
        messages = []
        flags = self.case["flags"]
        self.case["flags"] = [*flags, "--recompute-granularity", "selective", "--recompute-modules", "layernorm"]
        try:
            self.trainer()
        except TrainConfigError as error:
            messages.append(str(error))
        destroy_parallel()
        self.case["flags"] = flags
        trainer = self.trainer()
        for num_ranks in (1, 3):
            batch = make_batch(self.config["vocab_size"], num_ranks=num_ranks, num_microbatches=2, pad_to_multiple=1)
            try:
                trainer.train_step(batch)
            except ValueError as error:
                messages.append(str(error))
        try:
            trainer.load_checkpoint(self.folder / "nothing")
        except TrainConfigError as error:
            messages.append(str(error))
        trainer.close()
        return {"messages": messages}

    def refuse_on_one_rank(self) -> dict:
        """Errors that concern one rank are raised on both, and the trainer goes on."""
        trainer = self.trainer()
        batch = self.batch(trainer)
        good, bad = batch.microbatches
        messages = []
        for change in (
            lambda one: {"tokens": one.tokens + self.config["vocab_size"]},
            lambda one: {"loss_weights": one.loss_weights + 1},
        ):
            broken = replace(batch, microbatches=(good, (bad[0], replace(bad[1], **change(bad[1])))))
            try:
                trainer.train_step(broken)
            except TrainConfigError as error:
                messages.append(str(error))
        occupied = self.folder / "occupied"
        occupied.mkdir(exist_ok=True)
        (occupied / "something").touch()
        try:
            trainer.export_hf(occupied, self.model)
        except CheckpointError as error:
            messages.append(str(error))
        # Rank 0 alone makes a checkpoint's folder, in which all write, and names it in the tracker file.
        unnameable = self.folder / "unnameable"
        (unnameable / checkpoint_folder.TRACKER).mkdir(parents=True, exist_ok=True)
        for checkpoints in (occupied / "something" / "checkpoints", unnameable):
            try:
                trainer.save_checkpoint(checkpoints, {})
            except TrainerError as error:
                messages.append(str(error))
        of_ranks: list = [None, None]
        dist.all_gather_object(of_ranks, messages)
        step = step_json(trainer.train_step(batch))
        trainer.close()
        return {"messages": messages, "is_same": of_ranks == [messages, messages], "step": step}

    def stranger(self) -> dict:
        """Checkpoints whose metadata, or whose objects, would run code."""
        trainer = self.trainer()
        batch = self.batch(trainer)
        messages = []
        for number, spoil in enumerate((spoil_metadata, spoil_objects)):
            checkpoints = self.folder / f"stranger.{number}"
            if self.rank == 0:
                shutil.copytree(self.folder / f"{self.case['from']}.checkpoints", checkpoints)
                spoil(checkpoint_folder.latest_checkpoint(checkpoints), self.folder / "has_run")
            dist.barrier()
            try:
                trainer.load_checkpoint(checkpoints)
            except (CheckpointError, TrainerError) as error:
                messages.append([type(error).__name__, str(error)])
            if number == 0:
                step = step_json(trainer.train_step(batch))
        trainer.close()
        try:
            self.trainer(weights=self.folder / "stranger.0")
        except CheckpointError as error:
            messages.append([type(error).__name__, str(error)])
        destroy_parallel()
        return {"messages": messages, "step": step, "has_run": (self.folder / "has_run").exists()}


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def spoil_metadata(checkpoint: Path, path: Path) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Touch(path)))


def spoil_objects(checkpoint: Path, path: Path) -> None:
    """Puts an object of the same number of bytes, or fewer, in the place of rank 0's random states."""
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())  # noqa: S301 - written by this test
    [entry] = [entry for index, entry in metadata.storage_data.items() if index.fqn == "rng_state/shard_0_2"]
    content = io.BytesIO()
    torch.save([Touch(path)], content)
    assert content.tell() <= entry.length
    file = checkpoint / entry.relative_path
    whole = bytearray(file.read_bytes())
    whole[entry.offset : entry.offset + content.tell()] = content.getvalue()
    file.write_bytes(whole)
    entry.length = content.tell()
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def part_storages(trainer: MegatronTrainer, part: TrainerPart) -> list[torch.UntypedStorage]:
    """What a part of the trainer lies on, found through Megatron's own objects."""
    parameters = list(trainer._model.parameters())
    tensors = {
        TrainerPart.PARAMETERS: parameters,
        TrainerPart.GRADIENTS: [parameter.main_grad for parameter in parameters],
        TrainerPart.OPTIMIZER: [
            moment
            for one in trainer._optimizer.chained_optimizers
            for state in one.optimizer.state.values()
            for moment in (state["exp_avg"], state["exp_avg_sq"])
        ]
        + [
            weight
            for one in trainer._optimizer.chained_optimizers
            for group in one.shard_fp32_from_float16_groups
            for weight in group
        ],
    }
    return [tensor.untyped_storage() for tensor in tensors[part]]


def step_json(step) -> dict:
    return {name: value for name, value in asdict(step).items() if name != "seconds"}


def batch_json(batch: TrainBatch) -> list:
    return [
        [{"tokens": one.tokens.tolist(), "cu_seqlens": one.cu_seqlens.tolist()} for one in rank]
        for rank in batch.microbatches
    ]


def digest(trainer: MegatronTrainer) -> dict[str, str] | None:
    """Checksums of every tensor's bytes, on the writer."""
    source = trainer.tensor_source()
    # Of copies: what numpy has looked at cannot be resized any more.
    tensors = {name: checksum(tensor.clone()) for name, tensor in source.iter_tensors()}
    return tensors if source.is_writer else None


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    results = {}
    for case in json.loads((folder / "cases.json").read_text()):
        if rank < case["world_size"]:
            started = time.perf_counter()
            results[case["name"]] = Case(rank, folder, case).run()
            results[case["name"]]["seconds"] = time.perf_counter() - started
    (folder / f"rank{rank}.json").write_text(json.dumps(results))
    # A process group that has lost a rank would wait for it at the interpreter's end.
    os._exit(0)


main()
