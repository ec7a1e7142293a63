"""Numbers of the system calls that a process which compares may make, by what they are for.

Source: asm/unistd_64.h for x86-64 and asm-generic/unistd.h for 64-bit ARM, of the Linux kernel, which never change. ARM
has no number for a call that its C library makes by another one.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Numbers(NamedTuple):
    """Of one system call on each machine; None where the machine has no such call."""

    x86_64: int
    aarch64: int | None


ALLOWED: Mapping[str, Numbers] = {
    # Bytes through what is open already.
    "read": Numbers(0, 63),
    "write": Numbers(1, 64),
    "readv": Numbers(19, 65),
    "writev": Numbers(20, 66),
    "pread64": Numbers(17, 67),
    "lseek": Numbers(8, 62),
    "close": Numbers(3, 57),
    "poll": Numbers(7, None),
    "ppoll": Numbers(271, 73),
    # What files and folders there are: modules are imported when they are needed first.
    "stat": Numbers(4, None),
    "fstat": Numbers(5, 80),
    "lstat": Numbers(6, None),
    "newfstatat": Numbers(262, 79),
    "statx": Numbers(332, 291),
    "access": Numbers(21, None),
    "faccessat": Numbers(269, 48),
    "faccessat2": Numbers(439, 439),
    "readlink": Numbers(89, None),
    "readlinkat": Numbers(267, 78),
    "getdents64": Numbers(217, 61),
    "getcwd": Numbers(79, 17),
    # Memory.
    "brk": Numbers(12, 214),
    "mmap": Numbers(9, 222),
    "mremap": Numbers(25, 216),
    "munmap": Numbers(11, 215),
    "mprotect": Numbers(10, 226),
    "madvise": Numbers(28, 233),
    # Signals that come in; there is none to send one.
    "rt_sigaction": Numbers(13, 134),
    "rt_sigprocmask": Numbers(14, 135),
    "rt_sigreturn": Numbers(15, 139),
    "sigaltstack": Numbers(131, 132),
    "restart_syscall": Numbers(219, 128),
    # Time, and the timer of the time limit.
    "getitimer": Numbers(36, 102),
    "setitimer": Numbers(38, 103),
    "time": Numbers(201, None),
    "gettimeofday": Numbers(96, 169),
    "clock_gettime": Numbers(228, 113),
    "clock_getres": Numbers(229, 114),
    "nanosleep": Numbers(35, 101),
    "clock_nanosleep": Numbers(230, 115),
    # Who and where the process is, and what it has used.
    "getpid": Numbers(39, 172),
    "getppid": Numbers(110, 173),
    "gettid": Numbers(186, 178),
    "getuid": Numbers(102, 174),
    "geteuid": Numbers(107, 175),
    "getgid": Numbers(104, 176),
    "getegid": Numbers(108, 177),
    "uname": Numbers(63, 160),
    "sysinfo": Numbers(99, 179),
    "times": Numbers(100, 153),
    "getrusage": Numbers(98, 165),
    "sched_getaffinity": Numbers(204, 123),
    # The C library's own: locks, and what it registers for its thread.
    "futex": Numbers(202, 98),
    "set_robust_list": Numbers(273, 99),
    "rseq": Numbers(334, 293),
    "sched_yield": Numbers(24, 124),
    # Chance: seeds of hashes and of random numbers.
    "getrandom": Numbers(318, 278),
    # The end.
    "exit": Numbers(60, 93),
    "exit_group": Numbers(231, 94),
}


class Opening(NamedTuple):
    """A call that opens a file."""

    numbers: Numbers
    flags: int
    """Which argument, counted from 0, holds the flags."""


OPENING: Mapping[str, Opening] = {
    "open": Opening(Numbers(2, None), flags=1),
    "openat": Opening(Numbers(257, 56), flags=2),
}
"""Allowed where the flags ask for reading alone."""
