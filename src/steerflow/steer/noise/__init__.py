"""Where the flow starts: ``noise(key, observation, flat)`` -> (flat,), for one row."""

from steerflow.steer.family import Family
from steerflow.steer.noise.gaussian import Gaussian as Gaussian

NOISES = Family("noise", {"gaussian": Gaussian})
