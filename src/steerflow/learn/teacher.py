"""What parts are learnt from: the policy and the critics of a run, frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.critic import Critic, CriticNetworks
from steerflow.data.store import Store
from steerflow.errors import MismatchError
from steerflow.learn.config import FlowMatchingConfig
from steerflow.policy import Policy
from steerflow.steer.aggregate import AGGREGATES
from steerflow.steer.models import Models

# States of the data that a learner may measure scales on.
_STATES = 1024


class Teacher(NamedTuple):
    """The policy and the critic of one task, as functions of observations in the data's units."""

    # The velocity, and the critics combined as the part's setting ``aggregate`` says.
    models: Models
    # Each critic (ensemble, batch), and the value (batch,).
    ensemble: Callable[[Array, Array], Array]
    value: Callable[[Array], Array]
    # Observations as the critic's networks see them, and the part's shall.
    sees: Callable[[Array], Array]
    # How the policy was trained.
    flow: FlowMatchingConfig
    states: Float[Array, "states obs"]


class Judge(NamedTuple):
    """A critic and how it sees observations, as arrays; those of several tasks have a leading axis."""

    networks: CriticNetworks
    mean: Float[Array, "*tasks obs"]
    std: Float[Array, "*tasks obs"]


@dataclass(frozen=True)
class Teachers:
    """Of several tasks."""

    policy: Policy
    critics: tuple[Critic, ...]
    aggregate: str
    states: Float[Array, "states obs"]

    @staticmethod
    def of(policy: Policy, critics: tuple[Critic, ...], aggregate: str, store: Store) -> Teachers:
        """Raises MismatchError where they do not fit the data or each other."""
        sizes = [jax.tree.map(jnp.shape, critic.network) for critic in critics]
        for critic, size in zip(critics, sizes, strict=True):
            policy.spec.require_same(critic.spec, "policy", "critic")
            if size != sizes[0]:
                raise MismatchError(
                    f"The critics of {critics[0].task} and {critic.task} differ in size; take them one by one, with --task."
                )
        found, needed = store.observations.shape[1], policy.spec.observation_dim
        if found != needed:
            raise MismatchError(
                f"The policy needs observations of {needed} dimensions, {store.path} has {found}. Give the --data it knows."
            )
        states = store.observations[:: max(1, store.rows // _STATES)][:_STATES]
        return Teachers(policy, critics, aggregate, jnp.asarray(states))

    @property
    def judges(self) -> Judge:
        """Of all tasks, stacked."""
        each = [Judge(c.network, c.normaliser.mean, c.normaliser.std) for c in self.critics]  # type: ignore[arg-type]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def of_task(self, judge: Judge) -> Teacher:
        """The teacher of the task whose critic ``judge`` is."""
        aggregate = AGGREGATES.parse(self.aggregate)
        sees = lambda observations: (observations - judge.mean) / judge.std  # noqa: E731
        ensemble = lambda observations, a: judge.networks.critics(sees(observations), a)  # noqa: E731
        models = Models(self.policy.velocity, lambda observations, a: aggregate(ensemble(observations, a)))
        value = lambda observations: judge.networks.value(sees(observations))  # noqa: E731
        return Teacher(models, ensemble, value, sees, flow_config(self.policy), self.states)


def flow_config(policy: Policy) -> FlowMatchingConfig:
    """How a policy was trained, from its meta data."""
    settings = {**policy.meta["config"], "hidden": tuple(policy.meta["network"]["hidden"])}
    return FlowMatchingConfig(**{f.name: settings[f.name] for f in fields(FlowMatchingConfig)})
