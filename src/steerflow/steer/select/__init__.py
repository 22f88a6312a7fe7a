"""Which of the candidates is executed: ``select(key, q)`` -> index, for one row's q (candidates,)."""

from steerflow.steer.family import Family
from steerflow.steer.select.best_of_n import BestOfN as BestOfN
from steerflow.steer.select.first import First as First
from steerflow.steer.select.softmax import Softmax as Softmax

SELECTS = Family("select", {"first": First, "best_of_n": BestOfN, "softmax": Softmax})
