"""What happens after the flow: ``refine(models, observations, a)`` -> a."""

from steerflow.steer.family import Family
from steerflow.steer.refine.keep import Keep as Keep

REFINES = Family("refine", {"none": Keep})
