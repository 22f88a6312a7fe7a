"""How strongly and when guidance acts: ``schedule(weight, t, v, g)`` -> coefficient of g, (batch,) or scalar.

A schedule that is 0 at some times whatever the weight says so with ``acts(t)``: guidance is not asked there.
"""

from steerflow.steer.family import Family
from steerflow.steer.schedule.constant import Constant as Constant
from steerflow.steer.schedule.normalised import Normalised as Normalised
from steerflow.steer.schedule.ramp import Ramp as Ramp
from steerflow.steer.schedule.window import Window as Window

SCHEDULES = Family("schedule", {"constant": Constant, "window": Window, "ramp": Ramp, "normalised": Normalised})
