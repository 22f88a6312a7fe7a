"""The demo: data, training, sweep and report on one OGBench task, from nothing, in minutes on two cores."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerflow.learn.config import FlowMatchingConfig, IQLConfig, TrainConfig

_DATA = "cube-single-play"
_TASK = "cube-single-singletask-task2-v0"
_STATE = "demo.json"


@dataclass(frozen=True)
class DemoConfig:
    """Make data with a scripted expert, train a flow policy and a critic, steer the policy, write a report.

    A second run reuses what exists; an interrupted one continues.
    """

    # Run folder.
    run: Path = Path("runs/demo")
    # Transitions of training data.
    transitions: int = 300_000
    # Gradient updates.
    updates: int = 30_000
    # Hidden layers of the networks.
    hidden: tuple[int, ...] = (256, 256, 256, 256)
    # Methods to compare with behaviour cloning.
    methods: tuple[str, ...] = ("qgf", "qfql", "best_of_n")
    # Weights to try for each guided method.
    budget: int = 6
    # Episodes on which each weight is tried.
    tune_episodes: int = 20
    # Other episodes, on which the chosen weights are reported.
    test_episodes: int = 100
    # Test all tried weights too, for the report's curves.
    curve: bool = False
    # Seed of everything.
    seed: int = 0


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run all phases and return the summary; ``RUN/report.html`` and ``RUN/summary.json`` are the results."""
    from steerflow.progress import console

    phases = _Phases(config)
    size = f"{config.transitions // 1000}k" if config.transitions % 1000 == 0 else str(config.transitions)
    say = console().print

    say("[bold]1/4 Data[/]: a scripted expert moves a cube with a robot arm, in MuJoCo")
    with phases.timed("data"):
        from steerflow.data.generate import make_data

        data = make_data(_DATA, transitions=config.transitions, seed=config.seed, out=f"{_DATA}-{size}")

    say("[bold]2/4 Training[/]: a flow policy imitates the data, a critic learns what is worth doing; neither sees the other")
    with phases.timed("train"):
        from steerflow.learn.train import train

        train(
            TrainConfig(
                data=str(data.train.path.parent),
                run=config.run,
                tasks=(_TASK,),
                updates=config.updates,
                seed=config.seed,
                policy=FlowMatchingConfig(hidden=config.hidden),
                critic=IQLConfig(hidden=config.hidden),
            )
        )

    say("[bold]3/4 Steering[/]: weights are chosen on some episodes and reported on others")
    models = {name: _checksum(config.run / name) for name in ("policy", f"critic/{_TASK}")}
    if not phases.finished("sweep", models, config.run / "summary.json"):
        with phases.timed("sweep", models):
            _sweep(config)

    say("[bold]4/4 Report[/]")
    from steerflow.evaluate.summary import summarise

    facts = {
        "name": _DATA,
        "transitions": data.train.transitions,
        "validation_transitions": data.val.transitions if data.val else 0,
        "fingerprint": data.train.fingerprint,
    }
    summary = summarise(config.run, seconds=phases.seconds, data=facts)
    if not phases.finished("report", models, config.run / "report.html"):
        with phases.timed("report", models):
            from steerflow.report.write import write_report

            write_report(config.run)
        summary = summarise(config.run, seconds=phases.seconds)
    return summary


def _sweep(config: DemoConfig) -> None:
    from steerflow.envs.pool import Pool
    from steerflow.evaluate.sweep import sweep

    with Pool(_TASK) as pool:
        from steerflow.critic import Critic
        from steerflow.policy import Policy

        sweep(
            config.run,
            Policy.load(config.run / "policy"),
            Critic.load(config.run / "critic" / _TASK),
            _TASK,
            config.methods,
            tune_episodes=config.tune_episodes,
            test_episodes=config.test_episodes,
            budget=config.budget,
            curve=config.curve,
            seed=config.seed,
            pool=pool,
        )


def _checksum(artefact: Path) -> str:
    from steerflow.artefact import META, read_json

    return read_json(artefact / META)["sha256"]


class _Phases:
    """Seconds of each phase over all runs of the demo with the same settings, and which phases are finished."""

    def __init__(self, config: DemoConfig) -> None:
        from steerflow.artefact import read_json

        self._path = config.run / _STATE
        settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        known = read_json(self._path) if self._path.exists() else {}
        same = known.get("settings") == settings
        self._state: dict[str, Any] = {"settings": settings, "phases": known["phases"] if same else {}}

    @property
    def seconds(self) -> dict[str, float]:
        phases = self._state["phases"]
        return {name: phases[name]["seconds"] for name in ("data", "train", "sweep", "report") if name in phases}

    def finished(self, name: str, of: Any, result: Path) -> bool:
        phase = self._state["phases"].get(name, {})
        return phase.get("done", False) and phase["of"] == of and result.exists()

    @contextmanager
    def timed(self, name: str, of: Any = None) -> Iterator[None]:
        """Adds the time of the block, unless the phase was done before: then it only looks at what is there."""
        phase = self._state["phases"].get(name, {})
        if phase.get("done") and phase["of"] == of:
            yield
            return
        begin, done = time.monotonic(), False
        try:
            yield
            done = True
        finally:
            spent = round(phase.get("seconds", 0.0) + time.monotonic() - begin, 1)
            self._state["phases"][name] = {"seconds": spent, "done": done, "of": of}
            self._write()

    def _write(self) -> None:
        from steerflow.artefact import write_json

        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._state)
