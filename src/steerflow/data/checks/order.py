"""Rows in time: ends of episodes that were missed or are none, and actions that stand one row off."""

from __future__ import annotations

import numpy as np

from steerflow.data.checks.finding import Finding, ends_within, sample_blocks
from steerflow.data.store import Store

# A jump: at least this share of the moving dimensions changes by more than _RATIO times what it changes by in the two
# steps before and the two after, plus _FLOOR standard deviations. In 160,000 steps of nine recorded and simulated data
# sets nothing but teleports did; of the true ends of episodes 63 to 100 % do.
_SHARE, _RATIO, _FLOOR, _AROUND = 0.3, 4.0, 0.05, 2
# Jumps in more than this share of the rows are warned of; below, a contact is as likely as a missed end.
_RARE = 5e-5
_LONG = 5_000
# Another alignment must explain this much more of the motion, absolutely and relatively, before it is mentioned.
_MORE, _TIMES = 0.03, 1.3


def check_order(store: Store) -> list[Finding]:
    """Looks at up to ``SAMPLE_ROWS`` rows in stretches spread over the store."""
    return [*_check_ends(store), *_check_alignment(store), *_check_lengths(store)]


def _check_ends(store: Store) -> list[Finding]:
    jumps, rows, joined, boundaries = [], 0, 0, 0
    for block in sample_blocks(store):
        # NaN and infinity are reported by the check of values.
        states = np.nan_to_num(np.asarray(store.observations[block], np.float64), posinf=0.0, neginf=0.0)
        last = ends_within(store, block)[:-1]
        hit, size = jump_rows(states, last)
        if hit is None:
            continue
        jumps += (np.flatnonzero(hit & ~last) + block.start).tolist()
        usual = np.quantile(size[~last], 0.9) if (~last).any() else 0.0
        joined += int((size[last] <= usual).sum())
        boundaries += int(last.sum())
        rows += len(hit)
    found = []
    if jumps:
        shown = ", ".join(str(row + 1) for row in jumps[:5]) + (", …" if len(jumps) > 5 else "")
        period = int(np.gcd.reduce(np.diff(jumps))) if len(jumps) > 3 else 1
        regular = f" They are {period} rows apart, or multiples of that." if period > 10 else ""
        where = f"Inside episodes the state jumps at {len(jumps):,} of the {rows:,} rows looked at (rows {shown}).{regular} "
        if len(jumps) > _RARE * rows:
            cause = (
                "Ends of episodes that were not marked? Name the column that marks them (--map timeouts=...) and import again. "
                "Teleports and lost frames look the same."
            )
            found.append(Finding("warning", "observations", where + cause))
        else:
            found.append(Finding("note", "observations", where + "So few are probably contacts or false readings."))
    if boundaries >= 2 and joined > boundaries / 2:
        message = (
            f"{joined} of {boundaries} episodes begin where the one before ends: one recording cut in pieces? "
            "Chunks never cross an end, so needless ends waste data."
        )
        found.append(Finding("note", "episode_ends", message))
    return found


