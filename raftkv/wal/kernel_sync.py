"""fdatasync in the kernel's own threads, with its end announced on a file descriptor.

A Python thread that syncs needs the interpreter twice for each flush: to begin, and to say that it is done; under load
the loop has to be made to let go of it each time. Linux can do the same without: an asynchronous FDSYNC request
(io_submit, since 4.18) is worked off by the kernel, which then makes an eventfd readable (docs/adr/0005).

Owns the few system calls, made through ctypes because the standard library has no names for them. Where they are not to
be had (another system, an architecture not listed, a sandbox that forbids them) `open` says so, and the caller syncs in
a thread. Knows nothing of logs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from typing import Final, NamedTuple


class _Numbers(NamedTuple):
    """Numbers of the system calls on one architecture."""

    setup: int
    destroy: int
    getevents: int
    submit: int


_GENERIC: Final = _Numbers(setup=0, destroy=1, getevents=4, submit=2)
_NUMBERS: Final = {
    "x86_64": _Numbers(setup=206, destroy=207, getevents=208, submit=209),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}

_FDSYNC: Final = 3
"""IOCB_CMD_FDSYNC: fdatasync."""
_RESFD: Final = 1
"""IOCB_FLAG_RESFD: announce the end on `resfd`."""

UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
"""Errors that say "not here" and nothing about the data."""


class _Iocb(ctypes.Structure):
    """struct iocb on a little-endian machine."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """struct io_event."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("iocb", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class KernelSync:
    """One fdatasync at a time: `submit`, wait until `fileno()` is readable, `finish`."""

    __slots__ = ("_context", "_event", "_eventfd", "_iocb", "_numbers", "_pointers", "_syscall")

    def __init__(self, numbers: _Numbers) -> None:
        """Use `open`. Raises OSError."""
        # PyDLL, not CDLL: none of these calls blocks, and letting go of the interpreter is what they are to avoid.
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._numbers = numbers
        self._context = ctypes.c_ulong(0)
        self._call(numbers.setup, ctypes.c_uint(1), ctypes.byref(self._context))
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._iocb = _Iocb(opcode=_FDSYNC, flags=_RESFD, resfd=self._eventfd)
        self._pointers = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._event = _Event()

    @classmethod
    def open(cls) -> KernelSync | None:
        """None where the kernel cannot, or may not, do this."""
        numbers = _NUMBERS.get(platform.machine())
        if not sys.platform.startswith("linux") or sys.byteorder != "little" or numbers is None:
            return None
        try:
            return cls(numbers)
        except (OSError, AttributeError):
            return None

    def fileno(self) -> int:
        """Readable when the request under way has ended."""
        return self._eventfd

    def submit(self, descriptor: int) -> None:
        """Begin an fdatasync of an open file. Raises OSError; nothing was begun then."""
        self._iocb.fd = descriptor
        self._call(self._numbers.submit, self._context, ctypes.c_long(1), self._pointers)

    def finish(self) -> None:
        """Collect the result of the request that has ended. Raises the OSError of the fdatasync."""
        os.read(self._eventfd, 8)
        one = ctypes.c_long(1)
        self._call(self._numbers.getevents, self._context, one, one, ctypes.byref(self._event), None)
        if self._event.result:
            number = -self._event.result
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Waits for a request under way."""
        self._call(self._numbers.destroy, self._context)
        os.close(self._eventfd)

    def _call(self, number: int, *arguments: object) -> None:
        if self._syscall(ctypes.c_long(number), *arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
