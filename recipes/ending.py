"""How a recipe ends: well, by a user's mistake, by a signal, or by a failure, each with its exit code."""

import asyncio
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from recipes.arguments.usage import EXIT_CODE, exit_on_usage_error
from recipes.errors import UsageError
from recipes.run_folder import CONFIG_FILE, RunFolder

_INTERRUPTED = 130
_STOPPED = 75
"""sysexits.h calls it EX_TEMPFAIL: the same command, with --resume, goes on. A batch script requeues its job then."""
_POLL_S = 0.2
_AGAIN_S = 0.01
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM came where it takes effect at once."""


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop has a checkpoint and loses nothing that matters."""


class StopAfterStep:
    """Within the block a first SIGTERM interrupts nothing: it asks the loop to save after its step, and to end.

    A second one, and SIGINT, interrupt at once as they do elsewhere. Before the first step there is nothing to save, so
    the loop goes on until after it.

    Example:
        >>> with StopAfterStep() as stop:
        ...     for step in steps:
        ...         take(step)
        ...         if is_save_due(step) or stop.is_asked:
        ...             save(step)
        ...         stop.end_if_asked(step)
    """

    def __init__(self) -> None:
        self.is_asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if signal.getsignal(signal.SIGTERM) == self._note:
            signal.signal(signal.SIGTERM, self._before)

    def end_if_asked(self, step: int) -> None:
        """Ends the run if a signal asked for it; its checkpoint after `step` is written, unless that is 0.

        Raises:
            Stopped: if it is to end.
        """
        if self.is_asked and step > 0:
            raise Stopped(f"stopped by SIGTERM after step {step}, whose checkpoint is written")

    async def unless_asked[Result](self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """What the work gives; None if a signal asks for the end before it does, which cancels it."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                if self.is_asked:
                    return None
                await asyncio.wait([task], timeout=_POLL_S)
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_asked = True
        signal.signal(signal.SIGTERM, self._before)


def run_to_its_end[Job](program: str, read: Callable[[], Job], run: Callable[[Job], object]) -> int:
    """The exit code after `run(read())`: 0, 2 for what the user can mend, 75 if it was stopped by SIGTERM and has a
    checkpoint to go on from, 130 for Ctrl-C, and for SIGTERM where there is none.

    What the user can mend is found by `read`, before anything is started, or where the cluster is looked at.

    An interrupt takes effect at once, in the middle of whatever is waited for. Later ones change nothing: the run is
    ending, and every wait on that way has a deadline of seconds. Failures of `run` pass through with their traceback,
    which makes the exit code 1.
    """
    with _interrupts():
        try:
            with exit_on_usage_error(program):
                job = read()
            run(job)
        except UsageError as error:
            sys.stderr.write(f"{program}: {error}\n")
            return EXIT_CODE
        except Stopped as stopped:
            sys.stderr.write(f"{program}: {stopped}\n")
            return _STOPPED
        except KeyboardInterrupt:
            sys.stderr.write(f"{program}: interrupted\n")
            return _INTERRUPTED
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
    return 0


@contextmanager
def telling_how_to_resume(program: str, folder: RunFolder) -> Generator[None]:
    """Says after an interrupt or a failure what goes on from the last checkpoint.

    What the user can mend is a message of its own, with nothing in front: the same command goes on once it is mended.

    Raises:
        Stopped: for Terminated, where there is a checkpoint: also a run that starts again or writes its final model
            goes on after a requeue.
    """
    try:
        yield
    except UsageError:
        raise
    except (KeyboardInterrupt, Exception) as ended:  # raised again: whatever ended the run, the user needs this next
        if folder.has_checkpoint:
            config = shlex.quote(str(folder.path / CONFIG_FILE))
            hint = f"goes on from the last checkpoint with: {program} --config {config} --resume"
        else:
            hint = "ended before its first checkpoint; --save-interval says how often one is written"
        sys.stderr.write(f"\nThe run in {folder.path} {hint}\n")
        if isinstance(ended, Terminated) and folder.has_checkpoint:
            raise Stopped("stopped by SIGTERM outside its steps") from ended
        raise


@contextmanager
def _interrupts() -> Generator[None]:
    """Within the block the first signal raises KeyboardInterrupt or Terminated, and later ones change nothing."""
    # Python's own handler of SIGINT would not do: asyncio puts one in its place that waits for the end of the step.
    handlers = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    hook = sys.unraisablehook

    def catch(lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            _send_again(signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT)
        else:
            hook(lost)

    sys.unraisablehook = catch
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    for one in _SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _send_again(number: signal.Signals) -> None:
    """For an exception that came in a finalizer or a callback of a weak reference, where Python ignores all."""
    for one in _SIGNALS:
        signal.signal(one, _interrupt)
    ident = threading.main_thread().ident
    assert ident is not None
    later = threading.Timer(_AGAIN_S, signal.pthread_kill, (ident, number))
    later.daemon = True
    later.start()
