"""What a check says, and which rows the slower checks look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from steerflow.data.store import Store

BLOCK_ROWS = 100_000
# Rows that the checks of order and timing look at; more would not change what they say.
SAMPLE_ROWS = 200_000
_SAMPLE_BLOCKS = 4


@dataclass(frozen=True)
class Finding:
    """error: training on it fails or learns something else; warning: probably a mistake; note: worth knowing."""

    severity: Literal["error", "warning", "note"]
    column: str
    message: str
    split: str = "train"

    def __str__(self) -> str:
        return f"{self.severity}: {self.split}/{self.column}: {self.message}"


def sample_blocks(store: Store, rows: int = SAMPLE_ROWS) -> list[slice]:
    """Stretches of rows, evenly spread over the store, that begin where an episode does (all of a store that is small)."""
    if store.rows <= rows:
        return [slice(0, store.rows)]
    length = rows // _SAMPLE_BLOCKS
    wanted = np.linspace(0, store.rows - length, _SAMPLE_BLOCKS).astype(np.int64)
    begins = store.episode_starts[np.searchsorted(store.episode_starts, wanted, side="right") - 1]
    return [slice(int(begin), int(min(begin + length, store.rows))) for begin in np.unique(begins)]


def ends_within(store: Store, rows: slice) -> np.ndarray:
    """(rows,) bool: which rows of a stretch are the last of an episode."""
    last = np.zeros(rows.stop - rows.start, bool)
    ends = store.episode_ends - 1
    last[ends[(ends >= rows.start) & (ends < rows.stop)] - rows.start] = True
    return last


def dimensions(found: np.ndarray) -> str:
    """``"dimension 3"`` or ``"dimensions 3, 4, 7"``, of a mask over dimensions."""
    found = np.flatnonzero(found)
    shown = ", ".join(str(int(d)) for d in found[:8]) + (", …" if len(found) > 8 else "")
    return f"dimension{'' if len(found) == 1 else 's'} {shown}"
