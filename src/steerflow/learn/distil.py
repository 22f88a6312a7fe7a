"""Training parts: from what, how each kind learns, and how the training loop (train.py) sees them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from steerflow.artefact import read_artefact
from steerflow.critic import Critic
from steerflow.data.index import Chunks
from steerflow.data.store import DataSet
from steerflow.envs.tasks import canonical_task
from steerflow.errors import ArtefactError, SteerflowError, unknown
from steerflow.learn import amortised, latent, optimal, robust
from steerflow.learn.config import FlowMatchingConfig, TrainConfig
from steerflow.learn.devices import Layout
from steerflow.learn.state import INIT, NOISE, VALIDATION, over_axis, stream
from steerflow.learn.teacher import Teacher, Teachers, flow_config
from steerflow.learn.train import run_updates, whole_calls
from steerflow.load import tasks_of
from steerflow.part import NETWORKS, Part
from steerflow.policy import Policy
from steerflow.run import briefly_locked, data_of, find_run, keep_config, locked, read_config
from steerflow.spec import Normaliser, Spec
from steerflow.steer.aggregate import AGGREGATES


@runtime_checkable
class PartLearner(Protocol):
    """How a kind of part is learnt: a module of these functions. ``config`` is the kind's own."""

    def network_settings(self, config: Any, flow: FlowMatchingConfig, /) -> dict[str, Any]:
        """What its network is made with, beside the spaces; ``flow`` is how the policy was trained."""
        ...

    def init(self, network: Any, config: Any, teacher: Teacher, key: Any, /) -> Any:
        """What is learnt, before the first update: the new network, or a pytree that holds it."""
        ...

    def network_of(self, learnt: Any, /) -> Any:
        """The network in what is learnt; it alone is kept."""
        ...

    def loss(
        self, learnt: Any, chunks: Chunks, config: Any, teacher: Teacher, key: Any, /
    ) -> tuple[Any, dict[str, Any]]:
        """The loss that Adam lowers, and what is reported beside it. Observations of ``chunks`` are in the data's units."""
        ...


LEARNERS: Mapping[str, PartLearner] = {
    "amortised": amortised,
    "robust": robust,
    "optimal": optimal,
    "latent": latent,
}


class DistilState(eqx.Module):
    """Of one seed; a run's has a leading axis over its seeds on every leaf."""

    seed: Any  # () int32
    learnt: Any  # a leading axis over tasks
    optimiser: Any


@dataclass(frozen=True)
class Distiller:
    """``init`` and ``update`` of the parts of all tasks, as the training loop asks them."""

    config: TrainConfig
    teachers: Teachers

    @property
    def tasks(self) -> tuple[str, ...]:
        """None: no rewards are needed."""
        return ()

    @property
    def spec(self) -> Spec:
        return self.teachers.policy.spec

    @property
    def names(self) -> dict[str, list[str]]:
        kind = self.config.learn
        return {kind: [f"{kind}/{task}" for task in self.config.tasks]}

    def init(self) -> DistilState:
        """The states of all seeds before the first update."""
        return jax.vmap(self._init)(jnp.array(self.config.seeds, jnp.int32))

    def _init(self, seed) -> DistilState:
        """A function of the seed and of each task's name and critic, not of the other tasks."""
        names = [zlib.crc32(f"{self.config.learn}/{task}".encode()) for task in self.config.tasks]
        keys = jnp.stack([jax.random.fold_in(stream(seed, INIT), name) for name in names])

        def one(key, judge):
            network_key, key = jax.random.split(key)
            settings = self._learner.network_settings(self._settings, flow_config(self.teachers.policy))
            make = NETWORKS[self.config.learn]
            network = make(network_key, self.spec.observation_dim, self.spec.flat_dim, **settings)
            learnt = self._learner.init(network, self._settings, self.teachers.of_task(judge), key)
            return learnt, self._adam.init(learnt)

        return DistilState(seed, *self._over_tasks(one, keys, self.teachers.judges))

    def update(self, state: DistilState, chunks: Chunks, step) -> tuple[DistilState, dict[str, Any]]:
        """One step of Adam for each task's, on the same states and noise."""
        key = jax.random.fold_in(stream(state.seed, NOISE), step)

        def one(learnt, optimiser, judge):
            loss = jax.value_and_grad(self._learner.loss, has_aux=True)
            (value, info), gradient = loss(learnt, chunks, self._settings, self.teachers.of_task(judge), key)
            change, optimiser = self._adam.update(gradient, optimiser)
            return optax.apply_updates(learnt, change), optimiser, {"loss": value, **info}

        learnt, optimiser, info = self._over_tasks(one, state.learnt, state.optimiser, self.teachers.judges)
        return DistilState(state.seed, learnt, optimiser), {self.config.learn: info}

    def validate(self, state: DistilState, chunks: Chunks, step) -> dict[str, Any]:
        """The losses without an update."""
        key = jax.random.fold_in(stream(state.seed, VALIDATION), step)

        def one(learnt, judge):
            value, info = self._learner.loss(learnt, chunks, self._settings, self.teachers.of_task(judge), key)
            return {"loss": value, **info}

        return {self.config.learn: self._over_tasks(one, state.learnt, self.teachers.judges)}

    @property
    def _learner(self) -> PartLearner:
        return LEARNERS[self.config.learn]

    @property
    def _settings(self) -> Any:
        return getattr(self.config, self.config.learn)

    @property
    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self._settings.learning_rate)

    def _over_tasks(self, function, *arguments):
        return over_axis(function, (0,) * len(arguments), len(self.config.tasks))(*arguments)


