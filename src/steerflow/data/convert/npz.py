"""Reading npz files block by block, so that a file larger than memory can be converted; nothing is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from steerflow.errors import ArtefactError, SteerflowError

BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Column:
    """What a file says about a column before any of it is read."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 0

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What zip, zlib and numpy raise for a damaged or foreign file, as one error that says what to do."""
    try:
        yield
    except SteerflowError:
        raise
    except FileNotFoundError as error:
        raise ArtefactError(f"There is no file {path}.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, OSError, RuntimeError) as error:
        raise ArtefactError(
            f"{path} cannot be read as npz ({error}): it was truncated, edited, or is something else. Copy it again."
        ) from error


def npz_columns(path: Path) -> dict[str, Column]:
    """Names, types and shapes of the columns of an npz file, from their headers alone."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        found = {}
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as stream:
                    shape, _, dtype = _header(stream)
                found[member.removesuffix(".npy")] = Column(dtype, shape)
        if not found:
            raise ArtefactError(f"{path} is a zip file without arrays; it is not an npz file.")
        return found


def npz_whole(path: Path, name: str) -> np.ndarray:
    """One column, read whole; for small ones such as episode_ends."""
    with _reading(path), np.load(path, allow_pickle=False) as file:
        return file[name]


def npz_blocks(path: Path, names: tuple[str, ...]) -> Iterator[dict[str, np.ndarray]]:
    """The named columns, ``BLOCK_ROWS`` rows at a time; memory for one block, whatever the size of the file."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        streams = {name: archive.open(f"{name}.npy") for name in names}
        try:
            facts = {name: _header(stream) for name, stream in streams.items()}
            total = min(shape[0] if shape else 0 for shape, _, _ in facts.values())
            # A column in Fortran order does not lie row after row; it is read whole.
            whole = {name: npz_whole(path, name) for name, (_, fortran, _) in facts.items() if fortran}
            for begin in range(0, total, BLOCK_ROWS):
                count = min(BLOCK_ROWS, total - begin)
                yield {
                    name: whole[name][begin : begin + count]
                    if name in whole
                    else _take(streams[name], count, shape[1:], dtype, path)
                    for name, (shape, _, dtype) in facts.items()
                }
            for name, stream in streams.items():
                # zipfile compares a member's checksum when it is asked for more than there is.
                if name not in whole and stream.read(1):
                    raise ArtefactError(f"{name} in {path} is longer than its header says; the file was edited.")
        finally:
            for stream in streams.values():
                stream.close()


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        # Headers are readable without pickle; the caller decides whether it needs this column.
        return shape, False, dtype
    return shape, fortran and len(shape) > 1, dtype


def _take(stream: IO[bytes], count: int, shape: tuple[int, ...], dtype: np.dtype, path: Path) -> np.ndarray:
    if dtype.hasobject:
        raise ArtefactError(
            f"{path} holds Python objects (pickle), which can run code when read. Save it again as plain number arrays."
        )
    size = count * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    data = stream.read(size)
    if len(data) != size:
        raise ArtefactError(
            f"{path} ends early: {len(data)} of {size} bytes of a block were there. Download or copy it again."
        )
    return np.frombuffer(data, dtype).reshape((count, *shape))
