"""The critic artefact: an ensemble of critics and a value for one task, ``RUN/critic/<task>``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from steerflow.errors import MismatchError, SteerflowError
from steerflow.learn.networks import Critics, Value
from steerflow.policy import measure_deviation
from steerflow.trained import Trained, load_trained


class CriticNetworks(eqx.Module):
    """What a critic artefact holds: the target critics, which steer, and the value."""

    critics: Critics
    value: Value


@dataclass(frozen=True)
class Critic(Trained[CriticNetworks]):
    """Critics of one task. ``q(observations, a)`` is (ensemble, batch) for observations in the data's units and chunks
    ``a`` (batch, chunk * action) scaled to [-1, 1]; ``value(observations)`` is (batch,)."""

    @property
    def kind(self) -> str:
        return "critic"

    @property
    def task(self) -> str:
        return str(self.meta["task"])

    def q(self, observations, a):
        return self.network.critics(self.normaliser(observations), a)

    def value(self, observations):
        return self.network.value(self.normaliser(observations))

    @property
    def ensemble(self) -> int:
        """How many critics there are."""
        return int(self.meta["network"]["ensemble"])

    def first(self, count: int) -> Critic:
        """The first ``count`` critics alone, with the same value and scales; raises SteerflowError if there are fewer."""
        if not 1 <= count <= self.ensemble:
            raise SteerflowError(
                f"The critic of {self.task} is an ensemble of {self.ensemble}; {count} cannot be taken of it."
            )
        if count == self.ensemble:
            return self
        some = jax.tree.map(lambda x: x[:count], self.network.critics)
        name = hashlib.sha256(f"{self.meta.get('sha256')} first {count}".encode()).hexdigest()
        meta = {**self.meta, "network": {**self.meta["network"], "ensemble": count}, "sha256": name}
        return replace(self, network=CriticNetworks(some, self.network.value), meta=meta)

    @staticmethod
    def load(folder: Path | str) -> Critic:
        """Load from a folder; raises ArtefactError if it is missing, damaged or no critic."""
        return Critic(**load_trained(folder, {"critic": _networks}))


def _networks(key, observation_dim: int, flat_dim: int, hidden: tuple[int, ...], ensemble: int) -> CriticNetworks:
    return CriticNetworks(
        Critics(key, observation_dim, flat_dim, hidden, ensemble), Value(key, observation_dim, hidden)
    )


def measure_scales(
    q: Callable[[Any, Any], Any],
    observations,
    actions,
    value: Callable[[Any], Any] | None = None,
    *,
    velocity: Callable[[Any, Any, Any], Any] | None = None,
) -> dict[str, float]:
    """What makes a weight free of the critic's unit, over data: for ``steer_functions(..., scales=)``.

    ``q(observations, a)`` -> (batch,) or (ensemble, batch), of which the mean counts; ``actions`` are the data's chunks as q
    takes them, (batch, flat), a few thousand of them. "gradient": the root mean square, over states and dimensions, of
    ``dQ/da (s, a)``. "steepness": the mean over states of ``n(s)``, that gradient's root mean square over dimensions, in which
    each state counts ``n(s)^2`` times: ``sum n^3 / sum n^2``, the gradient where actions matter. With ``value(observations)`` ->
    (batch,) also "spread": the standard deviation of ``Q(s, a) - V(s)``; the data's actions are samples of the reference
    policy. With ``velocity(observations, a, t)`` -> (batch, flat) also "deviation", the policy's own (``measure_deviation``).
    Raises MismatchError where these are not finite numbers.
    """
    observations, actions = jax.device_put((observations, actions))
    mean = lambda a: jnp.mean(jnp.atleast_2d(q(observations, a)), axis=0)  # noqa: E731
    # In float64, for rewards in any unit.
    gradient = np.asarray(jax.grad(lambda a: jnp.sum(mean(a)))(actions), np.float64)
    norms = np.sqrt(np.mean(gradient**2, axis=-1))
    scales = {
        "gradient": float(np.sqrt(np.mean(norms**2))),
        "steepness": float(np.sum(norms**3) / max(np.sum(norms**2), np.finfo(np.float64).tiny)),
    }
    if value is not None:
        scales["spread"] = float(np.std(np.asarray(mean(actions) - value(observations), np.float64)))
    if velocity is not None:
        scales["deviation"] = measure_deviation(velocity, observations, actions.shape[1])
    if not all(math.isfinite(scale) for scale in scales.values()):
        raise MismatchError(f"The critic's scales over these data are not finite: {scales}.")
    return scales
