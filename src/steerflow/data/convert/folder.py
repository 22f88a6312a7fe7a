"""A data set appears at its place whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from steerflow.data.store import data_root
from steerflow.errors import ArtefactError


def data_folder(name: str, out: Path | str | None) -> Path:
    """Where a data set goes: ``data_root()/name``, or ``out``, which is a folder or a name below ``data_root()``."""
    path = Path(name if out is None else out)
    return path if path.is_absolute() or len(path.parts) > 1 else data_root() / path


def fresh_folder(out: Path) -> Path:
    """A hidden folder beside ``out``; those that killed imports left behind are removed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{out.name}.import-*"):
            pid = left.suffix.removeprefix(".import-")
            if pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
        temporary = out.with_name(f".{out.name}.import-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    except OSError as error:
        raise ArtefactError(
            f"Could not write to {out.parent}: {error.strerror or error}. Choose another folder with --out."
        ) from error
    return temporary


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def replace_folder(out: Path, temporary: Path) -> None:
    """Move a finished data set to its place, over what was there."""
    try:
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    except OSError as error:
        raise ArtefactError(f"Could not move the data set to {out}: {error.strerror or error}.") from error
