"""OGBench's npz files: one file with its ``-val`` sibling, or a folder of slices (the sets of 100M transitions)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from steerflow.data.convert.npz import Column, npz_blocks, npz_columns
from steerflow.data.convert.recording import Block, Recording
from steerflow.errors import DataError

_NEEDED = ("observations", "actions", "terminals")
_INFO = ("qpos", "qvel", "button_states")
_SLICE = re.compile(r"(?P<stem>.*?)[-_.]?(?P<number>\d+)\.npz")


def open_ogbench(source: Path) -> Recording:
    """An OGBench file, or a folder of slices ``NAME-000.npz``, ``NAME-001.npz``, ...; those named ``-val`` are left out.

    ``terminals`` is 1 at the last row of an episode, which is a state only; it says nothing about the task. An episode may
    go on in the next slice. Raises DataError when a slice is missing, ArtefactError when a file is damaged.
    """
    files = tuple(_slices(source, val=False)) if source.is_dir() else (source,)
    return _recording(files)


def ogbench_val(source: Path) -> Recording | None:
    """The validation split that lies beside ``source``: ``NAME-val.npz``, or the ``-val`` slices of a folder."""
    if source.is_dir():
        files = tuple(_slices(source, val=True))
        return _recording(files) if files else None
    sibling = source.with_name(f"{source.stem}-val.npz")
    return _recording((sibling,)) if sibling.exists() else None


def looks_like_ogbench(columns: dict[str, Column]) -> bool:
    """Whether a file has what OGBench's have, and nothing that they have not (rewards, timeouts, next observations)."""
    return set(_NEEDED) <= set(columns) <= {*_NEEDED, *_INFO}


def _recording(files: tuple[Path, ...]) -> Recording:
    first = npz_columns(files[0])
    missing = [name for name in _NEEDED if name not in first]
    if missing:
        raise DataError(
            f"{files[0]} lacks {missing[0]!r}, which OGBench files have; it holds {', '.join(first)}. "
            "For another layout say which column is which: --format arrays --map observations=NAME --map actions=NAME ..."
        )
    names = tuple(name for name in (*_NEEDED, *_INFO) if name in first)
    total = 0
    for file in files:
        columns = first if file == files[0] else npz_columns(file)
        lengths = {name: columns[name].rows if name in columns else -1 for name in names}
        if len(set(lengths.values())) > 1:
            raise DataError(f"The columns of {file} do not fit together: rows {lengths} (-1: missing).")
        total += lengths["observations"]

    def blocks(wanted: tuple[str, ...] | None) -> Iterator[Block]:
        chosen = tuple(n for n in names if n != "terminals" and (wanted is None or n in wanted))
        for file in files:
            row = 0
            for block in npz_blocks(file, (*chosen, "terminals")):
                ends = block.pop("terminals") > 0.5
                yield Block(file.name, row, block, ends)
                row += len(ends)

    columns = tuple(n for n in names if n != "terminals")
    return Recording("ogbench", files, total, columns, "state", blocks)


def _slices(folder: Path, *, val: bool) -> list[Path]:
    files = [f for f in folder.glob("*.npz") if ("-val" in f.stem) == val]
    if not files and not val:
        raise DataError(
            f"There is no npz file in {folder}. Give a file, or a folder with slices NAME-000.npz, NAME-001.npz, ..."
        )
    if len(files) < 2:
        return files
    numbered = {}
    for file in files:
        match = _SLICE.fullmatch(file.name.replace("-val", ""))
        if match is None:
            raise DataError(
                f"{file} is not a numbered slice, but others in its folder are; move it away or import it alone."
            )
        numbered[match["stem"], int(match["number"])] = file
    stems = {stem for stem, _ in numbered}
    if len(stems) > 1:
        raise DataError(
            f"{folder} holds slices of several data sets ({', '.join(sorted(stems))}); give each its own folder."
        )
    numbers = sorted(number for _, number in numbered)
    gaps = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
    if gaps:
        raise DataError(
            f"Slice {gaps[0]:03d} is missing in {folder} ({len(gaps)} in all). Download it again or move the later ones away."
        )
    return [file for _, file in sorted(numbered.items())]
