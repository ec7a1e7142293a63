"""What the kernel lets a process do that compares: compute, and read files. Linux on x86-64 and 64-bit ARM.

Text of a model should never run as code (`text_as_code`); should it find a way all the same, then there is little that
it can do. The process may read and write what it has open, open files for reading, and ask for memory and the time.
Everything else is refused with EPERM: opening a file for writing, changing the file system, making a connection,
starting a process or a thread, sending a signal, changing limits.

Written by hand, because `pyseccomp` needs the system's libseccomp, and the package that brings it along is for x86-64
alone.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rl_data.grading.workers.system_calls import ALLOWED, OPENING


class _Calls(NamedTuple):
    """What the filter decides by on one machine."""

    architecture: int
    """AUDIT_ARCH_... of linux/audit.h."""
    allowed: Sequence[int]
    """Numbers of calls."""
    opening: Sequence[tuple[int, int]]
    """Numbers of calls that open a file, and which of their arguments holds the flags."""


_CHANGING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY

# Classic BPF: linux/bpf_common.h, linux/seccomp.h, linux/prctl.h.
_LOAD_WORD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # 1 is EPERM
_SET_PARENT_DEATH_SIGNAL, _SET_SECCOMP, _SET_NO_NEW_PRIVILEGES = 1, 22, 38
_FILTER_MODE = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine() -> bool:
    """Takes from this process, for good, what comparing does not need; False where the system cannot do that."""
    calls = _calls_of(platform.machine()) if sys.platform == "linux" else None
    if calls is None:
        return False
    instructions = _filter(calls)
    program = _Program(len(instructions) // 8, instructions)
    return _control(_SET_NO_NEW_PRIVILEGES, 1) and _control(_SET_SECCOMP, _FILTER_MODE, ctypes.addressof(program))


def _calls_of(machine: str) -> _Calls | None:
    """None for a machine whose numbers are not known."""
    if machine == "x86_64":
        return _Calls(
            architecture=0xC000003E,
            allowed=[numbers.x86_64 for numbers in ALLOWED.values()],
            opening=[(numbers.x86_64, flags) for numbers, flags in OPENING.values()],
        )
    if machine == "aarch64":
        return _Calls(
            architecture=0xC00000B7,
            allowed=[numbers.aarch64 for numbers in ALLOWED.values() if numbers.aarch64 is not None],
            opening=[(numbers.aarch64, flags) for numbers, flags in OPENING.values() if numbers.aarch64 is not None],
        )
    return None


def end_with_parent(signal: int) -> None:
    """Lets the kernel send this process the signal when its parent ends. Linux; elsewhere the parent has to do it."""
    if sys.platform == "linux":
        _control(_SET_PARENT_DEATH_SIGNAL, signal)


def _control(option: int, *values: int) -> bool:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return ctypes.CDLL(None).prctl(ctypes.c_int(option), *arguments) == 0


def _filter(calls: _Calls) -> bytes:
    """The program that decides on a call: which it is, and where it opens a file, whether only for reading."""
    allow, refuse = _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _REFUSE)
    parts = [
        _instruction(_LOAD_WORD, _ARCHITECTURE_AT),
        _instruction(_IF_EQUAL, calls.architecture, skip_if=1) + refuse,
        _instruction(_LOAD_WORD, _NUMBER_AT),
    ]
    parts += [_instruction(_IF_EQUAL, number, skip_else=1) + allow for number in calls.allowed]
    for number, argument in calls.opening:
        flags_at = _ARGUMENTS_AT + 8 * argument  # the lower half of the argument: both machines are little-endian
        parts.append(
            _instruction(_IF_EQUAL, number, skip_else=4)
            + _instruction(_LOAD_WORD, flags_at)
            + _instruction(_IF_ANY_BIT, _CHANGING_FLAGS, skip_else=1)
            + refuse
            + allow
        )
    return b"".join([*parts, refuse])


def _instruction(code: int, value: int, *, skip_if: int = 0, skip_else: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if, skip_else, value)
