"""The training loop: many updates in one compiled call, for all seeds and tasks at once, with exact resume."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steerflow.data.feed import Feed, ResidentFeed, make_feed, waiting
from steerflow.data.index import Chunks, to_chunks
from steerflow.data.store import DataSet, Store
from steerflow.envs.tasks import canonical_task, steps_limit, tasks_of_data
from steerflow.errors import DataError, SteerflowError
from steerflow.learn import results
from steerflow.learn.config import PARTS, TrainConfig
from steerflow.learn.devices import Layout, join
from steerflow.learn.memory import Memory
from steerflow.learn.products import products_in
from steerflow.learn.state import Learner, Trainable, TrainState, over_axis
from steerflow.machine import multiplies_bfloat16
from steerflow.progress import Bar, bar, console
from steerflow.run import keep_config, locked, seeds_of, stoppable
from steerflow.spec import Normaliser, Spec

_VALIDATION_BATCHES = 16
# Updates in one turn of a compiled loop: XLA copies the state once a turn, as it does not write it in place.
_TURN = 2
# A task that the data do more rarely than this is worth a word: of 5 and 11 times critics knew each by heart, of 27 not yet.
_FEW_ENDS = 20
# Episodes that may last more than this many times 1 / (1 - discount) are worth a word: at 2.5 steering stood still.
_SIGHTS = 2
# What may change when a run is continued; other devices round differently.
_FREE = ("updates", "run", "feed", "save_seconds", "devices", "shard", "distributed", *PARTS)


def train(config: TrainConfig) -> Path:
    """Train what ``config.learn`` names and write the artefacts; continues or reuses what the run folder holds.

    Killed at any moment and called again, it ends with the same bytes as if it had never been killed. Several seeds train
    in one process over one copy of the data, and each leaves a run folder as if it had been trained alone. Returns the run
    folder. Raises TrainingError on a loss that is not finite, with the last good checkpoint kept.
    """
    if config.learn in PARTS:
        from steerflow.learn.distil import distil

        return distil(config)
    if config.distributed:
        join()
    data = DataSet.open(config.data)
    config = _resolve(config, data)
    layout = Layout.of(config)
    with ExitStack() as held:
        layout.lead(lambda: _prepare(config, data, held))
        if not layout.leads:
            # The first process may have added rewards.
            data = DataSet.open(config.data)
        normaliser = Normaliser.identity(data.train.observations.shape[1])
        if config.normalise == "standard":
            normaliser = Normaliser.fit(data.train.observations)
        folders = config.folders()
        folders = {seed: folders[seed] for seed in folders if not results.finished(config, folders[seed], data)}
        layout.require_equal(len(folders), f"The processes find other results in {config.run}")
        if folders:
            learner = Learner(dataclasses.replace(config, seeds=(*folders,)), spec_of(data.train, config.chunk))
            state = run_updates(learner, layout, folders, data, normaliser)
            layout.lead(partial(results.write_artefacts, learner, folders, state, normaliser, data))
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


def whole_calls(config: TrainConfig) -> TrainConfig:
    """With updates in whole calls only, so that a continued run compiles and computes the same."""
    if config.call_updates < 1 or config.log_every % config.call_updates:
        raise SteerflowError(
            f"log_every ({config.log_every}) must be a multiple of call_updates ({config.call_updates})."
        )
    return dataclasses.replace(config, updates=-(-config.updates // config.call_updates) * config.call_updates)


def _resolve(config: TrainConfig, data: DataSet) -> TrainConfig:
    if config.critic.horizon and config.critic.horizon < config.chunk:
        raise SteerflowError(
            f"critic.horizon ({config.critic.horizon}) must be at least chunk ({config.chunk}), or 0 for equal."
        )
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise SteerflowError(f"seeds must be one number or several different ones, not {list(config.seeds)}.")
    wrong = [seed for seed in config.seeds if not 0 <= seed < 2**31 - 1]
    if wrong:
        raise SteerflowError(f"The seed {wrong[0]} is not between 0 and {2**31 - 2}.")
    if config.learn == "policy":
        tasks = ()
    else:
        tasks = tuple(task if task in data.train.tasks else canonical_task(task) for task in config.tasks)
        if not tasks:
            known = tasks_of_data(data.origin) or list(data.train.tasks)
            raise SteerflowError(
                f"A critic needs a task. Give --tasks, for {data.name}: {', '.join(known) or 'none known'}."
            )
    return dataclasses.replace(whole_calls(config), tasks=tasks)


def _prepare(config: TrainConfig, data: DataSet, held: ExitStack) -> None:
    """Lock the run folders until ``held`` closes, see that the data have rewards, and write the settings."""
    folders = config.folders()
    apart = seeds_of(config.run)
    if len(folders) > 1 and (config.run / "config.toml").exists():
        raise SteerflowError(f"{config.run} holds a run of one seed; give another --run for several.")
    if len(folders) == 1 and apart:
        raise SteerflowError(f"{config.run} holds a folder for each seed; continue one with --run {apart[0]}.")
    for folder in folders.values():
        held.enter_context(locked(folder))
    for split in (data.train, data.val):
        for task in config.tasks:
            if split is not None:
                _require_rewards(split, task, data.origin)
    for seed, folder in folders.items():
        # Only settings that can be used are kept, so that a mistyped task does not bind the run folder.
        one = dataclasses.replace(config, seeds=(seed,), run=folder)
        fields = json.loads(json.dumps(dataclasses.asdict(one), default=str))
        keep_config(folder, config.learn, {**fields, "data_fingerprint": data.train.fingerprint}, _FREE)


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


def run_updates(
    learner: Trainable, layout: Layout, folders: results.Folders, data: DataSet, normaliser: Normaliser
) -> Any:
    """The states of all seeds after the last update, in numpy."""
    config, count = learner.config, learner.config.call_updates
    shapes = jax.eval_shape(learner.init)
    placed = layout.of_state(shapes)
    memory = Memory(layout)
    memory.add_state(shapes, placed)
    with ExitStack() as stack:
        feed, *held_out = _feeds(learner, layout, memory, data, normaliser, stack)
        step, state = _begin(learner, layout, folders, placed)
        if step == config.updates:
            return layout.get(state)
        upcoming = _inputs(layout, feed, step, count)
        call = compiled_updates(learner, feed, layout).lower(state, *upcoming).compile()
        memory.add_call(call.memory_analysis(), upcoming[-1], feed.ahead(count))
        memory.require()
        validate = [
            jax.jit(partial(_losses, learner, one, layout), out_shardings=layout.everywhere) for one in held_out
        ]
        log = stack.enter_context(results.metrics(learner, folders if layout.leads else {}, step))
        progress = stack.enter_context(_progress(config, data.train, memory, step)) if layout.leads else None
        stop = stack.enter_context(stoppable())
        began = saved_at = time.monotonic()
        saved, stopping = step, False
        while step < config.updates and not stopping:
            state, info = call(state, *upcoming)
            begun, step = step, step + count
            if step < config.updates:
                # The next batches are read while the device works.
                upcoming = _inputs(layout, feed, step, count)
            info = jax.tree.map(np.asarray, info)
            results.require_finite(learner, folders, info, begun, saved)
            if step % config.log_every == 0:
                log(step, "train", info)
                for losses, one in zip(validate, held_out, strict=True):
                    info = losses(state, *_inputs(layout, one, step, _VALIDATION_BATCHES, config.log_every))
                    log(step, "val", jax.tree.map(np.asarray, info))
            stopping, due = layout.any(stop(), time.monotonic() - saved_at > config.save_seconds)
            if stopping or due or step >= config.updates:
                layout.lead(partial(results.save, config.learn, folders, layout.get(state), step))
                saved, saved_at = step, time.monotonic()
            if progress is not None:
                progress.update(step)
    if layout.leads and (note := waiting(feed, time.monotonic() - began)):
        console().print(note)
    return layout.get(state)


def _feeds(
    learner: Trainable, layout: Layout, memory: Memory, data: DataSet, normaliser: Normaliser, stack: ExitStack
) -> list[Feed]:
    """Batches of the training data, and where there are validation data, of them with seeds of their own.

    They are closed with ``stack``.
    """
    config = learner.config
    stores = [store for store in (data.train, data.val) if store is not None]
    if config.feed == "memory":
        memory.add_data(stores, learner.tasks)
    memory.require()
    feeds = [
        make_feed(
            config.feed, store, spec=learner.spec, normaliser=normaliser, tasks=learner.tasks,
            seeds=[seed + k for seed in config.seeds], batch=config.batch, horizon=config.critic.horizon or config.chunk,
        )
        for k, store in enumerate(stores)
    ]  # fmt: skip
    for feed in feeds:
        stack.enter_context(closing(feed))
        feed.data = layout.put(feed.data, layout.everywhere)
    if isinstance(feeds[0], ResidentFeed):
        memory.add_data(stores, learner.tasks)
    return feeds


def _begin(learner: Trainable, layout: Layout, folders: results.Folders, placed: Any) -> tuple[int, Any]:
    """The newest checkpoint, or a fresh start, on the devices."""
    kept = results.restore(learner, folders)
    step = kept[0] if kept else 0
    layout.require_equal(step, f"The processes find other checkpoints in {learner.config.run}")
    if step > learner.config.updates:
        raise SteerflowError(
            f"{learner.config.run} was trained for {step:,} updates already. Give --updates {step} or more, or another --run."
        )
    return step, layout.put(kept[1], placed) if kept else jax.jit(learner.init, out_shardings=placed)()


def _inputs(layout: Layout, feed: Feed, first: int, count: int, every: int | None = None) -> tuple[Any, jax.Array, Any]:
    """What a call of ``count`` steps from ``first`` on takes beside the state; the next is ``every`` steps later."""
    steps = layout.put(np.arange(first, first + count, dtype=np.int32), layout.everywhere)
    return feed.data, steps, layout.put_payload(feed.payload(first, count, every))


def _progress(config: TrainConfig, store: Store, memory: Memory, step: int) -> AbstractContextManager[Bar]:
    title = "Training policy and critic" if config.learn == "both" else f"Training {config.learn}"
    console().print(f"{title}: memory {memory}", soft_wrap=True)
    if config.precision == "bfloat16" and jax.default_backend() == "cpu" and multiplies_bfloat16() is False:
        console().print(
            "[yellow]This processor has no products of bfloat16 (amx_bf16, avx512_bf16):[/] float32 is as fast or faster.",
            soft_wrap=True,
        )
    for line in (short_sighted(config), scarce(config, store)):
        if line:
            console().print(line, soft_wrap=True)
    return bar(title, config.updates, step)


def short_sighted(config: TrainConfig) -> str | None:
    """What to say where episodes may last much longer than the critics' discount looks ahead; of the longest task."""
    near = 1 - config.critic.discount
    # Parts take the critics as they are.
    tasks = () if config.learn in PARTS else config.tasks
    limit, task = max(((steps_limit(task) or 0, task) for task in tasks), default=(0, ""))
    if round(limit * near, 6) <= _SIGHTS:
        return None
    return (
        f"[yellow]A discount of {config.critic.discount:g} looks {1 / near:.0f} steps ahead,[/] and episodes of {task} may last "
        f"{limit}. If steering stops short or stands still there, take a --critic.discount nearer to 1 (the paper has 0.999) and "
        "more updates."
    )


