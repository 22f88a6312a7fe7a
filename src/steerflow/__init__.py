"""Train a flow policy once, steer it at test time.

    policy, critic = steerflow.load_policy("demo"), steerflow.load_critic("demo")
    act = steerflow.steer(policy, critic, "qgf", weight=0.1)
    actions, info = act(key, observations)     # (batch, chunk, action_dim)

Names are imported when they are first used: ``import steerflow`` loads neither jax nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerflow.critic import Critic as Critic
    from steerflow.critic import measure_scales as measure_scales
    from steerflow.data.check import check_data as check_data
    from steerflow.data.convert import import_data as import_data
    from steerflow.data.download import get_data as get_data
    from steerflow.data.generate import make_data as make_data
    from steerflow.data.label import label as label
    from steerflow.data.store import DataSet as DataSet
    from steerflow.data.store import Store as Store
    from steerflow.data.store import StoreWriter as StoreWriter
    from steerflow.envs.tasks import known_tasks as known_tasks
    from steerflow.envs.tasks import make_env as make_env
    from steerflow.errors import SteerflowError as SteerflowError
    from steerflow.evaluate.compare import compare as compare
    from steerflow.evaluate.summary import summarise as summarise
    from steerflow.evaluate.sweep import evaluate_run as evaluate_run
    from steerflow.evaluate.sweep import sweep as sweep
    from steerflow.evaluate.tune import Effort as Effort
    from steerflow.learn.config import FlowMatchingConfig as FlowMatchingConfig
    from steerflow.learn.config import IQLConfig as IQLConfig
    from steerflow.learn.config import TrainConfig as TrainConfig
    from steerflow.learn.train import train as train
    from steerflow.load import load_critic as load_critic
    from steerflow.load import load_part as load_part
    from steerflow.load import load_policy as load_policy
    from steerflow.part import Part as Part
    from steerflow.policy import Policy as Policy
    from steerflow.report.write import write_report as write_report
    from steerflow.spec import Spec as Spec
    from steerflow.steer.actor import Actor as Actor
    from steerflow.steer.actor import steer as steer
    from steerflow.steer.functions import steer_functions as steer_functions
    from steerflow.steer.models import Models as Models
    from steerflow.steer.presets import PRESETS as PRESETS
    from steerflow.steer.presets import recipe as recipe
    from steerflow.steer.recipe import Recipe as Recipe
    from steerflow.steer.sample import Sampled as Sampled
    from steerflow.steer.sample import sample as sample

# The same names, for the interpreter; a test keeps the two lists equal.
_PLACES = {
    "steerflow.critic": ("Critic", "measure_scales"),
    "steerflow.data.check": ("check_data",),
    "steerflow.data.convert": ("import_data",),
    "steerflow.data.download": ("get_data",),
    "steerflow.data.generate": ("make_data",),
    "steerflow.data.label": ("label",),
    "steerflow.data.store": ("DataSet", "Store", "StoreWriter"),
    "steerflow.envs.tasks": ("known_tasks", "make_env"),
    "steerflow.errors": ("SteerflowError",),
    "steerflow.evaluate.compare": ("compare",),
    "steerflow.evaluate.summary": ("summarise",),
    "steerflow.evaluate.sweep": ("evaluate_run", "sweep"),
    "steerflow.evaluate.tune": ("Effort",),
    "steerflow.learn.config": ("FlowMatchingConfig", "IQLConfig", "TrainConfig"),
    "steerflow.learn.train": ("train",),
    "steerflow.load": ("load_critic", "load_part", "load_policy"),
    "steerflow.part": ("Part",),
    "steerflow.policy": ("Policy",),
    "steerflow.report.write": ("write_report",),
    "steerflow.spec": ("Spec",),
    "steerflow.steer.actor": ("Actor", "steer"),
    "steerflow.steer.functions": ("steer_functions",),
    "steerflow.steer.models": ("Models",),
    "steerflow.steer.presets": ("PRESETS", "recipe"),
    "steerflow.steer.recipe": ("Recipe",),
    "steerflow.steer.sample": ("sample", "Sampled"),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("steerflow")
    if name not in _HOME:
        raise AttributeError(f"module 'steerflow' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
