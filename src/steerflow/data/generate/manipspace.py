"""Episodes of OGBench's robot arm, collected with its scripted oracles."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from steerflow.data.generate.settings import Manipulation
from steerflow.data.generate.world import Columns, Widths, quiet, widths_of

# Where the scene's block is in qpos, and where it may be: in reach, or in the drawer where it is neither lower nor higher.
_BLOCK_Y, _BLOCK_Z = 15, 16
_Y_MAX, _Y_DRAWER, _Z_DRAWER = 0.29, -0.3, (0.06, 0.08)


class Arm:
    """An environment in data-collection mode with its oracles; builds in about a second."""

    def __init__(self, settings: Manipulation) -> None:
        with quiet():
            import gymnasium
            import ogbench.manipspace  # noqa: F401 (registers the environments)

            made = gymnasium.make(
                settings.env,
                mode="data_collection",
                terminate_at_goal=False,
                visualize_info=False,
                disable_env_checker=True,
            )
            # Typed as Any: OGBench keeps model, data and targets in private attributes.
            self._env: Any = made.unwrapped
            # The first reset compiles the model; what it leaves behind is where every episode starts.
            self._env.reset(seed=0)
            space = self._env.action_space
        self.action_low, self.action_high = space.low.copy(), space.high.copy()
        self._settings = settings
        self._oracles = _oracles(self._env, settings)
        self._has_buttons = hasattr(self._env, "_cur_button_states")
        skip_repeated_work(self._env)
        model = self._env.model
        self._model_start = {name: getattr(model, name).copy() for name in ("dof_damping", "site_pos")}
        changing = ("_target_", "_cur_button", "_prev_button")
        self._env_start = {n: copy.deepcopy(v) for n, v in vars(self._env).items() if n.startswith(changing)}

    @property
    def widths(self) -> Widths:
        return widths_of(self._rows(1))

    def episode(self, rng: np.random.Generator) -> Columns | None:
        """One episode, a function of the generator's state alone; None where the scene went wrong and is to be repeated."""
        settings, env = self._settings, self._env
        self._forget()
        seed = int(rng.integers(2**31))
        np.random.seed(seed)  # noqa: NPY002 (the oracles draw from the global generator)
        observation, info = env.reset(seed=seed)
        stack = rng.uniform(*settings.stack)
        xi = rng.uniform(0, settings.noise) if settings.oracle == "markov" else 0.0
        oracle = self._oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        columns = self._rows(settings.rows)
        for row in range(settings.rows):
            self._record(columns, row, observation)
            if row == settings.rows - 1:
                break
            if settings.random_action and rng.random() < settings.random_action:
                action = rng.uniform(self.action_low, self.action_high)
            else:
                action = np.asarray(oracle.select_action(observation, info))
                if settings.oracle == "markov":
                    action = action + rng.normal(0, xi * np.asarray(settings.noise_shape))
            # The environment gets what is stored, so that the stored actions replay the episode.
            columns["actions"][row] = np.clip(action, self.action_low, self.action_high)
            # As in the official sets, the oracle's next action still sees the info of before a new target.
            observation, _, _, _, info = env.step(columns["actions"][row])
            if oracle.done:
                new_observation, new_info = env.set_new_target(p_stack=stack)
                oracle = self._oracles[new_info["privileged/target_task"]]
                oracle.reset(new_observation, new_info)
        return columns if self._is_sound(columns) else None

    def _rows(self, rows: int) -> Columns:
        model, observation = self._env.model, self._env.compute_observation()
        columns: Columns = {
            "observations": np.zeros((rows, len(observation)), np.float32),
            "actions": np.zeros((rows, len(self.action_low)), np.float32),
            "qpos": np.zeros((rows, model.nq), np.float32),
            "qvel": np.zeros((rows, model.nv), np.float32),
        }
        if self._has_buttons:
            columns["button_states"] = np.zeros((rows, self._env._num_buttons), np.int8)
        return columns

    def _record(self, columns: Columns, row: int, observation: np.ndarray) -> None:
        columns["observations"][row] = observation
        columns["qpos"][row] = self._env.data.qpos
        columns["qvel"][row] = self._env.data.qvel
        if self._has_buttons:
            columns["button_states"][row] = self._env._cur_button_states

    def _forget(self) -> None:
        """Undo what a reset leaves as the last episode left it: locked joints, target sites, old targets."""
        for name, value in self._model_start.items():
            getattr(self._env.model, name)[:] = value
        for name, value in self._env_start.items():
            setattr(self._env, name, copy.deepcopy(value))

    def _is_sound(self, columns: Columns) -> bool:
        import mujoco

        # MuJoCo resets the scene when its numbers explode, and counts it here.
        kinds: Any = getattr(mujoco, "mjtWarning")  # noqa: B009 (missing from its type stubs)
        warned = (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)
        if any(self._env.data.warning[int(kind)].number for kind in warned):
            return False
        if not all(np.isfinite(column).all() for column in columns.values()):
            return False
        return not self._settings.env.startswith("scene") or block_in_reach(columns["qpos"])


def block_in_reach(qpos: np.ndarray) -> bool:
    """Whether the scene's block stays where it can be seen: y < .29, and y > -.3 unless it lies in the drawer."""
    y, z = qpos[:, _BLOCK_Y], qpos[:, _BLOCK_Z]
    outside_drawer = (z < _Z_DRAWER[0]) | (z > _Z_DRAWER[1])
    return not ((y >= _Y_MAX) | ((y <= _Y_DRAWER) & outside_drawer)).any()


def skip_repeated_work(env: Any) -> None:
    """Make the environment compute its info once per state instead of three times, and colour nothing.

    The info is a function of the state, which changes in ``reset``, ``set_new_target`` and just before ``post_step``.
    """
    memory: list[dict[str, Any]] = []
    compute = env.compute_ob_info

    def remembered() -> dict[str, Any]:
        if not memory:
            memory.append(compute())
        return memory[0]

    def forgetting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            memory.clear()
            return function(*args, **kwargs)

        return call

    env.compute_ob_info = remembered
    for name in ("reset", "set_new_target", "post_step"):
        setattr(env, name, forgetting(getattr(env, name)))
    for name in ("_cube_geom_ids_list", "_cube_target_geom_ids_list", "_button_geom_ids_list"):
        if hasattr(env, name):
            setattr(env, name, [[] for _ in getattr(env, name)])


def _oracles(env: Any, settings: Manipulation) -> dict[str, Any]:
    """Oracles by the kind of target; ``puzzle`` keeps its gripper closed."""
    closed = {"gripper_always_closed": True} if settings.env.startswith("puzzle") else {}
    kinds = {"cube": ("cube",), "scene": ("cube", "button", "drawer", "window"), "puzzle": ("button",)}
    family = settings.env.split("-")[0]
    if settings.oracle == "plan":
        from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
        from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
        from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

        classes: dict[str, Any] = {
            "cube": CubePlanOracle, "button": ButtonPlanOracle, "drawer": DrawerPlanOracle, "window": WindowPlanOracle
        }  # fmt: skip
        shared: dict[str, Any] = {"noise": settings.noise, "noise_smoothing": settings.smoothing}
    else:
        from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
        from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
        from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

        classes = {
            "cube": CubeMarkovOracle, "button": ButtonMarkovOracle, "drawer": DrawerMarkovOracle, "window": WindowMarkovOracle
        }  # fmt: skip
        shared = {"min_norm": settings.min_norm}
    return {k: classes[k](env=env, **shared, **(closed if k == "button" else {})) for k in kinds[family]}
