"""A file of a disk in memory as the kernel maps it: read page by page as it is asked for, no descriptor held.

``numpy.memmap`` holds one for each file, of the 1,024 that a process may have by default, and an index has a
file for each 32,768 rows. Python's own ``mmap`` can let go of it from 3.13 on (``trackfd=False``).
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

_FAILED = ctypes.c_void_p(-1).value


def mapped(path: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The first numbers of the file at ``path``, read-only, and readable on when the file is removed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is shorter than ``shape``; a page behind its end could not be read.
    """
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < size:
            raise ValueError(f"{path} is shorter than {size} bytes")
        libc = _libc()
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    content = (ctypes.c_ubyte * size).from_address(address)  # every view of the array holds it
    weakref.finalize(content, libc.munmap, address, size).atexit = False
    found: npt.NDArray[Any] = np.frombuffer(memoryview(content).toreadonly(), dtype)
    return found.reshape(shape)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
    )  # fmt: skip
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc
