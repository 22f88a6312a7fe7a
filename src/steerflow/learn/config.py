"""Training's settings as plain records: no jax here, so that the command line can show them at once.

Defaults are QGF's (arXiv 2606.11087): its method's everywhere, its code's network size and batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# The kinds of parts: what is learnt for steering beside policy and critic, from these two.
PARTS = ("amortised", "robust", "optimal", "latent")
# Of the factors in products; results are float32.
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class FlowMatchingConfig:
    """Behaviour cloning of a flow policy by flow matching."""

    # Hidden layers of the velocity network.
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    # Adam's step size.
    learning_rate: float = 3e-4
    # Flow times seen in training: "uniform" on [0, 1], so that any solver and step count works, or "grid", the points
    # k / grid_steps of QGF's code, which fits only Euler with that many steps.
    flow_time: Literal["uniform", "grid"] = "uniform"
    # Number of intervals of the "grid".
    grid_steps: int = 10
    # Highest angular frequency at which the network sees the flow time; QGF's code uses 10000, see docs/method.md.
    time_frequency: float = 100.0


@dataclass(frozen=True)
class IQLConfig:
    """Implicit Q-learning: an ensemble of critics and an expectile value, both within the data."""

    # Hidden layers of each critic and of the value.
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    # Adam's step size.
    learning_rate: float = 3e-4
    # Number of critics.
    ensemble: int = 2
    # How the critics are combined for the value's target.
    aggregate: Literal["min", "mean"] = "min"
    # Expectile of the value: 0.5 is the mean of the data's actions, towards 1 the best of them.
    expectile: float = 0.9
    # Discount of one environment step.
    discount: float = 0.99
    # Polyak rate of the target critics.
    target_rate: float = 0.005
    # Steps of reward summed before bootstrapping; 0 means the chunk's length.
    horizon: int = 0


@dataclass(frozen=True)
class AmortisedConfig:
    """Distillation of a critic's gradient into a small network."""

    # Hidden layers: a tenth of the default critics' parameters.
    hidden: tuple[int, ...] = (256, 256, 256)
    # Adam's step size.
    learning_rate: float = 1e-3
    # How the critics are combined where the gradient is taken, as in the recipes that use it.
    aggregate: str = "min"


@dataclass(frozen=True)
class RobustConfig:
    """RobustQ: distillation of the critics into one that is asked about noisy actions."""

    # Hidden layers.
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    # Adam's step size.
    learning_rate: float = 3e-4
    # How the critics are combined.
    aggregate: str = "min"


@dataclass(frozen=True)
class OptimalConfig:
    """CFGRL: a flow of all actions and of those of positive advantage."""

    # Hidden layers.
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    # Adam's step size.
    learning_rate: float = 3e-4
    # How the critics are combined for the advantage.
    aggregate: str = "min"


@dataclass(frozen=True)
class LatentConfig:
    """DSRL: an actor that chooses where the flow starts, and critics of such starts."""

    # Hidden layers of the actor and of each critic.
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    # Adam's step size.
    learning_rate: float = 3e-4
    # Starts lie in [-noise_scale, noise_scale].
    noise_scale: float = 1.0
    # Euler steps of the flow that is started, as in the recipe that uses it.
    steps: int = 10


@dataclass(frozen=True)
class TrainConfig:
    """One training run: `RUN/policy` and `RUN/critic/<task>` are its results, of several seeds each below `RUN/seed-N`."""

    # Data set: a name below ./data (see `steerflow data list`) or a folder.
    data: str
    # Run folder; running the same command again continues it.
    run: Path
    # What is trained: the policy, the critics, or both at once on the same batches; or, from these, parts of one kind.
    learn: Literal["policy", "critic", "both", "amortised", "robust", "optimal", "latent"] = "both"
    # Tasks whose critics are trained, all in one call; rewards come from the store, or OGBench's labels. Those of parts need
    # critics in the run folder.
    tasks: tuple[str, ...] = ()
    # Actions decided at once and executed open loop.
    chunk: int = 5
    # Gradient updates.
    updates: int = 500_000
    # Chunks in a batch.
    batch: int = 256
    # Seeds of the networks, the batches and the noise. Several train at once over one copy of the data, each as it would
    # alone; their results are then `RUN/seed-N`.
    seeds: tuple[int, ...] = (0,)
    # Observations as networks see them: "none" is as stored, as in OGBench's and QGF's code; "standard" has mean 0 and
    # deviation 1 over the data. Use it for raw units such as pixels; it also blows up dimensions that hardly vary.
    normalise: Literal["none", "standard"] = "none"
    # Settings of behaviour cloning.
    policy: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    # Settings of the critics.
    critic: IQLConfig = field(default_factory=IQLConfig)
    # Settings of the parts, by kind.
    amortised: AmortisedConfig = field(default_factory=AmortisedConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    optimal: OptimalConfig = field(default_factory=OptimalConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    # Of the factors in the networks' products while training; sums, parameters and optimisers are float32 in either case.
    # "bfloat16" is faster on GPUs and CPUs with units for it, and rounds: results are no longer those of float32.
    precision: Precision = "float32"
    # Updates between two rows of metrics.
    log_every: int = 1_000
    # Seconds between two checkpoints; a killed run continues from the last one.
    save_seconds: float = 60.0
    # Updates in one compiled call; log_every must be a multiple.
    call_updates: int = 250
    # Where batches come from: "memory" keeps the data on the device, "stream" reads the store; "auto" takes memory if
    # the data fit in a third of what is free.
    feed: Literal["auto", "memory", "stream"] = "auto"
    # Devices to train on; "auto" is one, or with --distributed all of all processes.
    devices: int | Literal["auto"] = "auto"
    # What is split over them: "batch" each batch; "parameters" networks and optimisers too, for large networks; "seeds" the
    # seeds, without any communication.
    shard: Literal["batch", "parameters", "seeds"] = "batch"
    # This is one of several processes that train together: started by SLURM or MPI, or told by JAX_COORDINATOR_ADDRESS,
    # JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    distributed: bool = False

    def folders(self) -> dict[int, Path]:
        """The run folder of each seed."""
        if len(self.seeds) == 1:
            return {self.seeds[0]: self.run}
        return {seed: self.run / f"seed-{seed}" for seed in self.seeds}
