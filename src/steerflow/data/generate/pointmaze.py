"""Episodes of OGBench's point mazes: the shortest way between cells, walked with noisy actions.

As in the official sets: every free cell can be a start. ``navigate`` draws goals from the cells that are no straight
corridor (ends, corners, crossings) and draws the next one as soon as one is reached; ``stitch`` draws one goal from the cells
whose shortest way from the start is exactly 4 cells long (the start itself where there is none) and stays there. Starts and
goals lie up to a quarter of a cell beside the cell's centre. The action is the unit vector to the centre of the next cell on
the way, plus Gaussian noise, clipped. Our choice: all of it is drawn from the episode's own generator.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steerflow.data.generate.settings import PointMaze
from steerflow.data.generate.world import Columns, Widths, quiet, widths_of
from steerflow.envs.tasks import no_temporary_files

Cell = tuple[int, int]
_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1))


class Point:
    """A maze environment with the way from every cell to every goal, found once."""

    def __init__(self, settings: PointMaze) -> None:
        with quiet(), no_temporary_files():
            import gymnasium
            import ogbench.locomaze  # noqa: F401 (registers the environments)

            made = gymnasium.make(settings.env, terminate_at_goal=False, disable_env_checker=True)
            self._env: Any = made.unwrapped
        space = self._env.action_space
        self.action_low, self.action_high = space.low.copy(), space.high.copy()
        self._settings = settings
        self._cells = free_cells(self._env.maze_map)
        self._vertices = [cell for cell in self._cells if not is_corridor(self._env.maze_map, cell)]
        self._ways: dict[tuple[Cell, Cell], np.ndarray] = {}
        # The first reset leaves another solver state behind than later ones.
        self._reset(0, self._cells[0], self._cells[0])

    @property
    def widths(self) -> Widths:
        return widths_of(self._rows(1))

    def episode(self, rng: np.random.Generator) -> Columns:
        """One episode, a function of the generator's state alone."""
        settings, env = self._settings, self._env
        start = _draw(rng, self._cells)
        if settings.kind == "navigate":
            goal = _draw(rng, self._vertices)
        else:
            steps = steps_from(env.maze_map, start)
            goal = _draw(rng, [cell for cell in self._cells if steps[cell] == settings.reach] or [start])
        observation = self._reset(int(rng.integers(2**31)), start, goal)
        columns = self._rows(settings.rows)
        for row in range(settings.rows):
            columns["observations"][row] = observation
            # After a teleport the state is the exit already, while the observation is still the entrance.
            columns["qpos"][row] = env.data.qpos
            columns["qvel"][row] = env.data.qvel
            if row == settings.rows - 1:
                break
            direction = self._next_cell(env.get_xy(), env.cur_goal_xy) - env.get_xy()
            action = direction / (np.linalg.norm(direction) + 1e-6) + rng.normal(0, settings.noise, 2)
            columns["actions"][row] = np.clip(action, self.action_low, self.action_high)
            observation, _, _, _, info = env.step(columns["actions"][row])
            if info["success"] and settings.kind == "navigate":
                # set_goal with a cell would move the picture of the goal to NaN.
                env.set_goal(goal_xy=env.add_noise(env.ij_to_xy(_draw(rng, self._vertices))))
        return columns

    def _reset(self, seed: int, start: Cell, goal: Cell) -> np.ndarray:
        np.random.seed(seed)  # noqa: NPY002 (start, goal and teleporters draw from the global generator)
        self._env.action_space.seed(seed)
        return self._env.reset(seed=seed, options={"task_info": {"init_ij": start, "goal_ij": goal}})[0]

    def _rows(self, rows: int) -> Columns:
        model = self._env.model
        return {
            "observations": np.zeros((rows, model.nq), np.float32),
            "actions": np.zeros((rows, len(self.action_low)), np.float32),
            "qpos": np.zeros((rows, model.nq), np.float32),
            "qvel": np.zeros((rows, model.nv), np.float32),
        }

    def _next_cell(self, here: np.ndarray, goal: np.ndarray) -> np.ndarray:
        # The oracle searches the whole maze at every step, but looks at no more than the two cells.
        way = (self._env.xy_to_ij(here), self._env.xy_to_ij(goal))
        if way not in self._ways:
            self._ways[way] = self._env.get_oracle_subgoal(here, goal)[0]
        return self._ways[way]


def free_cells(maze: np.ndarray) -> list[Cell]:
    return [(int(i), int(j)) for i, j in np.argwhere(maze == 0)]


def is_corridor(maze: np.ndarray, cell: Cell) -> bool:
    """Whether a cell is free on two opposite sides and walled on the other two."""
    i, j = cell
    vertical, horizontal = (
        {int(maze[i - 1, j]), int(maze[i + 1, j])},
        {int(maze[i, j - 1]), int(maze[i, j + 1])},
    )
    return (vertical, horizontal) in (({0}, {1}), ({1}, {0}))


def steps_from(maze: np.ndarray, start: Cell) -> dict[Cell, int]:
    """Length of the shortest way from ``start`` to every free cell; -1 where there is none."""
    steps = {cell: -1 for cell in free_cells(maze)}
    steps[start] = 0
    reached = [start]
    for i, j in reached:  # grows while it is walked
        for di, dj in _NEIGHBOURS:
            cell = (i + di, j + dj)
            if steps.get(cell) == -1:
                steps[cell] = steps[i, j] + 1
                reached.append(cell)
    return steps


def _draw(rng: np.random.Generator, cells: list[Cell]) -> Cell:
    return cells[int(rng.integers(len(cells)))]