def scarce(config: TrainConfig, store: Store) -> str | None:
    """What to say where the data hardly ever do a single task; of the rarest. Other tasks may end in failure, too."""
    tasks = () if config.learn in PARTS else [task for task in config.tasks if "-singletask-" in task]
    ends, task = min(((store.ends_of_task(task), task) for task in tasks), default=(_FEW_ENDS, ""))
    if ends >= _FEW_ENDS:
        return None
    return (
        f"[yellow]The data do {task} {ends} time{'s' * (ends != 1)}.[/] A critic learns so few by heart: watch its validation "
        "loss, and where it rises take more data, not more updates."
    )


def compiled_updates(learner: Trainable, feed: Feed, layout: Layout | None = None) -> jax.stages.Wrapped:
    """``call(state, feed.data, steps, payload)`` -> (state, info): one update for each of ``steps``, compiled as one.

    ``info`` holds the losses of every step and seed. The state that goes in is consumed. Without a ``layout`` all is on
    one device.
    """
    out = None
    if layout is not None:
        out = (layout.of_state(jax.eval_shape(learner.init)), layout.everywhere)
    return jax.jit(partial(_updates, learner, feed, layout), donate_argnums=0, out_shardings=out)


def _chunks(learner: Trainable, feed: Feed, layout: Layout | None, data: Any, step: Any, part: Any) -> Chunks:
    """The batches of all seeds at one step: a leading axis over seeds."""
    discount = learner.config.critic.discount
    seeds = len(learner.config.seeds)
    chunks = over_axis(lambda one: to_chunks(feed.windows(data, step, one), discount), (0,), seeds)(part)
    return layout.constrain(chunks) if layout is not None else chunks