def jump_rows(states: np.ndarray, last: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """(whether the state jumps from row j to j+1, size of the step), each (rows - 1,); None where nothing moves.

    ``last`` marks steps that lead from one episode to the next; they do not count as usual motion.
    """
    deviation = states.std(axis=0)
    steps = np.abs(np.diff(states, axis=0)) / np.maximum(deviation, 1e-12)
    usual = steps[~last] if (~last).any() else steps
    moving = (deviation > 1e-9) & (np.median(usual, axis=0) > 1e-4)
    if len(states) < 4 or not moving.any():
        return None, np.zeros(max(len(states) - 1, 0))
    steps = steps[:, moving]
    around = np.zeros_like(steps)
    for offset in range(1, _AROUND + 1):
        around[offset:] = np.maximum(around[offset:], steps[:-offset])
        around[:-offset] = np.maximum(around[:-offset], steps[offset:])
    share = (steps > _RATIO * around + _FLOOR).mean(axis=1)
    return share >= _SHARE, np.sqrt((steps**2).sum(axis=1))


def _check_alignment(store: Store) -> list[Finding]:
    states, actions, rows = _gathered(store)
    if len(rows) < 20 * (states.shape[1] + actions.shape[1] + 1):
        return []
    motion = states[rows + 1] - states[rows]
    spread = motion.std(axis=0)
    moving = spread > 1e-9
    if not moving.any():
        return []
    target = motion[:, moving] / spread[moving]
    state = _standard(states)[rows]
    action = _standard(actions)
    alone = explained(state, target)
    shares = {shift: explained(np.concatenate([state, action[rows + shift]], axis=1), target) for shift in (-1, 0, 1)}
    best = max((-1, 1), key=lambda shift: shares[shift])
    gain, here = shares[best] - alone, max(shares[0] - alone, 0.0)
    if gain - here <= _MORE or gain <= _TIMES * here:
        return []
    # The action of step j was found in row j-1: too early. A robot that answers a step late looks the same.
    which, cause = ("before", "early, or the robot answers a step late") if best < 0 else ("after", "late")
    message = (
        f"The action of the row {which} explains the step from row j to j+1 better than that of row j ({gain:.0%} of the "
        f"motion against {here:.0%}, linear model): the actions seem to stand one row {cause}. "
        "Row j must hold the state that was seen and the action that was chosen from it."
    )
    return [Finding("warning", "actions", message)]


def _gathered(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States and actions of the sample, and the rows that have two neighbours with actions on both sides."""
    blocks = sample_blocks(store, 50_000)
    states = np.concatenate([np.asarray(store.observations[b], np.float64) for b in blocks])
    actions = np.concatenate([np.asarray(store.actions[b], np.float64) for b in blocks])
    last = np.concatenate([ends_within(store, b) for b in blocks])
    # The end of a stretch is not the end of an episode, but what follows it is not what follows in time.
    last[np.cumsum([b.stop - b.start for b in blocks]) - 1] = True
    inside = np.ones(len(last), bool)
    for offset in (-1, 0, 1):
        # A row is left out if it, the row before or the row after is a last one, or if it begins an episode.
        inside &= ~np.roll(last, offset)
    inside[[0, -1]] = False
    finite = np.isfinite(states).all(axis=1) & np.isfinite(actions).all(axis=1)
    near = finite & np.roll(finite, 1) & np.roll(finite, -1)
    states, actions = (np.nan_to_num(column, posinf=0.0, neginf=0.0) for column in (states, actions))
    return states, actions, np.flatnonzero(inside & near)


def explained(inputs: np.ndarray, target: np.ndarray) -> float:
    """Share of the variance that a linear model, fitted to the first half of the rows, explains in the second half."""
    half = len(inputs) // 2
    design = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    left, right = design[:half], target[:half]
    ridge = 1e-6 * half * np.eye(design.shape[1])
    weights = np.linalg.solve(left.T @ left + ridge, left.T @ right)
    residual = ((target[half:] - design[half:] @ weights) ** 2).sum(axis=0)
    variance = ((target[half:] - right.mean(axis=0)) ** 2).sum(axis=0)
    return float(1 - np.minimum(residual / np.maximum(variance, 1e-12), 1).mean())


def _standard(columns: np.ndarray) -> np.ndarray:
    return (columns - columns.mean(axis=0)) / (columns.std(axis=0) + 1e-9)


def _check_lengths(store: Store) -> list[Finding]:
    lengths = np.diff(store.episode_ends, prepend=0) - 1
    found = []
    if store.episodes == 1 and store.transitions > _LONG:
        message = (
            f"All {store.transitions:,} steps are one episode. If the recording was restarted in between, name the column "
            "that marks it (--map timeouts=... or episode_index=...) and import again."
        )
        found.append(Finding("warning", "episode_ends", message))
    short = int((lengths < 5).sum())
    if short:
        message = (
            f"{short:,} of {store.episodes:,} episodes have fewer than 5 steps, too few for a chunk of 5 actions. If that is "
            "not so in the source, the column that marks the ends means something else."
        )
        found.append(Finding("warning" if short > store.episodes / 2 else "note", "episode_ends", message))
    return found
