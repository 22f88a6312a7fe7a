"""Stand-ins for a policy, a critic and an actor, so that tests of the evaluation need no training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from steerflow.evaluate.rollout import Arm
from steerflow.evaluate.sweep import arm_name
from steerflow.spec import Spec
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
    chosen = recipe(method, **changes)
    return Arm(arm_name(method, chosen), method, POLICY, CRITIC, chosen)
