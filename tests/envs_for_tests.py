"""Small environments for tests of the pool and the rollout; importing this module registers them."""

from __future__ import annotations

import os
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Drift(gymnasium.Env):
    """A point on a line that drifts: an episode succeeds when it is steered close to 0 and ends after 12 steps.

    It has the traps of real environments: an action space that is new at every access, a random action and a global
    random number in every reset, global random numbers in steps, and memory that the first reset does not clear.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, gives_success: bool = True, sleep: float = 0.0) -> None:
        self.gives_success, self.sleep = gives_success, sleep
        self.compiled = False

    @property
    def action_space(self) -> Box:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.memory = 0.0 if self.compiled else 1e-3
        self.compiled = True
        noise = self.np_random.normal() + 0.01 * self.action_space.sample()[0] + 0.01 * np.random.uniform()  # noqa: NPY002
        self.x = noise + self.memory
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return np.array([self.x, self.time / 12])

    def step(self, action):
        if self.sleep:
            time.sleep(self.sleep)
        self.time += 1
        self.x += 0.3 * float(action[0]) + 0.1 * np.random.normal()  # noqa: NPY002
        success = abs(self.x) < 0.15
        info = {"success": success} if self.gives_success else {}
        return self.observe(), float(success) - 1.0, success, False, info


class Broken(Drift):
    """Fails in its third step: by an exception, or by ending the process."""

    def __init__(self, how: str = "raise") -> None:
        super().__init__()
        self.how = how

    def step(self, action):
        if self.time == 2:
            if self.how == "raise":
                raise RuntimeError("the gripper fell off")
            os._exit(3)
        self.x = 5.0
        return super().step(action)


class Jaxless(Drift):
    """Shows in its observation whether this process has imported jax, and how many threads OpenMP may use."""

    def observe(self) -> np.ndarray:
        import sys

        return np.array([float("jax" in sys.modules), float(os.environ["OMP_NUM_THREADS"])])


class Pixels(Drift):
    observation_space = Box(0, 255, (8, 8, 3), np.uint8)


class Nested(Drift):
    observation_space = Dict({"a": Box(0, 1, (2,))})


class Buttons(Drift):
    action_space = Discrete(3)


for _name, _kind, _options in (
    ("Drift", Drift, {}),
    ("Silent", Drift, {"gives_success": False}),
    ("Slow", Drift, {"sleep": 0.01}),
    ("Raises", Broken, {}),
    ("Dies", Broken, {"how": "exit"}),
    ("Jaxless", Jaxless, {}),
    ("Pixels", Pixels, {}),
    ("Nested", Nested, {}),
    ("Buttons", Buttons, {}),
):
    gymnasium.register(f"steerflow-test/{_name}-v0", _kind, max_episode_steps=12, kwargs=_options)
