"""Which data sets lie on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steerflow.artefact import META
from steerflow.data.store import DataSet, data_root
from steerflow.errors import SteerflowError


@dataclass(frozen=True)
class Listed:
    """A data set in a few numbers; ``problem`` says why it cannot be used, and its numbers are then 0."""

    name: str
    path: Path
    transitions: int = 0
    episodes: int = 0
    val_episodes: int = 0
    bytes: int = 0
    tasks: tuple[str, ...] = ()
    problem: str | None = None


def list_data(root: Path | str | None = None) -> list[Listed]:
    """The data sets below ``root`` (``data_root()``), by name; damaged ones with the reason. Reads headers only."""
    root = Path(root) if root is not None else data_root()
    if not root.is_dir():
        return []
    folders = (folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith("."))
    return [_listed(folder) for folder in folders]


def _listed(folder: Path) -> Listed:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if not (folder / "train" / META).exists():
        return Listed(folder.name, folder, bytes=size, problem="no data set: there is no train/meta.json")
    try:
        data = DataSet.open(folder.absolute())
        for store in (data.train, data.val):
            if store is not None:
                for task in store.tasks:
                    store.rewards(task)
    except (SteerflowError, KeyError, TypeError, OSError) as error:
        return Listed(folder.name, folder, bytes=size, problem=str(error) or type(error).__name__)
    return Listed(
        name=folder.name,
        path=folder,
        transitions=data.train.transitions,
        episodes=data.train.episodes,
        val_episodes=data.val.episodes if data.val is not None else 0,
        bytes=size,
        tasks=data.train.tasks,
    )
