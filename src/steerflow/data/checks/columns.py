"""Values: NaN and infinity, constant and huge dimensions, actions against their bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steerflow.data.checks.finding import BLOCK_ROWS, Finding, dimensions, ends_within
from steerflow.data.store import Store

_HUGE = 1e4
_FAR = 100.0


@dataclass
class Scan:
    """Running statistics of a column over blocks of rows, per dimension."""

    count: int = 0
    broken: int = 0
    first_broken: tuple[int, int] | None = None
    smallest: np.ndarray | float = np.inf
    largest: np.ndarray | float = -np.inf
    mean: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    outside: np.ndarray | int = 0
    saturated: np.ndarray | int = 0

    def add(self, block: np.ndarray, rows: np.ndarray, bounds: tuple[np.ndarray, np.ndarray] | None) -> None:
        """``rows`` are the row numbers of the block, for the message."""
        block = self.add_finite(block, rows)
        if not len(block):
            return
        values = block.astype(np.float64)
        count, mean = len(values), values.mean(axis=0)
        total = self.count + count
        shift = mean - self.mean
        self.squares = self.squares + ((values - mean) ** 2).sum(axis=0) + shift**2 * self.count * count / total
        self.mean = self.mean + shift * count / total
        self.count = total
        self.smallest = np.minimum(self.smallest, values.min(axis=0))
        self.largest = np.maximum(self.largest, values.max(axis=0))
        if bounds is not None:
            low, high = bounds
            margin = 1e-5 * (high - low)
            self.outside = self.outside + ((values < low - margin) | (values > high + margin)).sum(axis=0)
            near = 1e-3 * (high - low)
            self.saturated = self.saturated + ((values <= low + near) | (values >= high - near)).sum(axis=0)

    def add_finite(self, block: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The rows without NaN and infinity; the others are counted."""
        finite = np.isfinite(block)
        if finite.all():
            return block
        row, dimension = np.argwhere(~finite)[0]
        whole = finite.all(axis=1)
        self.broken += int((~whole).sum())
        self.first_broken = self.first_broken or (int(rows[row]), int(dimension))
        return block[whole]

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.asarray(self.squares) / max(self.count, 1))


def check_columns(store: Store, progress: Callable[[int], None]) -> list[Finding]:
    """Reads every column once, in blocks; ``progress`` is told the rows done."""
    low, high = store.action_bounds
    bounds = low.astype(np.float64), high.astype(np.float64)
    info = {name: c for name, c in store.info.items() if c.dtype.kind == "f"}
    scans = {name: Scan() for name in ("observations", "actions", *info)}
    for begin in range(0, store.rows, BLOCK_ROWS):
        block = slice(begin, min(begin + BLOCK_ROWS, store.rows))
        rows = np.arange(block.start, block.stop)
        acting = ~ends_within(store, block)
        scans["observations"].add(store.observations[block], rows, None)
        scans["actions"].add(store.actions[block][acting], rows[acting], bounds)
        for name, column in info.items():
            scans[name].add_finite(column[block].reshape(len(rows), -1), rows)
        progress(block.stop)
    found = [finding for name, scan in scans.items() for finding in _broken(store, name, scan)]
    if scans["observations"].count:
        found += _observations(scans["observations"])
    if scans["actions"].count:
        found += _actions(scans["actions"], *bounds)
    return found


def _broken(store: Store, name: str, scan: Scan) -> list[Finding]:
    if scan.first_broken is None:
        return []
    row, dimension = scan.first_broken
    episode = int(np.searchsorted(store.episode_ends, row, side="right"))
    message = (
        f"{scan.broken:,} rows hold NaN or infinity, the first at row {row}, dimension {dimension} "
        f"(episode {episode}, its row {row - int(store.episode_starts[episode])}). "
        "Repair the source or leave those episodes out, and import again."
    )
    return [Finding("error", name, message)]


def _observations(scan: Scan) -> list[Finding]:
    largest = np.maximum(np.abs(scan.smallest), np.abs(scan.largest))
    constant = scan.std <= 1e-7 * np.maximum(largest, 1e-30)
    small = ~constant & (scan.std < 1e-3)
    huge = largest > _HUGE
    distance = np.maximum(scan.largest - scan.mean, scan.mean - scan.smallest) / np.maximum(scan.std, 1e-12)
    far = ~constant & ~huge & (distance > _FAR)
    found = []
    if constant.any():
        message = (
            f"Constant: {dimensions(constant)}. They teach nothing, and any other value is far outside of what was seen; "
            "if they can differ when the policy acts, leave them out of --map observations."
        )
        found.append(Finding("warning", "observations", message))
    if small.any():
        message = (
            f"Varying by less than 1e-3: {dimensions(small)}. --normalise standard treats them as if they varied by that much; "
            "other units would make them visible to the networks."
        )
        found.append(Finding("note", "observations", message))
    if huge.any():
        message = (
            f"Values up to {largest.max():.3g}: {dimensions(huge)}. A counter, a time stamp, a sensor that failed? "
            "Leave such dimensions out, or change their units."
        )
        found.append(Finding("warning", "observations", message))
    if far.any():
        message = (
            f"Up to {distance[far].max():.0f} standard deviations from the mean: {dimensions(far)}. "
            "Rare contacts, or single false readings."
        )
        found.append(Finding("note", "observations", message))
    return found


def _actions(scan: Scan, low: np.ndarray, high: np.ndarray) -> list[Finding]:
    smallest, largest = np.asarray(scan.smallest), np.asarray(scan.largest)
    outside, saturated = np.asarray(scan.outside) / scan.count, np.asarray(scan.saturated) / scan.count
    constant = largest == smallest
    full = ~constant & (saturated > 0.8) & (outside <= 0.5)
    narrow = ~constant & (largest - smallest < 0.02 * (high - low))
    again = "Import again with --action-low and --action-high."
    found = []
    if (outside > 0).any():
        worst = int(np.argmax(outside))
        message = (
            f"Outside their bounds: {dimensions(outside > 0)} (dimension {worst} in {outside[worst]:.2%} of the steps: "
            f"{smallest[worst]:.4g} to {largest[worst]:.4g}, bounds {low[worst]:.4g} to {high[worst]:.4g}). "
            f"Training clips them. {again}"
        )
        found.append(Finding("error" if outside[worst] > 0.5 else "warning", "actions", message))
    if constant.any():
        message = f"Constant: {dimensions(constant)}. A policy can only repeat them."
        found.append(Finding("warning", "actions", message))
    if full.any():
        message = (
            f"At a bound in up to {saturated[full].max():.0%} of the steps: {dimensions(full)}. Either the controller only "
            "switches between two values, or the bounds are too narrow and cut the data."
        )
        found.append(Finding("warning", "actions", message))
    if narrow.any():
        message = (
            f"Using less than 2 % of the range between their bounds: {dimensions(narrow)}. Are the bounds in the units of "
            f"the data? {again}"
        )
        found.append(Finding("warning", "actions", message))
    return found
