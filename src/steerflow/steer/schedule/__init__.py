"""How strongly and when guidance acts: ``schedule(models, weight, t, v, g)`` -> coefficient of g, (batch,) or scalar.

It is proportional to the weight. A schedule that is 0 at some times whatever the weight says so with ``acts(t)``: guidance is
not asked there.
"""

from steerflow.steer.family import Family
from steerflow.steer.schedule.constant import Constant as Constant
from steerflow.steer.schedule.critic_scale import CriticScale as CriticScale
from steerflow.steer.schedule.critic_scale import Spread as Spread
from steerflow.steer.schedule.critic_scale import Steepness as Steepness
from steerflow.steer.schedule.critic_scale import Variance as Variance
from steerflow.steer.schedule.distance import Distance as Distance
from steerflow.steer.schedule.likelihood import Likelihood as Likelihood
from steerflow.steer.schedule.normalised import Normalised as Normalised
from steerflow.steer.schedule.ramp import Ramp as Ramp
from steerflow.steer.schedule.tilt import Tilt as Tilt
from steerflow.steer.schedule.window import Window as Window

SCHEDULES = Family(
    "schedule",
    {
        "constant": Constant,
        "window": Window,
        "ramp": Ramp,
        "tilt": Tilt,
        "normalised": Normalised,
        "distance": Distance,
        "likelihood": Likelihood,
        "critic_scale": CriticScale,
        "steepness": Steepness,
        "variance": Variance,
        "spread": Spread,
    },
)
