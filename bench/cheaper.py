"""Cheaper guidance: success on test episodes against milliseconds of one decision, each way with a weight of its own.

Weights are chosen on 20 tuning episodes and reported on 100 others, by ``steerflow sweep``'s own function. Episodes are kept in
the scratch folder: stopped and started again, it continues.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from bench.acting import CHEAPER, latencies
from bench.measure import Options, Table
from steerflow.critic import Critic
from steerflow.evaluate.sweep import sweep
from steerflow.policy import Policy
from steerflow.steer.actor import Actor
from steerflow.steer.presets import recipe


def measure(options: Options) -> Table:
    policy = Policy.load(options.run / "policy")
    critic = Critic.load(options.run / "critic" / options.task)
    recipes = {"bc": recipe("bc"), **CHEAPER}
    observation = np.zeros(policy.spec.observation_dim, np.float32)
    actors = {name: Actor(policy, critic, chosen) for name, chosen in recipes.items()}
    times = latencies({n: partial(a, jax.random.key(0), observation) for n, a in actors.items()}, 300)
    tune, test = (2, 4) if options.quick else (20, 100)
    summary = sweep(
        options.scratch / "cheaper", policy, critic, options.task, recipes,
        tune_episodes=tune, test_episodes=test, budget=5, grid=(0.03, 0.045, 0.065, 0.1),
    )  # fmt: skip
    hidden = policy.meta["network"]["hidden"]
    table = Table("cheaper", "Success against the time of a decision", {"task": options.task, "hidden": hidden})
    chosen = {c["method"]: c["arm"] for c in summary["choice"]}
    for name in recipes:
        arm = next(
            a
            for a in summary["arms"]
            if a["split"] == "test" and a["method"] == name and a["arm"] == chosen.get(name, a["arm"])
        )
        note = (
            f"{arm['successes']} of {arm['episodes']} test episodes, w = {arm['weight']:.3g}; Wilson interval of 95 %"
        )
        table.add("success", name, "steerflow", "", [arm["ci_low"], arm["success"], arm["ci_high"]], note)
    for name, ms in times.items():
        p5, p50, p95, p99 = np.percentile(ms, [5, 50, 95, 99])
        table.add("one decision", name, "steerflow", "ms", [p5, p50, p95], f"low p5, high p95; p99 {p99:.3g}")
    return table
