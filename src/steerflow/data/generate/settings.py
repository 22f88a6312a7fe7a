"""The settings of OGBench's official sets, one frozen record per name.

Taken from the official generation scripts: oracles, noise levels, episode lengths and counts, stacking probabilities,
start and goal cells. Our choice: the 5,000 episodes of cube-octuple, which OGBench only offers as slices of 100M.
"""

from __future__ import annotations

from dataclasses import dataclass

from steerflow.errors import unknown


@dataclass(frozen=True)
class Manipulation:
    """One robot arm; a new random target whenever the scripted oracle is done with the last one."""

    # Gymnasium id of the environment, used in its data-collection mode.
    env: str
    # "plan": open-loop plan with smoothed noise (play); "markov": closed loop with action noise (noisy).
    oracle: str
    # Training episodes of the official set.
    episodes: int
    # States per episode: one more than transitions.
    rows: int = 1001
    # plan: standard deviation of the plan's noise; markov: upper end of the action noise's scale xi, drawn per episode.
    noise: float = 0.1
    # plan: temporal smoothing of the noise, in steps.
    smoothing: float = 0.5
    # markov: least norm of the way to go, as the oracle shapes it.
    min_norm: float = 0.4
    # Probability of a uniform action in place of the oracle's.
    random_action: float = 0.0
    # Range from which an episode draws its probability of stacking on another block.
    stack: tuple[float, float] = (0.5, 0.5)
    # Standard deviation of the five action dimensions in units of xi.
    noise_shape: tuple[float, ...] = (1.0, 1.0, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class PointMaze:
    """A point that follows the shortest way between cells, with Gaussian noise on its actions."""

    env: str
    # "navigate": a new goal whenever one is reached; "stitch": one goal, ``reach`` cells away, and stay there.
    kind: str
    episodes: int
    rows: int = 1001
    noise: float = 0.5
    # stitch: length of the way from start to goal, in cells.
    reach: int = 4


Settings = Manipulation | PointMaze

_STACK = {
    "single": (0.0, 0.0),
    "double": (0.0, 0.25),
    "triple": (0.05, 0.35),
    "quadruple": (0.1, 0.5),
    "octuple": (0.0, 0.35),
}
_EPISODES = {
    "cube-triple": 3000,
    "cube-quadruple": 5000,
    "cube-octuple": 5000,
    "puzzle-4x5": 3000,
    "puzzle-4x6": 5000,
}


def _manipulation() -> dict[str, Settings]:
    cubes = [f"cube-{size}" for size in _STACK]
    puzzles = [f"puzzle-{size}" for size in ("3x3", "4x4", "4x5", "4x6")]
    found: dict[str, Settings] = {}
    for family in (*cubes, "scene", *puzzles):
        stack = _STACK.get(family.removeprefix("cube-"), (0.5, 0.5))
        episodes = _EPISODES.get(family, 1000)
        random_action = 0.2 if family in puzzles else 0.1
        found[f"{family}-play"] = Manipulation(f"{family}-v0", "plan", episodes, stack=stack)
        found[f"{family}-noisy"] = Manipulation(
            f"{family}-v0", "markov", episodes, stack=stack, random_action=random_action
        )
    return found


def _mazes() -> dict[str, Settings]:
    found: dict[str, Settings] = {}
    for size in ("medium", "large", "giant", "teleport"):
        episodes, rows = (500, 2001) if size == "giant" else (1000, 1001)
        env = f"pointmaze-{size}-v0"
        found[f"pointmaze-{size}-navigate"] = PointMaze(env, "navigate", episodes, rows)
        found[f"pointmaze-{size}-stitch"] = PointMaze(env, "stitch", 5000, 201)
    return found


SETTINGS: dict[str, Settings] = {**_manipulation(), **_mazes()}


def available_names() -> list[str]:
    """Names that ``make_data`` knows."""
    return sorted(SETTINGS)


def official_settings(name: str) -> Settings:
    """The settings of a name; raises UnknownNameError with the nearest names."""
    if name not in SETTINGS:
        hint = "Data that need a trained expert (ant, humanoid) cannot be made here: steerflow data get NAME."
        raise unknown("data set", name, SETTINGS, hint)
    return SETTINGS[name]
