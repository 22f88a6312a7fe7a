"""Rewards and masks of the tasks in a store."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from steerflow.data.checks.finding import BLOCK_ROWS, Finding, ends_within, sample_blocks
from steerflow.data.checks.order import explained
from steerflow.data.store import Store
from steerflow.errors import SteerflowError

_LARGE = 1e3
_MORE = 0.1
_RECOMPUTED_ROWS = 20_000


def check_rewards(store: Store, task: str) -> list[Finding]:
    """Values, masks and timing of one task; raises nothing for damaged files, which become a finding."""
    column = f"tasks/{task}"
    try:
        rewards, masks = store.rewards(task)
    except SteerflowError as error:
        return [Finding("error", column, str(error))]
    facts = _read(store, rewards, masks)
    if facts.broken is not None:
        message = f"The reward of row {facts.broken} is {rewards[facts.broken]}. Repair the source and import again."
        return [Finding("error", column, message)]
    if facts.odd is not None:
        message = f"Masks must be 0 or 1; row {facts.odd} holds {masks[facts.odd]}. Label or import again."
        return [Finding("error", column, message)]
    ours = "-singletask-" in task
    ends = store.ends_of_task(task) if ours else None
    found = [*_values(column, facts, ends), *_resumed(store, column, facts, ours=ours)]
    timing = _recomputed(store, task, rewards, masks) if ours else None
    return found + (timing if timing is not None else _timing(store, column, rewards))


@dataclass
class _Facts:
    """One pass over the rewards and masks of the rows that hold a step."""

    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    count: int = 0
    broken: int | None = None
    odd: int | None = None
    resumed: list[int] = field(default_factory=list)


def _read(store: Store, rewards: np.ndarray, masks: np.ndarray) -> _Facts:
    facts = _Facts()
    for begin in range(0, store.rows, BLOCK_ROWS):
        # One row more, to see whether a task that is over goes on there.
        rows = slice(begin, min(begin + BLOCK_ROWS + 1, store.rows))
        acting = ~ends_within(store, rows)
        reward, mask = np.asarray(rewards[rows]), np.asarray(masks[rows])
        wrong, odd = ~np.isfinite(reward), (mask != 0) & (mask != 1)
        if facts.broken is None and wrong.any():
            facts.broken = begin + int(np.argmax(wrong))
        if facts.odd is None and odd.any():
            facts.odd = begin + int(np.argmax(odd))
        again = acting[:-1] & acting[1:] & (mask[:-1] == 0) & (mask[1:] == 1)
        facts.resumed += (np.flatnonzero(again) + begin + 1).tolist()
        here = acting & (np.arange(len(acting)) < BLOCK_ROWS)
        if here.any():
            steps = reward[here].astype(np.float64)
            facts.low, facts.high = min(facts.low, float(steps.min())), max(facts.high, float(steps.max()))
            facts.total += float(steps.sum())
            facts.count += len(steps)
    return facts


def _values(column: str, facts: _Facts, ends: int | None) -> list[Finding]:
    """``ends``: how often a single task of OGBench is done; None for others, which may end otherwise."""
    low, high = facts.low, facts.high
    if low == high:
        what = "All rewards are zero" if low == 0 else f"All rewards are {low:g}"
        why = "No state of the data does any part of this task." if ends is not None else "Is it the right column?"
        return [Finding("warning", column, f"{what}: there is nothing to learn from them. {why}")]
    if max(abs(low), abs(high)) > _LARGE:
        message = (
            f"Rewards lie between {low:g} and {high:g}; critics learn badly at such scales. Bring them to about 1."
        )
        found = [Finding("warning", column, message)]
    else:
        message = f"Rewards lie between {low:g} and {high:g}, {facts.total / facts.count:.4g} in the mean."
        found = [Finding("note", column, message)]
    if ends is not None:
        message = f"The task is done {ends:,} time{'s' * (ends != 1)} in the data."
        if ends == 0:
            message = "Part of the task is done in the data, but never all of it (no mask is 0)."
        found.append(Finding("note", column, message))
    return found


def _resumed(store: Store, column: str, facts: _Facts, *, ours: bool) -> list[Finding]:
    """Episodes that go on after a step that ended the task for good."""
    if not facts.resumed:
        return []
    episodes = np.unique(np.searchsorted(store.episode_ends, facts.resumed, side="right"))
    message = (
        f"In {len(episodes):,} of {store.episodes:,} episodes the task is over (mask 0) and then goes on (mask 1), "
        f"first at row {facts.resumed[0]}. "
    )
    if ours:
        return [Finding("note", column, message + "That is so in data recorded without this task in mind.")]
    return [
        Finding("warning", column, message + "If the end of the task was not meant, map terminals to another column.")
    ]


def _recomputed(store: Store, task: str, rewards: np.ndarray, masks: np.ndarray) -> list[Finding] | None:
    """Compare with what OGBench says of the same states; None where that cannot be computed here."""
    needed = ("qpos", "button_states") if task.startswith(("scene", "puzzle")) else ("qpos",)
    if any(name not in store.info for name in needed):
        return None
    rows = slice(0, min(store.rows, _RECOMPUTED_ROWS))
    data = {name: np.asarray(store.info[name][rows]) for name in needed}
    try:
        _label(task, data)
    except SteerflowError:
        return None
    except (ValueError, IndexError) as error:
        return [Finding("error", f"tasks/{task}", f"These data cannot be of {task}: {error}.")]
    right, mask = np.asarray(data["rewards"]), np.asarray(data["masks"])
    count = rows.stop
    agree = {shift: _agreement(right, np.asarray(rewards[rows]), shift) for shift in (-1, 0, 1)}
    wrong = int((mask != masks[rows]).sum())
    if agree[0] == 1 and wrong == 0:
        return []
    best = max(agree, key=lambda shift: agree[shift])
    if best != 0 and agree[best] == 1:
        where = "the state one row later" if best > 0 else "the state one row earlier"
        message = f"The reward of row j is that of {where}; OGBench's tasks pay for the state of the row itself."
    else:
        message = (
            f"{1 - agree[0]:.2%} of the rewards and {wrong:,} of {count:,} masks are not those of the recorded states."
        )
    return [
        Finding("error", f"tasks/{task}", f"{message} Remove {store.path / 'tasks' / task}: training labels it again.")
    ]


def _agreement(right: np.ndarray, found: np.ndarray, shift: int) -> float:
    """Share of rows j whose reward is the right one of row j + shift."""
    count = len(right)
    return float(np.mean(right[max(0, shift) : count + min(0, shift)] == found[max(0, -shift) : count - max(0, shift)]))


def _label(task: str, data: dict[str, np.ndarray]) -> None:
    """Add OGBench's rewards and masks to ``data``; the caller's random numbers stay as they were."""
    from ogbench.relabel_utils import relabel_dataset

    from steerflow.data.generate.world import quiet
    from steerflow.envs.tasks import global_random_state, make_env, set_global_random_state

    state = global_random_state()
    try:
        with quiet():
            env = make_env(task)
            relabel_dataset(task, env, data)
            env.close()
    finally:
        set_global_random_state(state)


def _timing(store: Store, column: str, rewards: np.ndarray) -> list[Finding]:
    """Whether the reward of a neighbouring row fits the step of this row clearly better (quadratic model)."""
    parts, targets = [], []
    for block in sample_blocks(store, 50_000):
        first = int(np.searchsorted(store.episode_starts, block.start))
        stop = int(np.searchsorted(store.episode_ends, block.stop, side="right"))
        for begin, end in zip(store.episode_starts[first:stop] + 1, store.episode_ends[first:stop] - 2, strict=True):
            if end > begin:
                step = [
                    store.observations[begin:end],
                    store.observations[begin + 1 : end + 1],
                    store.actions[begin:end],
                ]
                parts.append(np.concatenate(step, axis=1).astype(np.float64))
                targets.append(np.stack([rewards[begin + shift : end + shift] for shift in (-1, 0, 1)], axis=1))
    if not parts:
        return []
    step, target = np.concatenate(parts), np.concatenate(targets).astype(np.float64)
    if not np.isfinite(step).all():
        return []
    features = (step - step.mean(axis=0)) / (step.std(axis=0) + 1e-9)
    features = np.concatenate([features, features**2], axis=1)
    if len(features) < 20 * features.shape[1] or target[:, 1].std() < 1e-9:
        return []
    before, here, after = (explained(features, target[:, [shift]]) for shift in range(3))
    if max(before, after) - here <= _MORE:
        return []
    which, off = ("before", "early") if before > after else ("after", "late")
    message = (
        f"The reward of the row {which} fits the step from row j to j+1 better than that of row j "
        f"({max(before, after):.0%} against {here:.0%} explained): rewards seem to stand one row {off}. "
        "Row j must hold the reward of the step that its action takes."
    )
    return [Finding("warning", column, message)]
