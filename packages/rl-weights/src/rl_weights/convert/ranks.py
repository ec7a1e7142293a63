"""The processes of one conversion: this one alone, or those that torchrun started."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from rl_weights.errors import CheckpointError
from rl_weights.torchrun import is_under_torchrun

if TYPE_CHECKING:
    import torch

_OK, _FAILED = b"+", b"-"
# A rank waits for the slowest one, which may write for hours; one that has died is noticed at once.
_TIMEOUT = timedelta(days=1)


class Ranks:
    """This process alone. A subclass exchanges bytes with others.

    What is done through `gather` and `on_first` fails on every rank if it fails on one, so that none waits in vain.
    """

    rank = 0
    size = 1

    def exchange(self, content: bytes) -> list[bytes]:
        """What every rank gives, in the order of the ranks. Collective."""
        return [content]

    def gather(self, work: Callable[[], bytes]) -> list[bytes]:
        """What the work gives on every rank, in the order of the ranks. Collective.

        Raises:
            CheckpointError: if the work raises it here or, naming the rank, if it fails elsewhere.
            OSError: if the work raises it here.
        """
        failure: CheckpointError | OSError | None = None
        try:
            outcome = _OK + work()
        except (CheckpointError, OSError) as error:
            failure, outcome = error, _FAILED + str(error).encode()
        outcomes = self.exchange(outcome)
        if failure is not None:
            raise failure
        for rank, content in enumerate(outcomes):
            if content.startswith(_FAILED):
                raise CheckpointError(f"rank {rank}: {content.removeprefix(_FAILED).decode()}")
        return [content.removeprefix(_OK) for content in outcomes]

    def on_first(self, work: Callable[[], str]) -> str:
        """What the work gives on rank 0, where alone it is done. Collective.

        Raises:
            CheckpointError: if the work raises it or, on the other ranks, an OSError.
            OSError: on rank 0, if the work raises it.
        """
        return self.gather(lambda: work().encode() if self.rank == 0 else b"")[0].decode()


class _TorchrunRanks(Ranks):
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def exchange(self, content: bytes) -> list[bytes]:
        """See `Ranks.exchange`."""
        import torch

        try:
            size = torch.tensor([len(content)])
            sizes = [torch.empty_like(size) for _ in range(self.size)]
            _all_gather(sizes, size)
            padded = torch.zeros(max(int(one) for one in sizes), dtype=torch.uint8)
            padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            contents = [torch.empty_like(padded) for _ in sizes]
            _all_gather(contents, padded)
        except RuntimeError as error:
            raise CheckpointError(f"rank {self.rank}: lost contact with the other ranks: {error}") from error
        return [bytes(one[: int(count)].numpy()) for one, count in zip(contents, sizes, strict=True)]


def _all_gather(parts: "list[torch.Tensor]", own: "torch.Tensor") -> None:
    import torch.distributed as dist

    # Its signature leaves the type of the parts open.
    dist.all_gather(parts, own)  # pyright: ignore[reportUnknownMemberType]


@contextmanager
def ranks_of_torchrun() -> Generator[Ranks]:
    """The ranks that torchrun's environment names; this process alone where there is none.

    At the end, and after an error that all know of, the ranks wait for one another: torchrun kills those that still run
    when one has failed. A rank with another error does not wait, so that it does.
    """
    if not is_under_torchrun():
        yield Ranks()
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield _TorchrunRanks(dist.get_rank(), dist.get_world_size())
        _wait_for_others()
    except CheckpointError:
        _wait_for_others()
        raise
    finally:
        dist.destroy_process_group()


def _wait_for_others() -> None:
    import torch.distributed as dist

    with suppress(RuntimeError):  # they have died
        dist.barrier()  # pyright: ignore[reportUnknownMemberType]
