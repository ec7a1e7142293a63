"""A trainer rank in a process of its own, whoever started the process.

Importing this imports neither torch nor Megatron: the process sets its environment first.
"""

import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_data import TrainBatch
from rl_data.json import JsonValue
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.config import MegatronTrainerConfig
from rl_train.trainer import MemoryUse, StepResult, TrainerPart

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

    from rl_train.algorithms import LossFunction
    from rl_train.megatron.trainer import MegatronTrainer
    from rl_weights import Publisher, PublishReport, SyncConfig, WeightSink

LOOPBACK = "127.0.0.1"
_FRAMES_SHOWN = 4


class Address(NamedTuple):
    """Where the ranks of a trainer on several machines meet."""

    host: str
    port: int


type MeetingPlace = Address | Path
"""Where the ranks of a trainer meet: on one machine a file that only this user can open, and no port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSpec:
    """What every rank of a trainer is made from. It can be pickled."""

    arguments: MegatronArguments
    model_config: Mapping[str, JsonValue]
    weights: Path
    loss: "LossFunction"
    temperature: float = 1.0
    reference: Path | None = None
    """Weights of the reference policy, if it is needed."""
    config: MegatronTrainerConfig = field(default_factory=MegatronTrainerConfig)
    collective_timeout_s: float = 1800.0
    """After this a rank gives up waiting for the others."""


class TrainerRank:
    """One rank: it meets the others, owns a MegatronTrainer and says what it is doing.

    Args:
        rank: its number.
        world_size: how many ranks there are.
        num_threads: CPU threads for tensor operations.
        host: address on which the ranks of the trainer reach each other; the loopback address on one machine.
    """

    def __init__(self, rank: int, world_size: int, *, num_threads: int, host: str = LOOPBACK) -> None:
        self._rank, self._world_size, self._host = rank, world_size, host
        self._doing = "starting"
        self._thread = threading.get_ident()
        self._store: Store | None = None
        self._meeting_folder: Path | None = None
        self._trainer: MegatronTrainer | None = None
        self._publisher: Publisher | None = None
        # Read by OpenMP when torch is loaded.
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        self._num_threads = num_threads
        # As SGLang has it in its processes: over NCCL weights only get to ranks that allocate their buffers alike.
        os.environ.setdefault("NCCL_CUMEM_ENABLE", "0")
        if host == LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")

    def listen(self) -> MeetingPlace:
        """Opens the meeting place: a file in a folder of its own, or a free port of this rank's host. For rank 0."""
        if self._host == LOOPBACK:
            self._meeting_folder = Path(tempfile.mkdtemp(prefix="rl-train-"))
            return self._meeting_folder / "store"
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        # Without a socket of ours the store would listen on every interface.
        listener = socket.create_server((self._host, 0))
        port: int = listener.getsockname()[1]
        self._store = TCPStore(
            self._host,
            port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        return Address(self._host, port)

    def close_meeting(self) -> None:
        """Removes what `listen` and publishing left on the disk, once no rank needs it. Another thread may call it."""
        if (publisher := self._publisher) is not None:
            publisher.close()
        if self._meeting_folder is not None:
            shutil.rmtree(self._meeting_folder, ignore_errors=True)

    def start(self, place: MeetingPlace, spec: TrainerSpec) -> float:
        """Joins the others and loads the weights; returns the seconds it took. Collective."""
        started = time.perf_counter()
        with self._doing_now("importing Megatron"):
            self._thread = threading.get_ident()
            logging.getLogger("megatron").setLevel(logging.ERROR)
            warnings.filterwarnings("ignore", module="megatron")
            import torch

            from rl_train.megatron.cpu import enable_cpu_support

            torch.set_num_threads(self._num_threads)
            is_cpu = enable_cpu_support()
            from rl_train.megatron.trainer import MegatronTrainer
        with self._doing_now(f"meeting the other ranks at {place}"):
            timeout = timedelta(seconds=spec.collective_timeout_s)
            store = self._join(place, timeout)
            if not is_cpu:
                torch.cuda.set_device(0 if torch.cuda.device_count() == 1 else self._rank % torch.cuda.device_count())
            torch.distributed.init_process_group(
                "gloo" if is_cpu else "nccl",
                store=store,
                rank=self._rank,
                world_size=self._world_size,
                timeout=timeout,
            )
        with self._doing_now("loading weights"):
            self._trainer = MegatronTrainer(
                arguments=spec.arguments,
                model_config=spec.model_config,
                weights=spec.weights,
                loss=spec.loss,
                temperature=spec.temperature,
                config=spec.config,
            )
            if spec.reference is not None:
                self._trainer.load_reference(spec.reference)
        return time.perf_counter() - started

    def _join(self, place: MeetingPlace, timeout: timedelta) -> "Store":
        from torch.distributed import FileStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

        if isinstance(place, Path):
            store = FileStore(str(place), self._world_size)
        else:
            store = self._store or TCPStore(place.host, place.port, timeout=timeout)
        store.set_timeout(timeout)
        return store

    def train_step(self, batch: TrainBatch) -> StepResult:
        """See `MegatronTrainer.train_step`."""
        with self._doing_now(f"training step {self._ready.num_steps + 1}"):
            return self._ready.train_step(batch)

    def compute_logprobs(self, batch: TrainBatch, *, is_reference: bool) -> list[list[NDArray[np.float32]]] | None:
        """See `MegatronTrainer.compute_logprobs`; None on all ranks but the first."""
        with self._doing_now(f"computing {'reference ' if is_reference else ''}log-probabilities"):
            trainer = self._ready
            rows = trainer.compute_reference_logprobs(batch) if is_reference else trainer.compute_logprobs(batch)
            return rows if self._rank == 0 else None

    def set_sinks(
        self, sinks: "Sequence[WeightSink]", bucket_bytes: int, deadline_s: float, sync: "SyncConfig"
    ) -> None:
        """Plans how weights get to `sinks`, whose calls may take `deadline_s` each. Rank 0 calls them. Collective."""
        from rl_weights import Publisher

        with self._doing_now(f"planning weight sync to {len(sinks)} engines"):
            if self._publisher is not None:
                self._publisher.close()
                self._publisher = None
            source = self._ready.tensor_source()
            if self._host != LOOPBACK and sync.host is None and sync.meets:
                sync = replace(sync, host=self._host)
            self._publisher = Publisher(
                source,
                sinks if source.is_writer else (),
                bucket_bytes=bucket_bytes,
                deadline_s=deadline_s,
                transport=sync.make_transport(),
                keep_buffers=sync.keep_buffers,
            )

    def publish(self, version: int, *, verify: bool) -> "PublishReport":
        """Hands the weights to the sinks as `version`, and compares if asked to. Collective."""
        assert self._publisher is not None, "set_sinks() comes first"
        with self._doing_now(f"publishing version {version}"):
            self._ready.require_weights(f"publishing version {version}")
            return self._publisher.publish(version, verify=verify)

    def save_checkpoint(self, folder: Path, state: Mapping[str, JsonValue]) -> Path:
        """See `MegatronTrainer.save_checkpoint`."""
        with self._doing_now(f"saving a checkpoint in {folder}"):
            return self._ready.save_checkpoint(folder, state)

    def load_checkpoint(self, folder: Path) -> Mapping[str, JsonValue]:
        """See `MegatronTrainer.load_checkpoint`."""
        with self._doing_now(f"loading a checkpoint from {folder}"):
            return self._ready.load_checkpoint(folder)

    def export_hf(self, folder: Path, template: Path) -> Path:
        """See `MegatronTrainer.export_hf`."""
        with self._doing_now(f"writing a Hugging Face model to {folder}"):
            return self._ready.export_hf(folder, template)

    def release_memory(self, *parts: TrainerPart) -> None:
        """See `MegatronTrainer.release_memory`."""
        with self._doing_now(f"releasing the memory of {', '.join(parts)}"):
            self._ready.release_memory(*parts)

    def resume_memory(self) -> None:
        """See `MegatronTrainer.resume_memory`."""
        with self._doing_now("taking memory back"):
            self._ready.resume_memory()

    def memory_use(self) -> MemoryUse:
        """See `MegatronTrainer.memory_use`."""
        return self._ready.memory_use()

    def doing(self) -> str:
        """What the rank is doing and where in the program it stands. May be called from another thread."""
        # Documented, for all its name.
        frame = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return self._doing
        frames = traceback.extract_stack(frame)[-_FRAMES_SHOWN:]
        return f"{self._doing}, at " + " > ".join(f"{f.name} ({Path(f.filename).name}:{f.lineno})" for f in frames)

    @property
    def _ready(self) -> "MegatronTrainer":
        assert self._trainer is not None, "start() comes first"
        return self._trainer

    @contextmanager
    def _doing_now(self, what: str) -> Generator[None]:
        self._doing = what
        yield
        # Not after an error: what failed stays to be asked for.
        self._doing = f"idle after {what}"
