"""The training loop: many updates in one compiled call, metrics, checkpoints, exact resume."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from steerflow.artefact import read_artefact, write_artefact
from steerflow.critic import Critic, CriticNetworks
from steerflow.data.feed import Feed, make_feed, waiting
from steerflow.data.index import to_chunks
from steerflow.data.store import DataSet, Store
from steerflow.envs.tasks import canonical_task, tasks_of_data
from steerflow.errors import ArtefactError, DataError, SteerflowError, TrainingError
from steerflow.learn.config import TrainConfig
from steerflow.learn.state import Learner, TrainState
from steerflow.learn.tensors import from_tensors, to_tensors
from steerflow.policy import Policy
from steerflow.progress import bar, console
from steerflow.run import keep_config, keep_lines, locked, stoppable
from steerflow.spec import Normaliser, Spec

_KEPT_CHECKPOINTS = 2
_VALIDATION_BATCHES = 16
# What may change when a run is continued.
_FREE = ("updates", "run", "feed", "save_seconds")


def train(config: TrainConfig) -> Path:
    """Train what ``config.learn`` names and write the artefacts; continues or reuses what the run folder holds.

    Killed at any moment and called again, it ends with the same bytes as if it had never been killed. Returns the run
    folder. Raises TrainingError on a loss that is not finite, with the last good checkpoint kept.
    """
    data = DataSet.open(config.data)
    config = _resolve(config, data)
    with locked(config.run):
        for split in (data.train, data.val):
            for task in config.tasks:
                if split is not None:
                    _require_rewards(split, task, data.name)
        spec = spec_of(data.train, config.chunk)
        # Only settings that can be used are kept, so that a mistyped task does not bind the run folder.
        fields = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        keep_config(config.run, config.learn, {**fields, "data_fingerprint": data.train.fingerprint}, _FREE)
        normaliser = Normaliser.identity(spec.observation_dim)
        if config.normalise == "standard":
            normaliser = Normaliser.fit(data.train.observations)
        learner = Learner(config, spec)
        if not _finished(config, data):
            state = _run_updates(learner, data, normaliser)
            _write_artefacts(learner, state, normaliser, data)
    return config.run


def spec_of(store: Store, chunk: int) -> Spec:
    """The spec of artefacts trained on ``store`` with chunks of ``chunk`` actions."""
    low, high = store.action_bounds
    return Spec(
        observation_dim=store.observations.shape[1],
        action_dim=store.actions.shape[1],
        chunk=chunk,
        action_low=tuple(float(x) for x in low),
        action_high=tuple(float(x) for x in high),
    )


def _resolve(config: TrainConfig, data: DataSet) -> TrainConfig:
    if config.call_updates < 1 or config.log_every % config.call_updates:
        raise SteerflowError(
            f"log_every ({config.log_every}) must be a multiple of call_updates ({config.call_updates})."
        )
    if config.critic.horizon and config.critic.horizon < config.chunk:
        raise SteerflowError(
            f"critic.horizon ({config.critic.horizon}) must be at least chunk ({config.chunk}), or 0 for equal."
        )
    if config.learn == "policy":
        tasks = ()
    else:
        tasks = tuple(task if task in data.train.tasks else canonical_task(task) for task in config.tasks)
        if not tasks:
            known = tasks_of_data(data.name) or list(data.train.tasks)
            raise SteerflowError(
                f"A critic needs a task. Give --tasks, for {data.name}: {', '.join(known) or 'none known'}."
            )
    # Whole calls only, so that a continued run compiles and computes the same.
    updates = -(-config.updates // config.call_updates) * config.call_updates
    return dataclasses.replace(config, tasks=tasks, updates=updates)


def _require_rewards(store: Store, task: str, data_name: str) -> None:
    if task in store.tasks:
        return
    if task not in tasks_of_data(data_name):
        raise DataError(
            f"{store.path} holds no rewards of {task!r} and it is not a task of {data_name}. "
            f"Rewards there: {', '.join(store.tasks) or 'none'}; "
            f"tasks of {data_name}: {', '.join(tasks_of_data(data_name)) or 'none'}."
        )
    # Labelling needs the simulator; training on labelled data does not.
    from steerflow.data.label import label

    label(store, task)


def _run_updates(learner: Learner, data: DataSet, normaliser: Normaliser) -> TrainState:
    config = learner.config
    feed_of = partial(
        make_feed, config.feed, spec=learner.spec, normaliser=normaliser, tasks=learner.tasks,
        batch=config.batch, horizon=config.critic.horizon or config.chunk,
    )  # fmt: skip
    feed = feed_of(data.train, seeds=(config.seed,))
    validation = feed_of(data.val, seeds=(config.seed + 1,)) if data.val is not None else None
    call = compiled_updates(learner, feed)
    validate = jax.jit(partial(_losses, learner, validation)) if validation is not None else None
    step, state = _restore(learner)
    metrics = config.run / "metrics.jsonl"
    keep_lines(metrics, lambda row: row["learner"] not in _names(learner) or row["step"] <= step)
    saved, saved_at = step, time.monotonic()
    began = time.monotonic()
    title = "Training policy and critic" if config.learn == "both" else f"Training {config.learn}"
    with (
        closing(feed),
        closing(validation or feed),
        bar(title, config.updates, step) as progress,
        open(metrics, "a") as log,
        stoppable() as stop,
    ):
        while step < config.updates and not stop():
            steps = np.arange(step, step + config.call_updates, dtype=np.int32)
            state, info = call(state, feed.data, steps, feed.payload(step, config.call_updates))
            info = jax.tree.map(np.asarray, info)
            _require_finite(learner, info, step, saved)
            step += config.call_updates
            if step % config.log_every == 0:
                _log(log, learner, step, "train", info)
                if validation is not None and validate is not None:
                    steps = np.arange(step, step + _VALIDATION_BATCHES, dtype=np.int32)
                    losses = validate(
                        state, validation.data, steps, validation.payload(step, _VALIDATION_BATCHES, config.log_every)
                    )
                    _log(log, learner, step, "val", jax.tree.map(np.asarray, losses))
            if stop() or step >= config.updates or time.monotonic() - saved_at > config.save_seconds:
                _save(learner, state, step)
                saved, saved_at = step, time.monotonic()
            progress.update(step)
    if note := waiting(feed, time.monotonic() - began):
        console().print(note)
    return state


def compiled_updates(learner: Learner, feed: Feed) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """``call(state, feed.data, steps, payload)`` -> (state, info): one update for each of ``steps``, compiled as one.

    ``info`` holds the losses of every step. The state that goes in is consumed.
    """
    return jax.jit(partial(_updates, learner, feed), donate_argnums=0)


def _updates(learner: Learner, feed: Feed, state: TrainState, data: Any, steps: Any, payload: Any):

    def one(state, x):
        step, part = x
        chunks = to_chunks(feed.windows(data, step, _of_seed(part)), learner.config.critic.discount)
        return learner.update(state, chunks, step)

    return jax.lax.scan(one, state, (steps, payload))


def _losses(learner: Learner, feed: Feed, state: TrainState, data: Any, steps: Any, payload: Any):
    """Losses on validation batches, without updates."""

    def one(_, x):
        step, part = x
        chunks = to_chunks(feed.windows(data, step, _of_seed(part)), learner.config.critic.discount)
        return None, learner.validate(state, chunks, step)

    return jax.lax.scan(one, None, (steps, payload))[1]


def _of_seed(part: Any, number: int = 0) -> Any:
    """What one seed's batch is made of."""
    return jax.tree.map(lambda x: x[number], part)


