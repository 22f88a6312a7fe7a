"""One column of a store: an ``.npy`` file, mapped into memory."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.errors import ArtefactError

# ``bring_in`` asks for so many bytes at a time (of more, Linux reads no further than its read-ahead, by default 128 KiB),
# and waits after so many.
_ASKED, _AWAITED = 128 << 10, 8 << 20


def open_column(path: Path, facts: Mapping[str, Any], scattered: bool) -> np.memmap:
    """Map a column; raises ArtefactError where it is missing, cut short, or not what ``facts`` of ``meta.json`` say.

    ``scattered``: it will be read at random places, so that a page that is touched is not a reason to read its neighbours.
    """
    try:
        column = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ArtefactError(
            f"The column {path} is missing. Restore it, or make or import the data set again."
        ) from error
    except (ValueError, OSError, EOFError) as error:
        raise ArtefactError(f"The column {path} cannot be read ({error}); it was truncated or edited.") from error
    if list(column.shape) != facts["shape"] or str(column.dtype) != facts["dtype"]:
        raise ArtefactError(
            f"The column {path} is {column.dtype}{column.shape}, meta.json says "
            f"{facts['dtype']}{tuple(facts['shape'])}; it was edited."
        )
    if scattered and hasattr(mmap, "MADV_RANDOM"):
        _map(column).madvise(mmap.MADV_RANDOM)
    return column


def require_whole(column: np.memmap) -> None:
    """Raises ArtefactError if the file was cut short since it was mapped; reading beyond its end would kill the process."""
    if _map(column).size() < column.offset + column.nbytes:
        raise ArtefactError(
            f"The column {column.filename} was cut short while it was read. Restore it, or make or import the data set again."
        )


def bring_in(column: np.memmap, go_on: Callable[[], bool]) -> None:
    """Let the system read the file into its page cache, in order, while ``go_on`` says so; nothing where it cannot."""
    if not hasattr(os, "posix_fadvise"):
        return
    size = column.offset + column.nbytes
    with open(str(column.filename), "rb", buffering=0) as file:
        for begin in range(0, size, _AWAITED):
            if not go_on():
                return
            for asked in range(begin, min(begin + _AWAITED, size), _ASKED):
                os.posix_fadvise(file.fileno(), asked, _ASKED, os.POSIX_FADV_WILLNEED)
            # One byte of what was asked for before: the queue stays short, and the reads of batches find their way.
            os.pread(file.fileno(), 1, max(0, begin - 1))


def column_facts(path: Path) -> dict[str, Any]:
    column = np.load(path, mmap_mode="r", allow_pickle=False)
    return {"dtype": str(column.dtype), "shape": list(column.shape), "sha256": sha256(path)}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_header(file: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    # numpy pads version 1.0 headers so that the first dimension can grow in place.
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _map(column: np.memmap) -> mmap.mmap:
    assert isinstance(column.base, mmap.mmap)
    return column.base