def distil(config: TrainConfig) -> Path:
    """Train ``RUN/<kind>/<task>`` from the policy and the critics in ``RUN``; continues or reuses what is there.

    The kind is ``config.learn``. Without ``config.data`` the data are those of the policy, without ``config.tasks`` all tasks
    with a critic are meant. Other settings, data, policies or critics than before begin anew. Returns the run folder.
    """
    kind = config.learn
    if len(config.seeds) != 1:
        raise SteerflowError("A part is learnt from one policy: give --run RUN/seed-N, and one seed.")
    config = dataclasses.replace(whole_calls(config), run=find_run(config.run))
    with locked(config.run, kind):
        tasks = _tasks(config)
        data = DataSet.open(config.data or data_of(config.run))
        policy = Policy.load(config.run / "policy")
        facts = {task: _facts(config, data, policy, task) for task in tasks}
        todo = tuple(task for task in tasks if not _finished(config.run / kind / task, facts[task]))
        if todo:
            config = dataclasses.replace(config, tasks=todo, chunk=policy.spec.chunk)
            critics = tuple(Critic.load(config.run / "critic" / task) for task in todo)
            aggregate = getattr(getattr(config, kind), "aggregate", "mean")
            distiller = Distiller(config, Teachers.of(policy, critics, aggregate, data.train))
            _keep_settings(config, {task: facts[task] for task in todo})
            normaliser = Normaliser.identity(distiller.spec.observation_dim)
            state = run_updates(distiller, Layout.of(config), {config.seeds[0]: config.run}, data, normaliser)
            for n, (task, critic) in enumerate(zip(todo, critics, strict=True)):
                network = LEARNERS[kind].network_of(jax.tree.map(lambda x, n=n: x[0, n], state.learnt))
                Part(distiller.spec, critic.normaliser, network, facts[task]).save(config.run / kind / task)
    return config.run


def _tasks(config: TrainConfig) -> tuple[str, ...]:
    known = tasks_of(config.run, "critic")
    tasks = tuple(task if task in known else canonical_task(task) for task in config.tasks or known)
    if not tasks:
        raise SteerflowError(
            f"{config.run} holds no critic to learn from. Train one first: steerflow train critic --help"
        )
    for task in tasks:
        if task not in known:
            hint = f"Its critic is not in {config.run}; train it: steerflow train critic --help"
            raise unknown("task", task, known, hint)
    return tasks


def _facts(config: TrainConfig, data: DataSet, policy: Policy, task: str) -> dict[str, Any]:
    """What the artefact of ``task`` says of its making, as it is on disk."""
    settings = getattr(config, config.learn)
    facts = {
        "kind": config.learn,
        "task": task,
        "step": config.updates,
        "seed": config.seeds[0],
        "data": {"name": data.name, "fingerprint": data.train.fingerprint, "transitions": data.train.transitions},
        "policy": policy.fingerprint,
        "critic": read_artefact(config.run / "critic" / task, "critic")[1]["sha256"][:16],
        "network": LEARNERS[config.learn].network_settings(settings, flow_config(policy)),
        "config": {"batch": config.batch, **dataclasses.asdict(settings)},
    }
    if hasattr(settings, "aggregate"):
        facts["aggregate"] = AGGREGATES.write(AGGREGATES.parse(settings.aggregate))
    return json.loads(json.dumps(facts))


def _finished(folder: Path, facts: dict[str, Any]) -> bool:
    try:
        meta = read_artefact(folder, facts["kind"])[1]
    except ArtefactError:
        return False
    return all(meta.get(name) == value for name, value in facts.items())


def _keep_settings(config: TrainConfig, facts: dict[str, Any]) -> None:
    """Write what is learnt and how; checkpoints of anything else are dropped."""
    kind = config.learn
    made = {task: {k: v for k, v in fact.items() if k != "step"} for task, fact in facts.items()}
    if read_config(config.run).get(kind, {}).get("tasks") != made:
        shutil.rmtree(config.run / "checkpoints" / kind, ignore_errors=True)
    with briefly_locked(config.run):
        keep_config(config.run, kind, {"updates": config.updates, "tasks": made}, free=("updates", "tasks"))