def _updates(learner: Trainable, feed: Feed, layout: Layout | None, state: Any, data: Any, steps: Any, payload: Any):
    def one(state, x):
        step, part = x
        chunks = _chunks(learner, feed, layout, data, step, part)
        return over_axis(learner.update, (0, 0, None), len(learner.config.seeds))(state, chunks, step)

    with products_in(learner.config.precision):
        if isinstance(learner, Learner) and in_turn(learner, layout):
            return _updates_in_turn(learner, feed, state, data, steps, payload)
        return jax.lax.scan(one, state, (steps, payload), unroll=_TURN)


def in_turn(learner: Learner, layout: Layout | None) -> bool:
    """Whether several networks are trained one after the other within a call, as on a CPU, or side by side."""
    alone = layout is None or layout.mesh.size == 1
    return alone and jax.default_backend() == "cpu" and len(learner.config.seeds) * max(len(learner.tasks), 1) > 1


def _updates_in_turn(learner: Learner, feed: Feed, state: TrainState, data: Any, steps: Any, payload: Any):
    """All steps of the call for the policy and the first task's critic, then for the next critic, seed after seed.

    They never meet, so that nothing changes but the order; and one network with its moments stays in the processor's cache,
    where those of all tasks and seeds would displace each other at every step.
    """
    config = learner.config
    single = dataclasses.replace(learner, config=dataclasses.replace(config, tasks=learner.tasks[:1]))

    def run(state, part, task):
        def one(state, x):
            step, part = x
            chunks = to_chunks(feed.windows(data, step, part), config.critic.discount)
            own = {
                name: jax.lax.dynamic_slice_in_dim(getattr(chunks, name), task, 1) for name in ("returns", "bootstrap")
            }
            return single.update(state, chunks._replace(**own) if learner.tasks else chunks, step)

        return jax.lax.scan(one, state, (steps, part), unroll=_TURN)

    def of_seed(x):
        state, part = x
        critics = state.critics
        state, info = run(TrainState(state.seed, state.policy, jax.tree.map(lambda x: x[:1], critics)), part, 0)
        if len(learner.tasks) > 1:
            others = jax.tree.map(lambda x: x[1:, None], critics), jnp.arange(1, len(learner.tasks))
            more, losses = jax.lax.map(lambda x: run(TrainState(state.seed, None, x[0]), part, x[1]), others)
            join = lambda first, rest: jnp.concatenate([first, rest[:, 0]])  # noqa: E731
            state = TrainState(state.seed, state.policy, jax.tree.map(join, state.critics, more.critics))
            beside = lambda first, rest: jnp.concatenate([first, rest[:, :, 0].T], axis=1)  # noqa: E731
            info["critic"] = jax.tree.map(beside, info["critic"], losses["critic"])
        return state, info

    seed_first = lambda tree: jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tree)  # noqa: E731
    state, info = jax.lax.map(of_seed, (state, seed_first(payload)))
    return state, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), info)


def _losses(learner: Trainable, feed: Feed, layout: Layout, state: Any, data: Any, steps: Any, payload: Any):
    """Losses on validation batches, without updates."""

    def one(_, x):
        step, part = x
        chunks = _chunks(learner, feed, layout, data, step, part)
        return None, over_axis(learner.validate, (0, 0, None), len(learner.config.seeds))(state, chunks, step)

    return jax.lax.scan(one, None, (steps, payload))[1]
