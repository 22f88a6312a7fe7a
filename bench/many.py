"""Many at once: five tasks and two seeds in one process beside ten separate runs, and eight seeds beside one.

A run's time is its start-up (a process until its first update: imports, data, compilation) and its updates at the rate that
is measured here; hours are not waited for, the totals are computed for a stated number of updates. Rates are of all
programs in turn, so that a change of the machine's speed meets all alike.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax

from bench import usual
from bench.measure import Options, Table, product_rate
from bench.training import BATCH, Program, learner_of, update_flops
from steerflow.data.label import label
from steerflow.data.store import DataSet, Store
from steerflow.envs.tasks import tasks_of_data
from steerflow.learn.train import spec_of

_WIDTH = 256
# Updates of each run: the demo's, README's and the method's.
_UPDATES = (16_000, 30_000, 500_000)


def measure(options: Options) -> Table:
    title = f"Many at once: 4x{_WIDTH}, batch {BATCH}, chunk 5"
    table = Table("many", title, {"data": options.data, "updates": list(_UPDATES)})
    data = DataSet.open(options.data)
    tasks = [options.task, *(task for task in tasks_of_data(data.origin) if task != options.task)][:5]
    for task in tasks:
        label(data.train, task)
        if data.val is not None:
            label(data.val, task)
    count = 20 if options.quick else 100
    learners = {
        "one run": learner_of(options, data.train, _WIDTH, tasks[:1]),
        "five tasks, two seeds": learner_of(options, data.train, _WIDTH, tasks, (0, 1)),
        "eight seeds": learner_of(options, data.train, _WIDTH, tasks[:1], tuple(range(8))),
    }
    programs: dict[str, Callable[[], object]] = {
        **{name: Program(learner, data.train, count) for name, learner in learners.items()},
        "one run, the usual way": _usual(data.train, options.task, count),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    limits = []
    for _ in range(options.repeats + 1):
        limits.append(product_rate(BATCH, _WIDTH))
        for name, program in programs.items():
            begin = time.perf_counter()
            program()
            seconds[name].append((time.perf_counter() - begin) / count)
    roles = {"one run, the usual way": "usual"}
    each = {
        name: table.add("updates", name, roles.get(name, "steerflow"), "ms/update", [1e3 * s for s in values[1:]]) / 1e3
        for name, values in seconds.items()
    }
    starts = {
        name: table.add("start-up", name, "steerflow", "s", _start(options, chosen, seeds, each[name]))
        for name, chosen, seeds in (("one run", tasks[:1], (0,)), ("five tasks, two seeds", tasks, (0, 1)))
    }
    for updates in _UPDATES:
        apart = 10 * (starts["one run"] + updates * each["one run"])
        usual_way = 10 * (starts["one run"] + updates * each["one run, the usual way"])
        together = starts["five tasks, two seeds"] + updates * each["five tasks, two seeds"]
        table.ratio(f"{updates:,} updates: ten runs over one of five tasks, two seeds", apart / together, ">= 2.5")
        table.ratio(f"{updates:,} updates: ten runs the usual way over the same", usual_way / together)
    table.ratio("eight seeds: times the updates of one", 8 * each["one run"] / each["eight seeds"])
    # What sharing alone can give where products are all: ten policies and critics against two and ten.
    flops = {name: update_flops(jax.eval_shape(learners[name].init), BATCH) for name in starts}
    ratio = 10 * flops["one run"] / flops["five tasks, two seeds"]
    table.ratio("products of ten runs over those of one of five tasks, two seeds", ratio)
    for name, amount in flops.items():
        table.ratio(f"{name}: share of the products' limit", amount / statistics.median(limits[1:]) / each[name])
    return table


def _usual(store: Store, task: str, count: int) -> Callable[[], object]:
    spec = spec_of(store, 5)
    kept = {"agent": usual.agent(0, spec.observation_dim, spec.flat_dim, (_WIDTH,) * 4)}
    sampler = usual.Sampler(store, task, BATCH, 5)

    def run() -> object:
        kept["agent"] = usual.train(kept["agent"], sampler, count)
        return kept["agent"]

    return run


def _start(options: Options, tasks: list[str], seeds: tuple[int, ...], update: float) -> list[float]:
    """Seconds of a whole process with few updates, less these updates."""
    count, hidden = 50, ["256"] * 4
    times = []
    for _ in range(1 if options.quick else 3):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "steerflow", "train", "both", "--data", options.data, "--run", folder,
                "--tasks", *tasks, "--seeds", *map(str, seeds), "--updates", str(count), "--call-updates", str(count),
                "--log-every", "1000", "--policy.hidden", *hidden, "--critic.hidden", *hidden,
            ]  # fmt: skip
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times.append(time.perf_counter() - begin - count * update)
    return times
