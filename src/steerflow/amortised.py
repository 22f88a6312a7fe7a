"""The amortised guidance artefact: a small network distilled from a critic's gradient, ``RUN/amortised/<task>``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from steerflow.critic import Critic
from steerflow.errors import MismatchError
from steerflow.learn.networks import MLP
from steerflow.learn.tensors import from_tensors
from steerflow.policy import Policy, read_network, save_network
from steerflow.spec import Normaliser, Spec


class AmortisedGradient(eqx.Module):
    """In place of a critic's gradient: ``dQ/da (observation, a) ~ scale * body(observation, a)``.

    ``scale`` is the root mean square of the gradient over the data, so that ``body`` learns numbers of size 1 whatever the
    rewards' unit; it is measured, not trained.
    """

    body: MLP
    scale: Float[Array, ""]

    def __init__(
        self,
        key: Key[Array, ""],
        observation_dim: int,
        flat_dim: int,
        hidden: tuple[int, ...],
        scale: Float[Array, ""] | float,
    ) -> None:
        self.body = MLP(key, observation_dim + flat_dim, hidden, flat_dim)
        self.scale = jnp.asarray(scale, jnp.float32)

    def normalised(
        self, observations: Float[Array, "batch observation"], a: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        """The gradient in units of ``scale``."""
        return self.body(jnp.concatenate([observations, a], axis=-1))

    def __call__(
        self, observations: Float[Array, "batch observation"], a: Float[Array, "batch flat"]
    ) -> Float[Array, "batch flat"]:
        return self.scale * self.normalised(observations, a)


@dataclass(frozen=True)
class AmortisedGuidance:
    """Predicts the gradient of one critic where one policy's flow leads; acts without the critic.

    ``gradient(observations, a)`` is (batch, chunk * action) for observations in the data's units and chunks ``a`` of that
    shape scaled to [-1, 1]; its unit is the critic's.
    """

    spec: Spec
    normaliser: Normaliser
    network: AmortisedGradient
    meta: dict[str, Any]

    @property
    def task(self) -> str:
        return str(self.meta["task"])

    @property
    def fingerprint(self) -> str:
        """A short name for exactly these weights."""
        return str(self.meta.get("sha256", "unsaved"))[:16]

    def gradient(self, observations, a):
        return self.network(self.normaliser(observations), a)

    def require_fits(self, policy: Policy, critic: Critic | None, aggregate: str) -> None:
        """Raises MismatchError unless it was distilled with this policy, this critic (where there is one) and ``aggregate``."""
        policy.spec.require_same(self.spec, "policy", "amortised guidance")
        again, mine = "Distil again: steerflow train amortised --run RUN", "The amortised guidance was distilled"
        for kind, part in {"policy": policy, "critic": critic}.items():
            if part is not None and part.fingerprint != self.meta[kind]:
                raise MismatchError(f"{mine} with the {kind} {self.meta[kind]}, not with {part.fingerprint}. {again}")
        if aggregate != self.meta["aggregate"]:
            raise MismatchError(
                f"{mine} from the critics' {self.meta['aggregate']}, but the recipe's aggregate is {aggregate}. "
                f"{again} --amortised.aggregate {aggregate!r}"
            )

    def save(self, folder: Path | str) -> None:
        save_network(Path(folder), "amortised", self)

    @staticmethod
    def load(folder: Path | str) -> AmortisedGuidance:
        """Load from a folder; raises ArtefactError if it is missing, damaged or no amortised guidance."""
        tensors, meta, spec, normaliser = read_network(Path(folder), "amortised")
        hidden = tuple(meta["network"]["hidden"])
        shape = jax.eval_shape(
            lambda: AmortisedGradient(jax.random.key(0), spec.observation_dim, spec.flat_dim, hidden, 1.0)
        )
        network = from_tensors(shape, tensors, f"the amortised guidance at {folder}")
        return AmortisedGuidance(spec, normaliser, network, meta)
