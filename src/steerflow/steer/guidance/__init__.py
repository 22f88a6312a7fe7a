"""Which vector is added to the velocity: ``guidance(models, observations, a, t, v)`` -> (batch, flat).

A new guidance is a frozen dataclass in a file of its own and one line here.
"""

from steerflow.steer.family import Family
from steerflow.steer.guidance.amortised import Amortised as Amortised
from steerflow.steer.guidance.base import Guidance as Guidance
from steerflow.steer.guidance.cfg import ClassifierFree as ClassifierFree
from steerflow.steer.guidance.chain import Bptt as Bptt
from steerflow.steer.guidance.chain import Chain as Chain
from steerflow.steer.guidance.consensus import Consensus as Consensus
from steerflow.steer.guidance.jacobian import Jacobian as Jacobian
from steerflow.steer.guidance.jacobian import Orthogonal as Orthogonal
from steerflow.steer.guidance.noisy import Noisy as Noisy
from steerflow.steer.guidance.nothing import Nothing as Nothing
from steerflow.steer.guidance.one_step import OneStep as OneStep
from steerflow.steer.guidance.posterior import Posterior as Posterior
from steerflow.steer.guidance.robust import Robust as Robust
from steerflow.steer.guidance.total import Total as Total

GUIDANCES: Family[Guidance] = Family(
    "guidance",
    {
        "none": Nothing,
        "one_step": OneStep,
        "noisy": Noisy,
        "jacobian": Jacobian,
        "orthogonal": Orthogonal,
        "chain": Chain,
        "bptt": Bptt,
        "posterior": Posterior,
        "consensus": Consensus,
        "amortised": Amortised,
        "robust": Robust,
        "cfg": ClassifierFree,
        "sum": Total,
    },
)
