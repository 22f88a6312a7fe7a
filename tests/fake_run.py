"""A run folder like a finished demo's, with rows drawn from seeded numpy, so that the report can be tested without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.evaluate.rows import episode_seed
from steerflow.evaluate.summary import summarise
from steerflow.steer.presets import recipe

TASK = "cube-single-singletask-task2-v0"
# Success rates by strength, near those of the first measurements with these methods. The second number: whether tested.
RATES: dict[str, dict[float, tuple[float, bool]]] = {
    "bc": {0.0: (0.18, True)},
    "qgf": {0.01: (0.55, False), 0.03: (0.86, True), 0.1: (0.96, True), 0.2: (0.80, True), 0.4: (0.35, False)},
    "qfql": {0.01: (0.4, False), 0.03: (0.7, False), 0.1: (0.9, True), 0.2: (0.62, False)},
    "best_of_n": {4: (0.55, False), 16: (0.82, True)},
}
GUIDED = ("qgf", "qfql")


def recipe_of(method: str, strength: float) -> dict[str, Any]:
    changes = {"weight": float(strength)} if method in GUIDED else {"candidates": int(strength) or 1}
    return recipe(method, **changes).to_json()


def fake_rows(
    task: str = TASK,
    *,
    methods: tuple[str, ...] = ("bc", "qgf", "qfql", "best_of_n"),
    tune: int = 40,
    test: int = 100,
    seed: int = 0,
    success: bool = True,
    policy: str = "p" * 16,
) -> list[dict[str, Any]]:
    """Rows as an evaluation writes them; ``success`` off is an environment that tells no success."""
    rng = np.random.default_rng(seed)
    rows = []
    for split, episodes in (("tune", tune), ("test", test)):
        difficulty = rng.normal(size=episodes)
        for method in methods:
            for strength, (rate, tested) in RATES[method].items():
                if split == "test" and not tested:
                    continue
                settings = recipe_of(method, strength)
                suffix = f" w={strength:g}" if method in GUIDED else f" n={strength}" if strength else ""
                hardness = difficulty + 0.5 * rng.normal(size=episodes)
                solved = np.argsort(np.argsort(hardness)) < round(rate * episodes)
                length = np.where(solved, rng.integers(45, 120, episodes), 200)
                value = -46 + 24 * rate - 3 * difficulty + 60 * settings["weight"] + rng.normal(0, 2, episodes)
                for e in range(episodes):
                    row = {
                        "arm": method + suffix, "method": method, "weight": settings["weight"],
                        "candidates": settings["candidates"], "recipe": settings, "task": task, "split": split, "episode": e,
                        "seed": episode_seed(0, split, e), "success": bool(solved[e]) if success else None,
                        "return": -float(length[e]), "length": int(length[e]), "q": float(value[e] + 6),
                        "q_first": float(value[e]), "gradient_norm": float(rng.gamma(20, 0.4)),
                        "velocity_norm": float(rng.gamma(50, 0.08)), "clipped_fraction": 0.03 + 0.4 * settings["weight"],
                        "policy": policy, "critic": "c" * 16,
                    }  # fmt: skip
                    rows.append(row)
    return rows


def fake_metrics(
    tasks: tuple[str, ...] = (TASK,), *, steps: int = 30_000, validation: bool = True
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    rows = []
    for step in range(1000, steps + 1, 500):
        decay = np.exp(-step / 6000)
        for split, extra in (("train", 0.0), ("val", 0.03 * step / steps)):
            if split == "val" and not validation:
                continue
            noise = 1 + 0.03 * rng.normal(size=3)
            rows.append(
                {"step": step, "learner": "policy", "split": split, "loss": (0.3 + 0.9 * decay + extra) * noise[0]}
            )
            for n, task in enumerate(tasks):
                critic = {"critic_loss": (0.25 + 6 * decay + extra) * noise[1] * (1 + n / 3)}
                critic |= {
                    "value_loss": (0.04 + 0.4 * decay + extra / 5) * noise[2] * (1 + n / 3),
                    "q": -40 + 12 * decay,
                }
                rows.append({"step": step, "learner": f"critic/{task}", "split": split, **critic})
    return rows


def make_run(folder: Path, tasks: tuple[str, ...] = (TASK,), *, summary: bool = True, **changes: Any) -> Path:
    """Write a whole fake run to ``folder``; ``changes`` go to ``fake_rows``."""
    (folder / "evaluations").mkdir(parents=True)
    for i, task in enumerate(tasks):
        write_lines(folder / "evaluations" / f"{i}.jsonl", fake_rows(task, **{"seed": i, **changes}))
    write_lines(folder / "metrics.jsonl", fake_metrics(tasks))
    (folder / "config.toml").write_text('[both]\ndata = "cube-single-play"\nupdates = 30000\nbatch = 256\nseed = 0\n')
    if summary:
        seconds = {"data": 121.4, "training": 251.2, "tuning": 34.9, "test": 41.0}
        data = {"name": "cube-single-play", "transitions": 300_000, "episodes": 300, "fingerprint": "1f0c9c1d2e3a4b5c"}
        summarise(folder, seconds=seconds, data=data)
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
