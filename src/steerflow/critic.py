"""The critic artefact: an ensemble of critics and a value for one task, ``RUN/critic/<task>``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from steerflow.learn.networks import Critics, Value
from steerflow.learn.tensors import from_tensors
from steerflow.policy import read_network, save_network
from steerflow.spec import Normaliser, Spec


class CriticNetworks(eqx.Module):
    """What a critic artefact holds: the target critics, which steer, and the value."""

    critics: Critics
    value: Value


@dataclass(frozen=True)
class Critic:
    """Critics of one task. ``q(observations, a)`` is (ensemble, batch) for observations in the data's units and chunks
    ``a`` (batch, chunk * action) scaled to [-1, 1]; ``value(observations)`` is (batch,)."""

    spec: Spec
    normaliser: Normaliser
    network: CriticNetworks
    meta: dict[str, Any]

    @property
    def task(self) -> str:
        return str(self.meta["task"])

    @property
    def fingerprint(self) -> str:
        """A short name for exactly these weights."""
        return str(self.meta.get("sha256", "unsaved"))[:16]

    def q(self, observations, a):
        return self.network.critics(self.normaliser(observations), a)

    def value(self, observations):
        return self.network.value(self.normaliser(observations))

    def save(self, folder: Path | str) -> None:
        save_network(Path(folder), "critic", self)

    @staticmethod
    def load(folder: Path | str) -> Critic:
        """Load from a folder; raises ArtefactError if it is missing, damaged or no critic."""
        tensors, meta, spec, normaliser = read_network(Path(folder), "critic")
        settings = meta["network"]
        hidden = tuple(settings["hidden"])
        key = jax.random.key(0)
        shape = jax.eval_shape(
            lambda: CriticNetworks(
                Critics(key, spec.observation_dim, spec.flat_dim, hidden, settings["ensemble"]),
                Value(key, spec.observation_dim, hidden),
            )
        )
        return Critic(spec, normaliser, from_tensors(shape, tensors, f"the critic at {folder}"), meta)
