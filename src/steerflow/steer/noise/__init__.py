"""Where the flow starts: ``noise(models, keys, observations, flat)`` -> (batch, flat), with one key for each row."""

from steerflow.steer.family import Family
from steerflow.steer.noise.gaussian import Gaussian as Gaussian
from steerflow.steer.noise.latent import Latent as Latent

NOISES = Family("noise", {"gaussian": Gaussian, "latent": Latent})
