"""Whose turn the memory of shared GPUs is: the engines' while they generate, the trainer's while it trains."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from recipes.clock import PhaseClock
from recipes.config import EnginePlacementConfig
from recipes.memory_use import MemoryLog
from rl_rollout import EnginePart, EnginePool
from rl_train import TrainerPart

if TYPE_CHECKING:
    from rl_train.ray import TrainerGroup


class MemorySwitch:
    """Moves memory between engines and trainer, and publishes on the way, when weights have their place on both sides.

    At first it is the trainer's turn. Where nothing is shared, only `publish` happens.

    Args:
        placement: what is shared, and what has to move.
        trainer: all of its memory there.
        pool: engines that gave theirs up, if they are to.
        publish: hands the weights after so many steps to the engines.
    """

    def __init__(
        self,
        placement: EnginePlacementConfig,
        trainer: "TrainerGroup",
        pool: EnginePool,
        publish: Callable[[int], None],
    ) -> None:
        self._placement, self._trainer, self._pool, self._publish = placement, trainer, pool, publish
        self.log = MemoryLog(trainer)

    async def to_training(self, clock: PhaseClock) -> None:
        """The engines give their memory up, and the trainer has all of its own."""
        self.log.note("generate")
        if self._placement.releases_engines:
            with clock.phase("release"):
                await self._pool.release_memory()
            self.log.note("released")
        if self._placement.colocate:
            with clock.phase("resume"):
                self._trainer.resume_memory()

    async def to_generation(self, clock: PhaseClock, *, after_step: int) -> None:
        """The engines serve the weights that the trainer has after `after_step` steps."""
        self.log.note("train")
        if self._placement.colocate:
            with clock.phase("release"):
                self._trainer.release_memory(TrainerPart.GRADIENTS, *self._moving(TrainerPart.OPTIMIZER))
            with clock.phase("resume"):
                await self._pool.resume_memory(EnginePart.WEIGHTS)
        with clock.phase("publish"):
            self._publish(after_step)
        self.log.note("publish")
        if self._placement.colocate:
            if self._placement.offload_train_parameters:
                with clock.phase("release"):
                    self._trainer.release_memory(TrainerPart.PARAMETERS)
            with clock.phase("resume"):
                await self._pool.resume_memory(EnginePart.KV_CACHE)

    @asynccontextmanager
    async def whole_trainer(self, *, after_step: int) -> AsyncGenerator[None]:
        """For the block all of the trainer's state is in its memory, whosever turn it is; then the engines go on."""
        if not self._placement.moves_optimizer:
            yield
            return
        await self.to_training(PhaseClock())
        yield
        await self.to_generation(PhaseClock(), after_step=after_step)

    def _moving(self, part: TrainerPart) -> tuple[TrainerPart, ...]:
        return (part,) if self._placement.moves_optimizer else ()
