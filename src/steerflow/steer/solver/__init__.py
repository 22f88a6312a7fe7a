"""How the flow is integrated: ``solver(field, a, t, dt)`` -> a at t + dt, for a field ``field(a, t)``."""

from steerflow.steer.family import Family
from steerflow.steer.solver.euler import Euler as Euler
from steerflow.steer.solver.heun import Heun as Heun
from steerflow.steer.solver.midpoint import Midpoint as Midpoint
from steerflow.steer.solver.rk4 import RK4 as RK4

SOLVERS = Family("solver", {"euler": Euler, "midpoint": Midpoint, "heun": Heun, "rk4": RK4})
