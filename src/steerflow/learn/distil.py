"""Training amortised guidances: what they are distilled from, and how the training loop (train.py) sees them."""

from __future__ import annotations

import dataclasses
import shutil
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.amortised import AmortisedGuidance
from steerflow.artefact import read_artefact
from steerflow.critic import Critic
from steerflow.data.index import Chunks
from steerflow.data.store import DataSet, Store
from steerflow.envs.tasks import canonical_task
from steerflow.errors import ArtefactError, MismatchError, SteerflowError, unknown
from steerflow.learn import amortise
from steerflow.learn.config import TrainConfig
from steerflow.learn.devices import Layout
from steerflow.learn.networks import Critics
from steerflow.learn.state import INIT, NOISE, VALIDATION, stream
from steerflow.learn.train import run_updates, whole_calls
from steerflow.load import tasks_of
from steerflow.policy import Policy
from steerflow.run import data_of, find_run, keep_config, locked, read_config
from steerflow.spec import Normaliser, Spec
from steerflow.steer.aggregate import AGGREGATES
from steerflow.steer.models import Models

# States of the data on which the scale of the gradient is measured.
_STATES = 1024


class Judge(NamedTuple):
    """A critic and how it sees observations, as arrays; those of several tasks have a leading axis."""

    critics: Critics
    mean: Float[Array, "*tasks obs"]
    std: Float[Array, "*tasks obs"]

    def sees(self, observations: Float[Array, "batch obs"]) -> Float[Array, "batch obs"]:
        return (observations - self.mean) / self.std


