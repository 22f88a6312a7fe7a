"""``steerflow train {policy,critic,both}``, and from these ``steerflow train KIND`` for each kind of part."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Suppress, arg

from steerflow.cli.shell import Command, dispatch, keeping, parse
from steerflow.learn.config import (
    AmortisedConfig,
    FlowMatchingConfig,
    IQLConfig,
    LatentConfig,
    OptimalConfig,
    RobustConfig,
    TrainConfig,
)

_PLACE = "steerflow.cli.train"
COMMANDS = {
    "policy": Command(f"{_PLACE}:policy", "behaviour cloning of a flow; one policy serves every task of its data"),
    "critic": Command(f"{_PLACE}:critic", "one critic for each task, all at once; any of them steers the policy"),
    "both": Command(f"{_PLACE}:both", "policy and critics on the same batches"),
    "amortised": Command(f"{_PLACE}:amortised", "a part: a small network in place of a critic's gradient"),
    "robust": Command(f"{_PLACE}:robust", "a part: a critic that is asked about noisy actions"),
    "optimal": Command(f"{_PLACE}:optimal", "a part: a flow of all actions and of the better ones"),
    "latent": Command(f"{_PLACE}:latent", "a part: an actor that chooses where the flow starts"),
}
_ABOUT = """Train from a data set; the results are RUN/policy and RUN/critic/TASK. From these, frozen, parts are learnt for the
methods that ask them: RUN/KIND/TASK."""

# Stands for the data set's name until it is known.
_RUN = Path("runs/DATA")
_Run = Annotated[Path, arg(help="Run folder; running the same command again continues it.")]
_Tasks = Annotated[
    tuple[str, ...],
    arg(
        aliases=("--task",),
        help="Tasks whose critics are trained; without any, those of the data set are listed. Rewards come from the data set, or "
        "OGBench's labels.",
    ),
]
_Seeds = Annotated[
    tuple[int, ...],
    arg(
        aliases=("--seed",),
        help="Seeds of the networks, the batches and the noise. Several train at once over one copy of the data, each as "
        "it would alone; their results are then RUN/seed-N.",
    ),
]


@dataclass(frozen=True)
class _Plain(TrainConfig):
    """Without the options of parts."""

    amortised: Suppress[AmortisedConfig] = field(default_factory=AmortisedConfig)
    robust: Suppress[RobustConfig] = field(default_factory=RobustConfig)
    optimal: Suppress[OptimalConfig] = field(default_factory=OptimalConfig)
    latent: Suppress[LatentConfig] = field(default_factory=LatentConfig)


@dataclass(frozen=True)
class _Train(_Plain):
    """Options of training from data alone."""

    run: _Run = _RUN
    seeds: _Seeds = (0,)
    tasks: _Tasks = ()


@dataclass(frozen=True)
class _Policy(_Train):
    """Train a flow policy by behaviour cloning: RUN/policy."""

    learn: Suppress[Literal["policy"]] = "policy"
    tasks: Suppress[tuple[str, ...]] = ()
    critic: Suppress[IQLConfig] = field(default_factory=IQLConfig)


@dataclass(frozen=True)
class _Critic(_Train):
    """Train a critic for each task, all in one call: RUN/critic/TASK."""

    learn: Suppress[Literal["critic"]] = "critic"
    policy: Suppress[FlowMatchingConfig] = field(default_factory=FlowMatchingConfig)


@dataclass(frozen=True)
class _Both(_Train):
    """Train a flow policy and a critic for each task at once: RUN/policy and RUN/critic/TASK."""

    learn: Suppress[Literal["both"]] = "both"


@dataclass(frozen=True, kw_only=True)
class _Part(_Plain):
    """Options of a part of any kind."""

    run: Annotated[Path, arg(help="Run folder with a policy and critics, or its name below ./runs.")]
    data: Annotated[str, arg(help="Data set whose states are used; by default that of the policy.")] = ""
    tasks: Annotated[
        tuple[str, ...], arg(aliases=("--task",), help="Tasks; by default all that the run has critics of.")
    ] = ()
    updates: Annotated[int, arg(help="Gradient updates.")] = 50_000
    chunk: Suppress[int] = 5
    seeds: Annotated[
        tuple[int, ...], arg(aliases=("--seed",), help="The seed of the networks, the batches and the noise.")
    ] = (0,)
    normalise: Suppress[Literal["none", "standard"]] = "none"
    policy: Suppress[FlowMatchingConfig] = field(default_factory=FlowMatchingConfig)
    critic: Suppress[IQLConfig] = field(default_factory=IQLConfig)
    devices: Suppress[int | Literal["auto"]] = "auto"
    shard: Suppress[Literal["batch", "parameters", "seeds"]] = "batch"
    distributed: Suppress[bool] = False


@dataclass(frozen=True, kw_only=True)
class _Amortised(_Part):
    """Distil the gradient of a run's critics into small networks: RUN/amortised/TASK, for the method qgf_amortised."""

    learn: Suppress[Literal["amortised"]] = "amortised"
    amortised: AmortisedConfig = field(default_factory=AmortisedConfig)


@dataclass(frozen=True, kw_only=True)
class _Robust(_Part):
    """Distil a run's critics into one that is asked about noisy actions: RUN/robust/TASK, for the method robust_q."""

    learn: Suppress[Literal["robust"]] = "robust"
    robust: RobustConfig = field(default_factory=RobustConfig)


@dataclass(frozen=True, kw_only=True)
class _Optimal(_Part):
    """Train a flow of all actions and of those a run's critics prefer: RUN/optimal/TASK, for the method cfgrl."""

    learn: Suppress[Literal["optimal"]] = "optimal"
    optimal: OptimalConfig = field(default_factory=OptimalConfig)


@dataclass(frozen=True, kw_only=True)
class _Latent(_Part):
    """Train an actor that chooses where a run's flow starts: RUN/latent/TASK, for the method dsrl."""

    learn: Suppress[Literal["latent"]] = "latent"
    latent: LatentConfig = field(default_factory=LatentConfig)


def train(arguments: list[str]) -> None:
    dispatch("steerflow train", COMMANDS, arguments, _ABOUT)


def policy(arguments: list[str]) -> None:
    _train(parse(_Policy, arguments, prog="steerflow train policy"))


def critic(arguments: list[str]) -> None:
    _train(parse(_Critic, arguments, prog="steerflow train critic"))


def both(arguments: list[str]) -> None:
    _train(parse(_Both, arguments, prog="steerflow train both"))


def amortised(arguments: list[str]) -> None:
    _train(parse(_Amortised, arguments, prog="steerflow train amortised"))


def robust(arguments: list[str]) -> None:
    _train(parse(_Robust, arguments, prog="steerflow train robust"))


def optimal(arguments: list[str]) -> None:
    _train(parse(_Optimal, arguments, prog="steerflow train optimal"))


def latent(arguments: list[str]) -> None:
    _train(parse(_Latent, arguments, prog="steerflow train latent"))


def _train(options: TrainConfig) -> None:
    config = TrainConfig(**{f.name: getattr(options, f.name) for f in fields(TrainConfig)})
    if config.run == _RUN:
        config = replace(config, run=Path("runs") / Path(config.data).name)
    keeping(f"The last checkpoint is in {config.run}.")
    from steerflow.learn.train import train

    print(train(config))