def _names(learner: Learner) -> list[str]:
    """Names of what is learnt, as in metrics.jsonl: policy, critic/<task>."""
    return (["policy"] if learner.config.learn != "critic" else []) + [f"critic/{task}" for task in learner.tasks]


def _rows(learner: Learner, info: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The info of one call by learner's name; values (steps,)."""
    rows = {"policy": info["policy"]} if "policy" in info else {}
    for n, task in enumerate(learner.tasks):
        rows[f"critic/{task}"] = {name: values[:, n] for name, values in info["critic"].items()}
    return rows


def _log(log, learner: Learner, step: int, split: str, info: dict[str, Any]) -> None:
    """One line of metrics per learner: means over the call."""
    for name, values in _rows(learner, info).items():
        means = {key: float(np.mean(value, dtype=np.float64)) for key, value in values.items()}
        log.write(json.dumps({"step": step, "learner": name, "split": split, **means}) + "\n")
    log.flush()


def _require_finite(learner: Learner, info: dict[str, Any], first: int, saved: int) -> None:
    for name, values in _rows(learner, info).items():
        finite = np.all([np.isfinite(value) for value in values.values()], axis=0)
        if not finite.all():
            at = int(np.argmin(finite))
            losses = ", ".join(f"{key} {value[at]:.4g}" for key, value in values.items())
            kept = f"The checkpoint of update {saved:,} is kept in {learner.config.run}/checkpoints." if saved else ""
            raise TrainingError(
                f"{name} is no longer finite at update {first + at + 1:,} ({losses}). {kept} "
                "Look for extreme values with `steerflow data check`, or lower the learning rate."
            )


def _checkpoints(config: TrainConfig) -> list[Path]:
    return sorted((config.run / "checkpoints" / config.learn).glob("[0-9]*"))


def _save(learner: Learner, state: TrainState, step: int) -> None:
    folder = learner.config.run / "checkpoints" / learner.config.learn
    write_artefact(folder / f"{step:010d}", "checkpoint", to_tensors(state), {"step": step})
    for old in _checkpoints(learner.config)[:-_KEPT_CHECKPOINTS]:
        shutil.rmtree(old, ignore_errors=True)


def _restore(learner: Learner) -> tuple[int, TrainState]:
    """The newest checkpoint that is whole, or a fresh start."""
    for folder in reversed(_checkpoints(learner.config)):
        try:
            tensors, meta = read_artefact(folder, "checkpoint")
            state = from_tensors(jax.eval_shape(learner.init), tensors, f"the checkpoint {folder}")
        except ArtefactError as error:
            console().print(f"[yellow]Passing over a checkpoint:[/] {error}")
            continue
        return int(meta["step"]), state
    return 0, jax.jit(learner.init)()


def _artefacts(config: TrainConfig) -> dict[Path, str]:
    """The folders that the run writes, and their kinds."""
    folders = {config.run / "policy": "policy"} if config.learn != "critic" else {}
    return folders | {config.run / "critic" / task: "critic" for task in config.tasks}


def _finished(config: TrainConfig, data: DataSet) -> bool:
    """Whether all artefacts are there, trained for as many updates on the same data."""
    for folder, kind in _artefacts(config).items():
        try:
            meta = read_artefact(folder, kind)[1]
        except ArtefactError:
            return False
        if meta["step"] != config.updates or meta["data"]["fingerprint"] != data.train.fingerprint:
            return False
    return True


def _write_artefacts(learner: Learner, state: TrainState, normaliser: Normaliser, data: DataSet) -> None:
    config = learner.config
    facts = {
        "step": config.updates,
        "seed": config.seed,
        "data": {
            "name": data.name,
            "fingerprint": data.train.fingerprint,
            "transitions": data.train.transitions,
        },
    }
    if state.policy is not None:
        network = {"hidden": list(config.policy.hidden), "time_frequency": config.policy.time_frequency}
        meta = {
            **facts,
            "network": network,
            "config": {"batch": config.batch, **dataclasses.asdict(config.policy)},
        }
        Policy(learner.spec, normaliser, state.policy.velocity, meta).save(config.run / "policy")
    for n, task in enumerate(learner.tasks):
        assert state.critics is not None
        one = jax.tree.map(lambda x, n=n: x[n], CriticNetworks(state.critics.target, state.critics.value))
        network = {"hidden": list(config.critic.hidden), "ensemble": config.critic.ensemble}
        meta = {
            **facts,
            "task": task,
            "network": network,
            "config": {"batch": config.batch, **dataclasses.asdict(config.critic)},
        }
        Critic(learner.spec, normaliser, one, meta).save(config.run / "critic" / task)
