"""Parts: what is learnt for steering beside policy and critic, from these two, frozen. ``RUN/<kind>/<task>``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
from jaxtyping import Array

from steerflow.critic import Critic
from steerflow.errors import MismatchError, SteerflowError, unknown
from steerflow.learn.part_networks import AmortisedGradient, NoiseActor, NoisyCritic, OptimalityVelocity
from steerflow.policy import Policy
from steerflow.trained import Trained, load_trained

# The network of each kind; learn/distil.py says how it is learnt.
NETWORKS: Mapping[str, Callable[..., eqx.Module]] = {
    "amortised": AmortisedGradient,
    "robust": NoisyCritic,
    "optimal": OptimalityVelocity,
    "latent": NoiseActor,
}


@dataclass(frozen=True)
class Part(Trained[eqx.Module]):
    """A network for steering, learnt from one policy and one critic; ``kind`` says which ("amortised", ...).

    Called with observations in the data's units and what else its network takes.
    """

    @property
    def kind(self) -> str:
        return str(self.meta["kind"])

    @property
    def task(self) -> str:
        return str(self.meta["task"])

    def __call__(self, observations: Array, *inputs: Array) -> Array:
        return self.network(self.normaliser(observations), *inputs)  # pyright: ignore[reportCallIssue]

    def require_fits(self, policy: Policy, critic: Critic | None, aggregate: str) -> None:
        """Raises MismatchError unless it was learnt from this policy, this critic (where there is one) and, where that
        matters to its kind, ``aggregate``."""
        policy.spec.require_same(self.spec, "policy", f"{self.kind} part")
        again, mine = f"Learn it again: steerflow train {self.kind} --run RUN", f"The {self.kind} part was learnt"
        for what, source in {"policy": policy, "critic": critic}.items():
            if source is not None and source.fingerprint != self.meta[what]:
                raise MismatchError(f"{mine} from the {what} {self.meta[what]}, not from {source.fingerprint}. {again}")
        if aggregate != self.meta.get("aggregate", aggregate):
            raise MismatchError(
                f"{mine} from the critics' {self.meta['aggregate']}, but the recipe's aggregate is {aggregate}. "
                f"{again} --{self.kind}.aggregate {aggregate!r}"
            )

    @staticmethod
    def load(folder: Path | str, kind: str | None = None) -> Part:
        """Load from a folder; raises ArtefactError if it is missing, damaged, or no part or not of the ``kind``."""
        if kind is not None and kind not in NETWORKS:
            raise unknown("part", kind, NETWORKS)
        return Part(**load_trained(folder, {kind: NETWORKS[kind]} if kind else NETWORKS))


def by_kind(parts: Iterable[Part]) -> dict[str, Part]:
    """Parts by their kind; raises SteerflowError for two of one kind."""
    found: dict[str, Part] = {}
    for part in parts:
        if part.kind in found:
            raise SteerflowError(f"There are two {part.kind} parts; give one of each kind.")
        found[part.kind] = part
    return found
