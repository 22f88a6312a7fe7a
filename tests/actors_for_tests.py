"""Stand-ins for a policy, a critic and an actor, so that tests of the evaluation need no training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from steerflow.critic import Critic, CriticNetworks
from steerflow.evaluate.arms import Arm
from steerflow.learn.networks import Critics, Value, Velocity
from steerflow.learn.part_networks import AmortisedGradient
from steerflow.part import Part
from steerflow.policy import Policy
from steerflow.spec import Normaliser, Spec
from steerflow.steer.presets import recipe

POLICY: Any = SimpleNamespace(spec=Spec(2, 2, 3, (-1.0, -1.0), (1.0, 1.0)), fingerprint="policy-1")
CRITIC: Any = SimpleNamespace(spec=POLICY.spec, fingerprint="critic-1")


class DriftActor:
    """Acts on the ``Drift`` environment: noise that depends on (seed, decision), and a push to 0 that grows with the weight.

    Small weights do little, large ones overshoot; candidates push as weights do. Counts its calls and their rows.
    """

    def __init__(self, arm: Arm) -> None:
        self.recipe = arm.recipe
        self.batches: list[int] = []

    def rows(self, seeds, decisions, observations, weights):
        self.batches.append(len(seeds))
        actions = np.zeros((len(seeds), 3, 2), np.float32)
        strength = weights if self.recipe.guided else np.log(self.recipe.candidates) / 8
        for i, (seed, decision) in enumerate(zip(seeds, decisions, strict=True)):
            noise = np.random.default_rng([int(seed), int(decision)]).normal(size=(3, 2))
            push = -np.broadcast_to(strength, len(seeds))[i] * 8 * observations[i, 0]
            actions[i] = np.clip(0.5 * noise + push, -1, 1)
        norms = np.full(len(seeds), 2.0, np.float32)
        info = {
            "q": -np.abs(observations[:, 0]),
            "velocity_norm": norms,
            "gradient_norm": norms * 2 if self.recipe.guided else norms * 0,
            "clipped_fraction": (np.abs(actions) == 1).mean(axis=(1, 2)),
            "candidate": np.zeros(len(seeds)),
        }
        return actions, info


def arm(method: str, **changes: Any) -> Arm:
    return Arm.of(method, POLICY, CRITIC, recipe(method, **changes))


def untrained(run: Path, task: str, spec: Spec = POLICY.spec, seed: int = 0) -> tuple[Policy, Critic]:
    """A small policy and critic with random weights, saved in a run folder and loaded again."""
    key, hidden, normaliser = jax.random.key(seed), (16, 16), Normaliser.identity(spec.observation_dim)
    velocity = Velocity(key, spec.observation_dim, spec.flat_dim, hidden, 100.0)
    networks = CriticNetworks(
        Critics(key, spec.observation_dim, spec.flat_dim, hidden, 2), Value(key, spec.observation_dim, hidden)
    )
    Policy(spec, normaliser, velocity, {"network": {"hidden": hidden, "time_frequency": 100.0}}).save(run / "policy")
    facts = {"network": {"hidden": hidden, "ensemble": 2}, "task": task}
    Critic(spec, normaliser, networks, facts).save(run / "critic" / task)
    return Policy.load(run / "policy"), Critic.load(run / "critic" / task)


def distilled(run: Path, policy: Policy, critic: Critic, seed: int = 0) -> Part:
    """An amortised part of these two with random weights, saved in a run folder and loaded again."""
    spec, folder = policy.spec, run / "amortised" / critic.task
    network = AmortisedGradient(jax.random.key(seed), spec.observation_dim, spec.flat_dim, (8,), 2.0)
    meta = {"kind": "amortised", "network": {"hidden": (8,)}, "task": critic.task, "aggregate": "min"}
    sources = {"policy": policy.fingerprint, "critic": critic.fingerprint}
    Part(spec, policy.normaliser, network, meta | sources).save(folder)
    return Part.load(folder)
