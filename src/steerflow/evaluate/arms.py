"""What is compared, and the compiled policies that act for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from steerflow.evaluate.rows import arm_key, fingerprints

if TYPE_CHECKING:
    from steerflow.critic import Critic
    from steerflow.part import Part
    from steerflow.policy import Policy
    from steerflow.steer.recipe import Recipe


@dataclass(frozen=True)
class Arm:
    """What is compared: a policy, a critic and a recipe. ``name`` is shown, ``method`` groups arms that differ in strength."""

    name: str
    method: str
    policy: Policy
    critic: Critic | None
    recipe: Recipe
    # Those that the recipe asks, by kind.
    parts: Mapping[str, Part] = field(default_factory=dict)

    @staticmethod
    def of(
        method: str,
        policy: Policy,
        critic: Critic | None,
        recipe: Recipe,
        parts: Mapping[str, Part] | None = None,
    ) -> Arm:
        """An arm whose name tells its strength: ``qgf w=0.1``, ``best_of_n n=16``, ``qgf steps=20 w=0.1``.

        Of ``parts``, those belong to it that the recipe asks.
        """
        used = {kind: part for kind, part in (parts or {}).items() if kind in recipe.asks}
        name = method + _changes(method, recipe)
        weight = f" w={recipe.to_json()['weight']:g}" if recipe.guided else ""
        candidates = f" n={recipe.candidates}" if recipe.candidates > 1 else ""
        return Arm(name + weight + candidates, method_name(method, recipe), policy, critic, recipe, used)

    def key(self, task: str, split: str) -> tuple[str, ...]:
        """Identifies the arm in a file of rows."""
        return arm_key(self.name, self.recipe.to_json(), self.fingerprints, task, split)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of all that it is made of, as an episode's row has them."""
        return fingerprints(self.policy.fingerprint, self.critic.fingerprint if self.critic else "", self.part_names)

    @property
    def part_names(self) -> dict[str, str]:
        """The fingerprints of its parts by kind."""
        return {kind: part.fingerprint for kind, part in self.parts.items()}


class Acts(Protocol):
    """What the rollout needs of ``steerflow.steer.actor.Actor``."""

    def rows(
        self, seeds: np.ndarray, decisions: np.ndarray, observations: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]: ...


def method_name(method: str, recipe: Recipe) -> str:
    """The method, and what its recipe changes in the preset besides its strength: arms of one name form one curve.

    Behaviour cloning stays ``bc``: it is what all others are compared with.
    """
    return method if method == "bc" else method + _changes(method, recipe)


def _changes(method: str, recipe: Recipe) -> str:
    from steerflow.steer.presets import PRESETS

    if method not in PRESETS:
        return ""
    usual, strength = PRESETS[method].to_json(), ("weight", "candidates")
    return "".join(f" {k}={v}" for k, v in recipe.to_json().items() if k not in strength and v != usual.get(k))


class Actors:
    """One actor for all arms of equal structure; it decides once for everything that waits for it.

    Keep one over several evaluations: an actor is compiled once, in the background.
    """

    def __init__(self, make_actor: Callable[[Arm], Acts] | None = None) -> None:
        self._make = make_actor or _actor
        # By structure; the arm is kept because its key holds the identities of its networks.
        self._actors: dict[tuple, tuple[Future[Acts], Arm]] = {}
        self._noted: dict[tuple, Arm] = {}
        self._compiler = ThreadPoolExecutor(1, "compile")
        self.compile_seconds = 0.0

    def prepare(self, arms: Iterable[Arm]) -> None:
        """Note what these arms need: it is made and compiled, in this order, from the first use of any actor on."""
        for arm in arms:
            if self._key(arm) not in self._actors:
                self._noted.setdefault(self._key(arm), arm)

    def of(self, arm: Arm) -> Future[Acts]:
        """The actor of a prepared arm once it is compiled, or what making it raised."""
        for key, noted in self._noted.items():
            self._actors[key] = self._compiler.submit(self._compiled, noted), noted
        self._noted = {}
        return self._actors[self._key(arm)][0]

    def _compiled(self, arm: Arm) -> Acts:
        begin = time.perf_counter()
        actor = self._make(arm)
        zero, observation = np.zeros(1, np.int64), np.zeros((1, arm.policy.spec.observation_dim), np.float32)
        actor.rows(zero, zero, observation, np.zeros(1, np.float32))
        self.compile_seconds += time.perf_counter() - begin
        return actor

    @staticmethod
    def _key(arm: Arm) -> tuple:
        made_of = (id(arm.policy), id(arm.critic), *(id(part) for part in arm.parts.values()))
        return (*made_of, json.dumps(arm.recipe.structure().to_json(), sort_keys=True))


def _actor(arm: Arm) -> Acts:
    from steerflow.steer.actor import Actor

    return Actor(arm.policy, arm.critic, arm.recipe.structure(), arm.parts)
