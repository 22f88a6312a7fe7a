"""Acting: a policy, a critic and a recipe as one function from observations to action chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from steerflow.compiled import keep_compiled
from steerflow.critic import Critic
from steerflow.errors import DataError, MismatchError
from steerflow.part import Part, by_kind
from steerflow.policy import Policy
from steerflow.spec import Spec
from steerflow.steer.acting import ActingCritics, acting_form
from steerflow.steer.aggregate import AGGREGATES
from steerflow.steer.cost import count_flops
from steerflow.steer.models import Models
from steerflow.steer.prefix import Prefix, prefix_weights
from steerflow.steer.presets import recipe as recipe_of
from steerflow.steer.recipe import Recipe
from steerflow.steer.sample import Sampled, sample

# Rows are served in blocks of this size, so that a row's result never depends on how many others wait.
_BLOCK = 8


class Actor:
    """``act(key, observations)`` -> (actions (batch, chunk, action) in the environment's units, info of numpy arrays).

    A single observation (observation,) gives a single chunk (chunk, action). Compiled once for each batch size.
    """

    def __init__(
        self, policy: Policy, critic: Critic | None, recipe: Recipe, parts: Mapping[str, Part] = MappingProxyType({})
    ) -> None:
        if "critic" in recipe.asks and critic is None:
            raise MismatchError(
                "This recipe asks a critic, but none was given. Pass one, or steer with the method 'bc'."
            )
        if critic is not None:
            policy.spec.require_same(critic.spec, "policy", "critic")
        used = {kind: parts[kind] for kind in recipe.parts_asked(parts)}
        for part in used.values():
            part.require_fits(policy, critic, AGGREGATES.write(recipe.aggregate))
        keep_compiled()
        self.spec: Spec = policy.spec
        self.recipe = recipe
        self._policy, self._critic, self._parts = policy, critic, used
        critics = ActingCritics.of(critic.network.critics) if critic is not None else None
        networks = {kind: acting_form(part.network) for kind, part in used.items()}
        self._parameters = jax.device_put((acting_form(policy.network), critics, networks))
        self._act = jax.jit(self._trace_act)
        self._act_rows = jax.jit(self._trace_rows)
        self._sample_path = jax.jit(self._trace_path)

    def __call__(
        self,
        key: Key[Array, ""],
        observations: Float[np.ndarray, "*batch obs"],
        weight: float | None = None,
        *,
        committed: np.ndarray | None = None,
        delay: int = 0,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Act with the recipe's weight, or another; ``key`` is consumed.

        committed: what is left of the running chunk, (steps, action) or (batch, steps, action) in the environment's units, if
        the new one is computed while it runs; its first ``delay`` actions are executed before the new chunk begins. The new
        chunk, whose first action stands for the same moment, goes on from it (steer/prefix.py).
        """
        single = np.ndim(observations) == 1
        batch = self._check(np.asarray(observations, np.float32)[None] if single else observations)
        value = self.recipe.weight if weight is None else weight
        # A weight that is a function is part of the compiled function.
        weights = np.full(len(batch), 0.0 if callable(value) else value, np.float32)
        prefix = None if committed is None else self._prefix(committed, delay, len(batch))
        actions, info = _numpy(self._act(self._parameters, key, batch, weights, prefix))
        return (actions[0], {name: x[0] for name, x in info.items()}) if single else (actions, info)

    def rows(
        self, seeds: np.ndarray, decisions: np.ndarray, observations: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Act for rows that each have a noise seed, a decision number and a weight of their own.

        A row's result depends on that row only, bit for bit: not on the other rows, nor on how many there are.
        """
        batch = self._check(observations)
        blocks = []
        for first in range(0, len(batch), _BLOCK):
            parts = [np.asarray(x)[first : first + _BLOCK] for x in (seeds, decisions, batch, weights)]
            missing = _BLOCK - len(parts[0])
            padded = [np.concatenate([part, np.repeat(part[:1], missing, axis=0)]) for part in parts]
            dtypes = (np.uint32, np.uint32, np.float32, np.float32)
            block = [part.astype(dtype) for part, dtype in zip(padded, dtypes, strict=True)]
            blocks.append(self._act_rows(self._parameters, *block))
        actions, info = jax.tree.map(lambda *x: np.concatenate(x)[: len(batch)], *blocks)
        return actions, info

    def paths(self, seeds: np.ndarray, observations: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The flow's way from noise to action, (steps + 1, batch, chunk * action) scaled to [-1, 1], before the clip."""
        batch = self._check(observations)
        seeds, weights = np.asarray(seeds, np.uint32), np.asarray(weights, np.float32)
        return np.asarray(self._sample_path(self._parameters, seeds, batch, weights))

    def q(self, observations: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        """The critic's value (batch,) of flattened chunks (batch, chunk * action) scaled to [-1, 1]."""
        models = self.models
        if models.q is None:
            raise MismatchError("There is no critic to ask; pass one to steer().")
        return np.asarray(models.q(jnp.asarray(self._check(observations)), jnp.asarray(chunks, jnp.float32)))

    @property
    def models(self) -> Models:
        """The policy, the critic and what else the recipe asks, as the functions that the loop sees."""
        return self._models(self._parameters)

    @property
    def calls(self) -> dict[str, int]:
        """How often each network is asked for one action: velocity, q_gradient, q, and the parts that the recipe asks, by kind.

        A gradient is counted once; several rows for one observation, as of samples and candidates, one by one. Among the calls
        of q is that of the diagnostics.
        """
        counts = dict.fromkeys(("velocity", "q_gradient", "q", *self._parts), 0)

        def counted(name: str, function: Callable[..., Array], gradient: str = "") -> Callable[..., Array]:
            def call(observations, a, *more):
                # Without compilation what is traced is being differentiated.
                counts[gradient if gradient and isinstance(a, Tracer) else name] += len(observations)
                result = jax.eval_shape(lambda o, x: function(o, x, *more), observations, a)
                # Of no value, but a function of `a`, so that there is something to differentiate.
                return jnp.zeros(result.shape, result.dtype) + 0 * jnp.sum(a)

            return call

        models = self._models(self._parameters)
        counting = models._replace(
            velocity=counted("velocity", models.velocity),
            q=counted("q", models.q, "q_gradient") if models.q is not None else None,
            ensemble=counted("q", models.ensemble, "q_gradient") if models.ensemble is not None else None,
            parts={kind: counted(kind, function) for kind, function in models.parts.items()},
        )
        keys, observations = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, self.spec.observation_dim))
        # Step by step, so that what is skipped is not counted.
        with jax.disable_jit():
            sample(keys, observations, counting, self.recipe, flat=self.spec.flat_dim, weight=0.0)
        return counts

    @property
    def flops(self) -> float:
        """Floating point operations for one action, counted from the compiled program (``steerflow.steer.cost``).

        The action alone: what the diagnostics need besides, such as Q of a plain sample, is not counted. Where the minimum of
        critics is differentiated, all of them count; when acting, only those are that are the minimum of some row.
        """
        number, observation = jnp.zeros(1, jnp.uint32), jnp.zeros((1, self.spec.observation_dim))
        action = lambda *inputs: self._trace_rows(*inputs)[0]  # noqa: E731
        return count_flops(action, self._parameters, number, number, observation, jnp.zeros(1))

    def _models(self, parameters: Any) -> Models:
        policy, critic = self._policy, self._critic
        velocity, critics, networks = parameters

        def ensemble(observations, a):
            assert critic is not None
            return critics(critic.normaliser(observations), a)

        def of_part(kind: str) -> Callable[..., Array]:
            sees, network = self._parts[kind].normaliser, networks[kind]
            return lambda observations, *inputs: network(sees(observations), *inputs)

        return Models(
            velocity=lambda observations, a, t: velocity(policy.normaliser(observations), a, t),
            q=None if critic is None else lambda observations, a: self.recipe.aggregate(ensemble(observations, a)),
            ensemble=None if critic is None else ensemble,
            scales=policy.scales | ({} if critic is None else critic.scales),
            parts={kind: of_part(kind) for kind in self._parts},
        )

    def _prefix(self, committed: np.ndarray, delay: int, batch: int) -> Prefix:
        rest = np.asarray(committed, np.float32)
        rest = rest[None] if rest.ndim == 2 else rest
        chunk, action = self.spec.chunk, self.spec.action_dim
        if rest.ndim != 3 or len(rest) != batch or rest.shape[1] > chunk or rest.shape[2] != action:
            raise MismatchError(
                f"committed has shape {np.shape(committed)}; for a batch of {batch} it is (batch, up to {chunk} steps, {action})."
            )
        if not 0 <= delay <= rest.shape[1]:
            raise MismatchError(f"delay is {delay}, but {rest.shape[1]} actions are committed; it cannot be more.")
        if not np.isfinite(rest).all():
            raise DataError("A committed action is not finite. Give the rest of the chunk that is being executed.")
        scaled = np.zeros((batch, chunk, action), np.float32)
        scaled[:, : rest.shape[1]] = self.spec.scale_actions(rest)
        weights = np.repeat(prefix_weights(chunk, rest.shape[1], delay), action).astype(np.float32)
        return Prefix(scaled.reshape(batch, -1), weights)  # pyright: ignore[reportArgumentType]

    def _trace_act(self, parameters, key, observations, weights, prefix=None):
        keys = jax.random.split(key, len(observations))
        return self._finish(self._trace(parameters, keys, observations, weights, prefix=prefix))

    def _trace_rows(self, parameters, seeds, decisions, observations, weights):
        keys = _fold(seeds, decisions)
        return self._finish(self._trace(parameters, keys, observations, weights))

    def _trace_path(self, parameters, seeds, observations, weights):
        keys = _fold(seeds, jnp.zeros_like(seeds))
        return self._trace(parameters, keys, observations, weights, keep_path=True).path

    def _trace(self, parameters, keys, observations, weights, **asked: Any) -> Sampled:
        weight = None if callable(self.recipe.weight) else weights
        return sample(
            keys,
            observations,
            self._models(parameters),
            self.recipe,
            flat=self.spec.flat_dim,
            weight=weight,
            **asked,
        )

    def _finish(self, sampled: Sampled) -> tuple[Array, dict[str, Array]]:
        """Actions in the environment's units, and the diagnostics."""
        low, high = (np.asarray(x, np.float32) for x in (self.spec.action_low, self.spec.action_high))
        scaled = sampled.actions.reshape(-1, self.spec.chunk, self.spec.action_dim)
        info = {name: x for name, x in sampled._asdict().items() if name not in ("actions", "path")}
        return jnp.clip(low + (scaled + 1) / 2 * (high - low), low, high), info

    def _check(self, observations: np.ndarray) -> np.ndarray:
        batch = np.asarray(observations, np.float32)
        if batch.ndim != 2 or batch.shape[1] != self.spec.observation_dim:
            raise MismatchError(
                f"Observations have shape {np.shape(observations)}; this policy needs (batch, {self.spec.observation_dim})."
            )
        if not np.isfinite(batch).all():
            row, dimension = np.argwhere(~np.isfinite(batch))[0]
            raise DataError(
                f"Observation {row} is {batch[row, dimension]} in dimension {dimension}. "
                "Refusing to act on it; check the sensor or the environment."
            )
        return batch


def _fold(seeds, decisions):
    return jax.vmap(lambda seed, decision: jax.random.fold_in(jax.random.key(seed), decision))(seeds, decisions)


def _numpy(results: tuple[Array, dict[str, Array]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    actions, info = results
    return np.asarray(actions), {name: np.asarray(x) for name, x in info.items()}


def steer(
    policy: Policy,
    critic: Critic | None,
    method: str | Recipe = "default",
    *,
    parts: Iterable[Part] = (),
    **changes: Any,
) -> Actor:
    """Steer a frozen policy: ``act = steer(policy, critic)``, then ``actions, info = act(key, obs)``.

    method: a preset ("bc", "qgf", "qfql", "best_of_n", ...) or a Recipe; changes: fields of the recipe. parts: for recipes that
    ask them, such as "qgf_amortised", which then needs no critic: ``parts=[steerflow.load_part(RUN, "amortised")]``. Raises
    MismatchError for what is missing or does not fit together, UnknownNameError for unknown names.
    """
    return Actor(policy, critic, recipe_of(method, **changes), by_kind(parts))
