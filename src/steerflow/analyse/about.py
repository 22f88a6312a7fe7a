"""What each figure shows, and what the QGF paper (arXiv 2606.11087) claims of it. No heavy imports: the help reads it."""

from __future__ import annotations

from dataclasses import dataclass

# The guidances whose directions the paper compares; QGF's first.
COMPARED = ("one_step", "chain", "jacobian", "bptt", "noisy")


@dataclass(frozen=True)
class About:
    """A figure's title, what it shows and how to read it, and the paper's claim; empty where the paper leaves it out."""

    title: str
    shows: str
    claim: str

    @property
    def summary(self) -> str:
        return self.title[0].lower() + self.title[1:]

    @property
    def help(self) -> str:
        claim = f"The paper's claim, {self.claim}" if self.claim else "The paper leaves this out."
        return f"{self.title}.\n\n{self.shows}\n\n{claim}"


FIGURES = {
    "direction": About(
        "Stability of the guidance's direction under noise",
        "A noisy action a_t is moved by a little Gaussian noise; shown is the cosine between the guidance before and after, "
        "and the spread of its norm. A guidance that turns with every small change pushes one way in one step and another "
        "way in the next.",
        "figure 3: QGF's direction is the most stable, then QGF-chain's, QGF-Jacobian's and that of BPTT.",
    ),
    "q": About(
        "Predicted Q against success and distance from the data",
        "For all arms that were evaluated: the critic's value of their actions in held-out states, the distance of these "
        "actions from the data, in units of the distance of behaviour cloning's, and success. More Q without more success is "
        "a critic that is exploited.",
        "figure 4 and appendix D: guidance raises Q and success while its actions stay near the data; the gradient at noisy "
        "actions, and search over many candidates, raise Q by leaving them.",
    ),
    "weight": About(
        "Success against guidance weight",
        "The whole curve on test episodes; the weight that tuning episodes chose is marked. How flat the top is says how "
        "exactly the weight must be known.",
        "figure 20: success rises with the weight, then falls.",
    ),
    "candidates": About(
        "Success against the number of candidates",
        "Behaviour cloning and a guided method at its chosen weight, each with the best of several candidates by the critic. "
        "Where more candidates do harm, the search finds the critic's errors.",
        "figure 7: QGF with one candidate beats the best of four of behaviour cloning, and candidates add to QGF.",
    ),
    "flops": About(
        "Success against the cost of an action",
        "Search over candidates, guidance, and both, against what one action costs.",
        "figure 6: QGF with four candidates matches behaviour cloning with sixteen, at far less computation.",
    ),
    "size": About(
        "Success against the size of the networks",
        "Several run folders whose networks differ in size; each has its own weight, chosen on tuning episodes.",
        "figure 9: larger networks multiply QGF's success, up to where they overfit.",
    ),
    "critic": About(
        "Success with the critics and policies of other runs",
        "The first run's policy with the critic of each run, and each run's policy with the first run's critic; nothing is "
        "trained. Each pair has its own weight, chosen on tuning episodes.",
        "figure 10: QGF steers with any critic, and a better one makes the same policy better.",
    ),
    "steps": About(
        "Success against the number of flow steps, by solver",
        "At equal steps, and at equal calls of the velocity network: solvers of higher order call it more often. Each point "
        "has its own weight, chosen on tuning episodes.",
        "",
    ),
    "schedule": About(
        "Success against the shape of the weight over flow time",
        "Constant, rising, falling, in the first or the second half of the flow only; each shape has its own weight, chosen "
        "on tuning episodes.",
        "",
    ),
    "chunk": About(
        "Success against the length of the action chunk",
        "Several run folders that were trained with different --chunk; each has its own weight, chosen on tuning episodes.",
        "",
    ),
    "pessimism": About(
        "Success against the number of critics",
        "The same policy steered by the first critics of one ensemble, combined to the smallest value, the mean, or the mean "
        "minus a multiple of the deviation; and methods that steer less where critics disagree. Each point has its own "
        "weight, chosen on tuning episodes. Search and large weights exploit what critics get wrong: where pessimism pays, its "
        "lines are above the mean's.",
        "",
    ),
    "transfer": About(
        "One weight for all tasks",
        "Tasks and runs whose critics differ in scale, discount, chunk or width, and the schedules whose weight may or may not "
        "mean the same for all. Shown are the tuning curves, and success on test episodes with the weight tuned for each task, "
        "with the weight that all other tasks would have chosen for it, and with one weight for all.",
        "",
    ),
}
