"""The usual way, re-stated plainly for comparison: what a researcher's training script does.

The mathematics is that of steerflow (flow matching; IQL with two critics), the program is the customary one: batches are
drawn with numpy, one jitted update is called for each, all networks are one agent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from steerflow.critic import Critic
from steerflow.policy import Policy


def mlp_init(key, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Dense, LayerNorm, GELU blocks and a linear output."""
    layers = []
    for k, i, o in zip(jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True):
        kernel = jax.nn.initializers.xavier_uniform()(k, (i, o))
        layers.append({"kernel": kernel, "bias": jnp.zeros(o), "scale": jnp.ones(o), "shift": jnp.zeros(o)})
    return layers


def mlp(layers: list[dict[str, Any]], x):
    for layer in layers[:-1]:
        x = x @ layer["kernel"] + layer["bias"]
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        x = jax.nn.gelu((x - mean) / jnp.sqrt(var + 1e-6) * layer["scale"] + layer["shift"])
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def time_features(t):
    w = 100.0 ** (1 - jnp.arange(8) / 8)
    return jnp.concatenate([jnp.cos(t * w), jnp.sin(t * w)], axis=-1)


def velocity(layers, observations, a, t):
    return mlp(layers, jnp.concatenate([observations, a, time_features(t)], axis=-1))


def critics(members, observations, a):
    x = jnp.concatenate([observations, a], axis=-1)
    return jax.vmap(lambda layers: mlp(layers, x)[:, 0])(members)


_OPTIMISER = optax.adam(3e-4)


def agent(seed: int, observation_dim: int, flat_dim: int, hidden: tuple[int, ...]) -> dict[str, Any]:
    """All networks with one optimiser."""
    k1, k2, k3, k4 = jax.random.split(jax.random.key(seed), 4)
    inputs = observation_dim + flat_dim
    parameters = {
        "velocity": mlp_init(k1, (inputs + 16, *hidden, flat_dim)),
        "critics": jax.vmap(lambda k: mlp_init(k, (inputs, *hidden, 1)))(jax.random.split(k2, 2)),
        "value": mlp_init(k3, (observation_dim, *hidden, 1)),
    }
    target = jax.tree.map(jnp.copy, parameters["critics"])
    return {"parameters": parameters, "target": target, "optimiser": _OPTIMISER.init(parameters), "key": k4}


@jax.jit
def update(agent: dict[str, Any], batch: dict[str, Any]):
    """One update of everything on one batch; returns the agent and its losses."""
    key, noise_key, time_key = jax.random.split(agent["key"], 3)

    def loss(p):
        observations, action = batch["observations"], batch["actions"]
        noise, t = jax.random.normal(noise_key, action.shape), jax.random.uniform(time_key, (len(action), 1))
        v = velocity(p["velocity"], observations, (1 - t) * noise + t * action, t)
        flow_loss = jnp.mean((v - (action - noise)) ** 2)
        next_value = mlp(jax.lax.stop_gradient(p["value"]), batch["next_observations"])[:, 0]
        q = critics(p["critics"], observations, action)
        critic_loss = jnp.mean((q - (batch["returns"] + batch["bootstrap"] * next_value)) ** 2)
        advantage = critics(agent["target"], observations, action).min(axis=0) - mlp(p["value"], observations)[:, 0]
        value_loss = jnp.mean(jnp.where(advantage >= 0, 0.9, 0.1) * advantage**2)
        return flow_loss + critic_loss + value_loss, {"flow": flow_loss, "critic": critic_loss, "value": value_loss}

    gradient, info = jax.grad(loss, has_aux=True)(agent["parameters"])
    step, optimiser = _OPTIMISER.update(gradient, agent["optimiser"])
    parameters = optax.apply_updates(agent["parameters"], step)
    target = jax.tree.map(lambda p, t: 0.005 * p + 0.995 * t, parameters["critics"], agent["target"])
    return {"parameters": parameters, "target": target, "optimiser": optimiser, "key": key}, info


class Sampler:
    """Random chunks of a data set in memory, with numpy."""

    def __init__(self, store, task: str, batch: int, chunk: int, discount: float = 0.99) -> None:
        self.observations, self.actions = np.array(store.observations), np.array(store.actions)
        self.rewards, self.masks = (np.array(x) for x in store.rewards(task))
        ends = np.asarray(store.episode_ends)
        starts = np.concatenate([[0], ends[:-1]])
        self.starts = np.concatenate([np.arange(s, e - chunk) for s, e in zip(starts, ends, strict=True)])
        self.batch, self.chunk, self.discount = batch, chunk, discount
        self.random = np.random.default_rng(0)

    def __call__(self) -> dict[str, np.ndarray]:
        rows = self.random.choice(self.starts, self.batch)
        window = rows[:, None] + np.arange(self.chunk)
        alive = np.cumprod(self.masks[window], axis=1)
        before = np.concatenate([np.ones((self.batch, 1)), alive[:, :-1]], axis=1)
        powers = self.discount ** np.arange(self.chunk + 1)
        return {
            "observations": self.observations[rows],
            "next_observations": self.observations[rows + self.chunk],
            "actions": self.actions[window].reshape(self.batch, -1),
            "returns": (powers[:-1] * before * self.rewards[window]).sum(axis=1).astype(np.float32),
            "bootstrap": (powers[-1] * alive[:, -1]).astype(np.float32),
        }


