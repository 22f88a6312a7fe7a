"""What happens after the flow: ``refine(models, observations, a, weight)`` -> (a, how far weight 1 would move it (batch,)).

``weight`` is (batch,). With weight 0 the action stays as it is, but for the clip to the bounds.
"""

from steerflow.steer.family import Family
from steerflow.steer.refine.grad_step import GradStep as GradStep
from steerflow.steer.refine.keep import Keep as Keep

REFINES = Family("refine", {"none": Keep, "grad_step": GradStep})
