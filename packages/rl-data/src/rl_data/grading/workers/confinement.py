"""What the kernel lets a process do that compares: compute, and read files. Linux on x86-64 and 64-bit ARM.

Text of a model should never run as code (`text_as_code`); should it find a way all the same, then there is little that
it can do. The process may read and write what it has open, open files for reading, and ask for memory and the time.
Everything else is refused with EPERM: opening a file for writing, changing the file system, making a connection,
starting a process or a thread, sending a signal, changing limits.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple


class _Calls(NamedTuple):
    """Numbers of system calls."""

    architecture: int
    """AUDIT_ARCH_... of linux/audit.h."""
    allowed: Sequence[int]
    opening: Sequence[tuple[int, int]]
    """Calls that open a file, and which of their arguments holds the flags."""


# Of asm/unistd_64.h and asm-generic/unistd.h: read, write, readv, writev, pread64, close, lseek, getdents64, getcwd,
# stat, access and readlink with their kin; poll, ppoll; mmap, mprotect, munmap, mremap, brk, madvise; signal masks and
# handlers of the process itself; the timer of the time limit, clocks and sleeping; who and where the process is; futex,
# robust lists and rseq of the C library; getrandom; exit.
_X86_64 = _Calls(
    architecture=0xC000003E,
    allowed=(
        *(
            0,
            1,
            3,
            4,
            5,
            6,
            7,
            8,
            9,
            10,
            11,
            12,
            13,
            14,
            15,
            17,
            19,
            20,
            21,
            24,
            25,
            28,
            35,
            36,
            38,
            39,
            60,
            63,
            79,
            89,
        ),
        *(
            96,
            97,
            98,
            99,
            100,
            102,
            104,
            107,
            108,
            110,
            131,
            186,
            201,
            202,
            204,
            217,
            219,
            228,
            229,
            230,
            231,
            262,
            267,
        ),
        *(269, 271, 273, 318, 332, 334, 439),
    ),
    opening=((2, 1), (257, 2)),
)
_AARCH64 = _Calls(
    architecture=0xC00000B7,
    allowed=(
        *(
            17,
            48,
            57,
            61,
            62,
            63,
            64,
            65,
            66,
            67,
            73,
            78,
            79,
            80,
            93,
            94,
            98,
            99,
            101,
            102,
            103,
            113,
            114,
            115,
            123,
            124,
        ),
        *(128, 132, 134, 135, 139, 153, 160, 163, 165, 169, 172, 173, 174, 175, 176, 177, 178, 179, 214, 215, 216, 222),
        *(226, 233, 278, 291, 293, 439),
    ),
    opening=((56, 2),),
)
_CALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}
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
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if calls is None:
        return False
    instructions = _filter(calls)
    program = _Program(len(instructions) // 8, instructions)
    return _control(_SET_NO_NEW_PRIVILEGES, 1) and _control(_SET_SECCOMP, _FILTER_MODE, ctypes.addressof(program))


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