class Slices:
    """Data that do not fit into the memory: one npz slice at a time; ``sampler`` draws from the one that was loaded last."""

    def __init__(self, files, batch: int, chunk: int) -> None:
        self.files, self.batch, self.chunk, self.loaded = files, batch, chunk, 0

    def load(self) -> float:
        """Load the next slice, while all else waits; returns the seconds."""
        begin = time.perf_counter()
        with np.load(self.files[self.loaded % len(self.files)]) as file:
            columns = {name: file[name] for name in ("observations", "actions", "terminals", "rewards", "masks")}
        store = SimpleNamespace(
            observations=columns["observations"],
            actions=columns["actions"],
            episode_ends=np.flatnonzero(columns["terminals"]) + 1,
            rewards=lambda task: (columns["rewards"], columns["masks"]),
        )
        self.sampler = Sampler(store, "", self.batch, self.chunk)
        self.loaded += 1
        return time.perf_counter() - begin


def train(agent: dict[str, Any], sampler: Callable[[], dict[str, np.ndarray]], updates: int) -> dict[str, Any]:
    """The training loop."""
    info: dict[str, Any] = {}
    for step in range(updates):
        agent, info = update(agent, sampler())
        if step % 1000 == 0:
            info = {name: float(value) for name, value in info.items()}
    jax.block_until_ready(agent)
    return agent


class Evaluation:
    """The evaluation loop: an environment, an agent and one jitted call for each decision, one episode after the other.

    ``start`` and ``episode`` are for processes that each run their own.
    """

    _own: Evaluation

    def __init__(self, run: Path, task: str) -> None:
        os.environ.setdefault("MUJOCO_GL", "disabled")
        import gymnasium
        import ogbench  # noqa: F401 (registers its environments)

        gymnasium.logger.min_level = gymnasium.logger.ERROR
        policy, critic = Policy.load(run / "policy"), Critic.load(run / "critic" / task)
        self.env = gymnasium.make(task)
        self.agent = {"policy": policy.network, "critic": critic.network}

        @jax.jit
        def act(agent, key, observation, weight):
            observations = observation[None]
            states, steps = policy.normaliser(observations), 10
            a = jax.random.normal(key, (1, policy.spec.flat_dim))
            for k in range(steps):
                t = k / steps
                v = agent["policy"](states, a, t)
                estimate = jnp.clip(a + (1 - t) * v, -1, 1)
                q = lambda x: agent["critic"].critics(critic.normaliser(observations), x).min(axis=0).sum()  # noqa: E731
                a = a + (v + weight * jax.grad(q)(estimate)) / steps
            return jnp.clip(a, -1, 1).reshape(policy.spec.chunk, policy.spec.action_dim)

        self.act = act

    def run(self, weight: float, seed: int) -> int:
        """One episode; its number of steps."""
        observation, _ = self.env.reset(seed=seed)
        key, queue, steps, done = jax.random.key(seed), [], 0, False
        while not done:
            if not queue:
                key, use = jax.random.split(key)
                queue = list(np.asarray(self.act(self.agent, use, observation.astype(np.float32), weight)))
            observation, _, terminated, truncated, _ = self.env.step(queue.pop(0))
            steps, done = steps + 1, terminated or truncated
        return steps

    @staticmethod
    def start(run: Path, task: str, barrier=None) -> None:
        """Build and compile everything; with a barrier, wait until all processes have."""
        own = Evaluation._own = Evaluation(run, task)
        observation, _ = own.env.reset(seed=0)
        own.act(own.agent, jax.random.key(0), observation.astype(np.float32), 0.0)
        if barrier is not None:
            barrier.wait()

    @staticmethod
    def episode(weight: float, seed: int) -> int:
        return Evaluation._own.run(weight, seed)


@jax.jit
def sample_actions(agent: dict[str, Any], key, observations, weight):
    """Guided actions (QGF) in [-1, 1]: ten steps, written out; the entire agent is the argument."""
    p, flat = agent["parameters"], agent["parameters"]["velocity"][-1]["bias"].shape[-1]
    a = jax.random.normal(key, (len(observations), flat))
    for k in range(10):
        t = jnp.full((len(observations), 1), k / 10)
        v = velocity(p["velocity"], observations, a, t)
        estimate = jnp.clip(a + (1 - t) * v, -1, 1)
        g = jax.grad(lambda x: critics(agent["target"], observations, x).min(axis=0).sum())(estimate)
        a = a + (v + weight * g) / 10
    return jnp.clip(a, -1, 1)


def act(agent: dict[str, Any], key, observations: np.ndarray, weight: float, low: float, high: float) -> np.ndarray:
    """A decision for numpy observations, as a numpy array in the environment's units."""
    _, key = jax.random.split(key)
    actions = np.asarray(sample_actions(agent, key, observations, weight))
    return np.clip(low + (actions + 1) / 2 * (high - low), low, high)
