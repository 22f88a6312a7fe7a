"""The demo: data, training, sweep and report on one OGBench task, from nothing, in minutes on two cores."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerflow.learn.config import FlowMatchingConfig, IQLConfig, TrainConfig

_DATA = "cube-single-play"
_TASK = "cube-single-singletask-task2-v0"
_STATE = "demo.json"
# Validation only draws curves in the report; a twentieth of the data is enough for that.
_VAL_FRACTION = 0.05
PHASES = ("data", "train", "sweep", "report")


@dataclass(frozen=True)
class DemoConfig:
    """Make data with a scripted expert, train a flow policy and a critic, steer the policy, write a report.

    A second run reuses what exists; an interrupted one continues.
    """

    # Run folder.
    run: Path = Path("runs/demo")
    # Transitions of training data.
    transitions: int = 500_000
    # Gradient updates.
    updates: int = 16_000
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
    # Seed of training and evaluation; the data are the same for all.
    seed: int = 0


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run all phases and return the summary; ``RUN/report.html`` and ``RUN/summary.json`` are the results."""
    from steerflow.progress import console

    phases = _Phases(config.run)
    size = f"{config.transitions // 1000}k" if config.transitions % 1000 == 0 else str(config.transitions)
    say = console().print

    say("[bold]1/4 Data[/]: a scripted expert moves a cube with a robot arm, in MuJoCo")
    with phases.timed("data", {"transitions": config.transitions}):
        from steerflow.data.generate import make_data

        data = make_data(_DATA, transitions=config.transitions, val_fraction=_VAL_FRACTION, out=f"{_DATA}-{size}")

    say(
        "[bold]2/4 Training[/]: a flow policy imitates the data, a critic learns what is worth doing; neither sees the other"
    )
    settings = TrainConfig(
        data=str(data.train.path.parent),
        run=config.run,
        tasks=(_TASK,),
        updates=config.updates,
        seeds=(config.seed,),
        policy=FlowMatchingConfig(hidden=config.hidden),
        critic=IQLConfig(hidden=config.hidden),
    )
    with phases.timed("train", {"config": dataclasses.asdict(settings), "data": data.train.fingerprint}):
        from steerflow.learn.train import train

        train(settings)

    say("[bold]3/4 Steering[/]: weights are chosen on some episodes and reported on others")
    models = {name: _checksum(config.run / name) for name in ("policy", f"critic/{_TASK}")}
    asked = {"config": dataclasses.asdict(config), "models": models}
    if not phases.finished("sweep", asked, config.run / "summary.json"):
        with phases.timed("sweep", asked):
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
    if not phases.finished("report", asked, config.run / "report.html"):
        with phases.timed("report", asked):
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
    """Seconds of each phase over all calls of the demo, and whether it is finished, in ``RUN/demo.json``.

    A phase is the same as before if what it is made ``of``, its settings and input, is the same.
    """

    def __init__(self, run: Path) -> None:
        from steerflow.artefact import read_json

        self._path = run / _STATE
        self._phases: dict[str, Any] = read_json(self._path) if self._path.exists() else {}

    @property
    def seconds(self) -> dict[str, float]:
        return {name: self._phases[name]["seconds"] for name in PHASES if name in self._phases}

    def finished(self, name: str, of: Mapping[str, Any], result: Path) -> bool:
        return self._known(name, of).get("done", False) and result.exists()

    @contextmanager
    def timed(self, name: str, of: Mapping[str, Any]) -> Iterator[None]:
        """Adds the time of the block, unless the phase was finished before: then it only looks at what is there."""
        from steerflow.progress import console

        known = self._known(name, of)
        if known.get("done"):
            console().print(f"    there already, made in {known['seconds']:.0f} s", style="dim")
        begin = time.monotonic()
        try:
            yield
        except KeyboardInterrupt:
            self._write(name, of, known, time.monotonic() - begin, done=False)
            raise
        self._write(name, of, known, time.monotonic() - begin, done=True)

    def _known(self, name: str, of: Mapping[str, Any]) -> dict[str, Any]:
        phase = self._phases.get(name, {})
        return phase if phase.get("of") == _plain(of) else {}

    def _write(self, name: str, of: Mapping[str, Any], known: dict[str, Any], spent: float, done: bool) -> None:
        from steerflow.artefact import write_json

        if not known.get("done"):
            seconds = round(known.get("seconds", 0.0) + spent, 1)
            self._phases[name] = {"seconds": seconds, "done": done, "of": _plain(of)}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, self._phases)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str))