@dataclass(frozen=True)
class Teacher:
    """What is distilled: the policy and the critics of a run, frozen; and states of the data."""

    policy: Policy
    critics: tuple[Critic, ...]
    aggregate: str
    states: Float[Array, "states obs"]

    @staticmethod
    def of(config: TrainConfig, store: Store) -> Teacher:
        """Those in the run folder, of ``config.tasks``.

        Raises ArtefactError for what is missing and MismatchError where they do not fit the data or each other.
        """
        policy = Policy.load(config.run / "policy")
        critics = tuple(Critic.load(config.run / "critic" / task) for task in config.tasks)
        sizes = [jax.tree.map(jnp.shape, critic.network.critics) for critic in critics]
        for critic, size in zip(critics, sizes, strict=True):
            policy.spec.require_same(critic.spec, "policy", "critic")
            if size != sizes[0]:
                raise MismatchError(
                    f"The critics of {critics[0].task} and {critic.task} differ in size; distil them one by one, with --task."
                )
        found, needed = store.observations.shape[1], policy.spec.observation_dim
        if found != needed:
            raise MismatchError(
                f"The policy needs observations of {needed} dimensions, {store.path} has {found}. Give the --data it knows."
            )
        states = store.observations[:: max(1, store.rows // _STATES)][:_STATES]
        return Teacher(policy, critics, config.amortised.aggregate, jnp.asarray(states))

    @property
    def judges(self) -> Judge:
        """Of all tasks, stacked."""
        each = [Judge(c.network.critics, c.normaliser.mean, c.normaliser.std) for c in self.critics]  # type: ignore[arg-type]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *each)

    def models(self, judge: Judge) -> Models:
        """The policy and one task's critic as functions of observations in the data's units."""
        aggregate = AGGREGATES.parse(self.aggregate)
        return Models(
            self.policy.velocity, lambda observations, a: aggregate(judge.critics(judge.sees(observations), a))
        )


class DistilState(eqx.Module):
    """Of one seed; a run's has a leading axis over its seeds on every leaf."""

    seed: Any  # () int32
    amortised: amortise.AmortisedState  # a leading axis over tasks


@dataclass(frozen=True)
class Distiller:
    """``init`` and ``update`` of the amortised guidances of all tasks, as the training loop asks them."""

    config: TrainConfig
    teacher: Teacher

    @property
    def tasks(self) -> tuple[str, ...]:
        """None: distillation needs no rewards."""
        return ()

    @property
    def spec(self) -> Spec:
        return self.teacher.policy.spec

    @property
    def names(self) -> dict[str, list[str]]:
        return {"amortised": [f"amortised/{task}" for task in self.config.tasks]}

    def init(self) -> DistilState:
        """The states of all seeds before the first update."""
        return jax.vmap(self._init)(jnp.array(self.config.seeds, jnp.int32))

    def _init(self, seed) -> DistilState:
        """A function of the seed and of each task's name and critic, not of the other tasks."""
        names = [zlib.crc32(f"amortised/{task}".encode()) for task in self.config.tasks]
        keys = jnp.stack([jax.random.fold_in(stream(seed, INIT), name) for name in names])

        def one(key, judge):
            return amortise.init(key, self.spec, self.config.amortised, self.teacher.models(judge), self.teacher.states)

        return DistilState(seed, jax.vmap(one)(keys, self.teacher.judges))

    def update(self, state: DistilState, chunks: Chunks, step) -> tuple[DistilState, dict[str, Any]]:
        """One update of each task's on the same states and noise."""
        update = partial(amortise.update, config=self.config.amortised)
        amortised, info = self._over_tasks(update, state, chunks, jax.random.fold_in(stream(state.seed, NOISE), step))
        return DistilState(state.seed, amortised), {"amortised": info}

    def validate(self, state: DistilState, chunks: Chunks, step) -> dict[str, Any]:
        """The losses without an update."""
        key = jax.random.fold_in(stream(state.seed, VALIDATION), step)
        return {"amortised": self._over_tasks(amortise.evaluate, state, chunks, key)}

    def _over_tasks(self, function, state: DistilState, chunks: Chunks, key):
        def one(amortised, judge):
            points = amortise.points_of(self.teacher.models(judge), chunks, key, amortised.network.scale)
            return function(amortised, points._replace(observations=judge.sees(points.observations)))

        return jax.vmap(one)(state.amortised, self.teacher.judges)


def distil(config: TrainConfig) -> Path:
    """Train ``RUN/amortised/<task>`` from the policy and the critics in ``RUN``; continues or reuses what is there.

    Without ``config.data`` the data are those of the policy, without ``config.tasks`` all tasks with a critic are meant. Other
    settings, data, policies or critics than before begin anew. Returns the run folder.
    """
    if len(config.seeds) != 1:
        raise SteerflowError("An amortised guidance is distilled from one policy: give --run RUN/seed-N, and one seed.")
    config = dataclasses.replace(whole_calls(config), run=find_run(config.run))
    with locked(config.run):
        tasks = _tasks(config)
        data = DataSet.open(config.data or data_of(config.run))
        facts = {task: _facts(config, data, task) for task in tasks}
        todo = tuple(task for task in tasks if not _finished(config.run, task, facts[task]))
        if todo:
            config = dataclasses.replace(config, tasks=todo)
            teacher = Teacher.of(config, data.train)
            distiller = Distiller(dataclasses.replace(config, chunk=teacher.policy.spec.chunk), teacher)
            _keep_settings(config, {task: facts[task] for task in todo})
            normaliser = Normaliser.identity(distiller.spec.observation_dim)
            state = run_updates(distiller, Layout.of(config), {config.seeds[0]: config.run}, data, normaliser)
            for n, (task, critic) in enumerate(zip(todo, teacher.critics, strict=True)):
                network = jax.tree.map(lambda x, n=n: x[0, n], state.amortised.network)
                amortised = AmortisedGuidance(distiller.spec, critic.normaliser, network, facts[task])
                amortised.save(config.run / "amortised" / task)
    return config.run


def _tasks(config: TrainConfig) -> tuple[str, ...]:
    known = tasks_of(config.run, "critic")
    tasks = tuple(task if task in known else canonical_task(task) for task in config.tasks or known)
    if not tasks:
        raise SteerflowError(f"{config.run} holds no critic to distil. Train one first: steerflow train critic --help")
    for task in tasks:
        if task not in known:
            hint = f"Its critic is not in {config.run}; train it: steerflow train critic --help"
            raise unknown("task", task, known, hint)
    return tasks


def _facts(config: TrainConfig, data: DataSet, task: str) -> dict[str, Any]:
    """What the artefact of ``task`` says of its making."""
    policy, critic = config.run / "policy", config.run / "critic" / task
    settings = dataclasses.asdict(config.amortised)
    return {
        "task": task,
        "step": config.updates,
        "seed": config.seeds[0],
        "data": {"name": data.name, "fingerprint": data.train.fingerprint, "transitions": data.train.transitions},
        "policy": read_artefact(policy, "policy")[1]["sha256"][:16],
        "critic": read_artefact(critic, "critic")[1]["sha256"][:16],
        "aggregate": AGGREGATES.write(AGGREGATES.parse(config.amortised.aggregate)),
        "network": {"hidden": list(config.amortised.hidden)},
        "config": {"batch": config.batch, **settings, "hidden": list(settings["hidden"])},
    }


def _finished(run: Path, task: str, facts: dict[str, Any]) -> bool:
    try:
        meta = read_artefact(run / "amortised" / task, "amortised")[1]
    except ArtefactError:
        return False
    return all(meta.get(name) == value for name, value in facts.items())


def _keep_settings(config: TrainConfig, facts: dict[str, Any]) -> None:
    """Write what is distilled and how; checkpoints of anything else are dropped."""
    made = {task: {k: v for k, v in fact.items() if k != "step"} for task, fact in facts.items()}
    if read_config(config.run).get("amortised", {}).get("tasks") != made:
        shutil.rmtree(config.run / "checkpoints" / "amortised", ignore_errors=True)
    keep_config(config.run, "amortised", {"updates": config.updates, "tasks": made}, free=("updates", "tasks"))
