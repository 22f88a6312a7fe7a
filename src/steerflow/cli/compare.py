"""``steerflow compare RUN ...``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from steerflow.cli.runs import Changes
from steerflow.cli.shell import keeping, parse

_METHODS = ("qgf", "qfql", "best_of_n")


@dataclass(frozen=True)
class Compare:
    """Compare methods over tasks and training seeds with equal effort: one table, one page, costs included.

    Every method may try as many settings as the others, on the same tuning episodes, and is reported on the same test
    episodes. What sweeps have evaluated before is used, what a comparison evaluates is kept in RUN/evaluations; called
    again, it continues, and a finished one only makes its tables again.

    steerflow compare cube scene --methods qgf,qfql,best_of_n --budget 8

    Earlier comparisons in the place of runs are joined to one table, of the methods that all of them have by the same recipe;
    it names those that it leaves out. Nothing is run.

    steerflow compare compare-cube compare-scene --out runs/all
    """

    # Run folders, or their names below ./runs; a folder of seeds (RUN/seed-N) stands for all of them. Or comparisons to join:
    # their folders or compare.json.
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN [RUN ...]")]
    # Methods to compare, such as qgf,best_of_n or 'qgf(aggregate=mean, steps=5)'; "all" are those whose parts all runs have, an
    # unknown name lists them. By default qgf,qfql,best_of_n. Behaviour cloning is always there.
    methods: Annotated[tuple[str, ...], arg(aliases=("--method",))] = ()
    # Tasks; by default all that the runs have critics of. A run takes part in those that it has.
    tasks: Annotated[tuple[str, ...], arg(aliases=("--task",))] = ()
    # Where the table and the page go; by default runs/compare-RUN.
    out: Path | None = None
    # The method that the others are compared with episode by episode, beside behaviour cloning; by default qgf.
    reference: str | None = None
    # Settings that each method may try: weights if it is guided, numbers of candidates if it only searches.
    budget: int = 8
    # Episodes on which each setting is tried; one that can no longer be chosen is given up before.
    tune_episodes: int = 20
    # Other episodes, on which the chosen setting is reported.
    test_episodes: int = 100
    # The first weights to try; by default multiples of the natural scale |velocity| / |critic's gradient|.
    grid: tuple[float, ...] = ()
    # Numbers of candidates to try; if they are more than the budget, those nearest to the method's own.
    candidates: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    # Test all settings that were tried, which shows how optimistic a maximum over them is.
    curve: bool = False
    # Seed of the episodes.
    seed: int = 0
    # With --no-cost, leave out what a decision costs (operations, network calls, milliseconds), which is measured once for each
    # method and network size.
    cost: bool = True
    # Processes that step environments; by default one for each core.
    workers: int | None = None
    # Environments in a process.
    lanes: int = 4
    # Steer other policies, or by other critics, than the runs' own: runs, or folders of artefacts; "own" is the run's own.
    # With several, every method is in the table with each: --critics own OTHER.
    policies: Annotated[tuple[str, ...], arg(aliases=("--policy",))] = ("own",)
    critics: Annotated[tuple[str, ...], arg(aliases=("--critic",))] = ("own",)
    # Changes to all methods.
    changes: OmitArgPrefixes[Changes] = field(default_factory=Changes)


def compare(arguments: list[str]) -> None:
    config = parse(Compare, arguments, prog="steerflow compare")
    from steerflow.cli.runs import parts_of, read_methods, split_names
    from steerflow.errors import SteerflowError

    if not config.runs:
        raise SteerflowError("Name at least one run: steerflow compare RUN. Runs are made by `steerflow train`.")
    keeping("Finished episodes are in the runs' evaluations.")
    out = config.out or Path("runs") / ("compare-" + "-".join(Path(run).name for run in config.runs))
    # What imports jax comes after what does not.
    from steerflow.cli.table import show_comparison
    from steerflow.evaluate.compare import cells_of, compare, comparison_path, join
    from steerflow.evaluate.tune import Effort
    from steerflow.report.comparison import write_comparison

    earlier = [name for name in config.runs if comparison_path(name) is not None]
    if earlier and len(earlier) < len(config.runs):
        raise SteerflowError(
            f"{earlier[0]} is a comparison and {next(n for n in config.runs if n not in earlier)} is none. Compare the runs "
            "first, then join the comparisons: steerflow compare COMPARISON COMPARISON"
        )

    def write(table: dict[str, Any]) -> None:
        write_comparison(table, out)

    tasks = split_names(config.tasks)

    def parts() -> list[str]:
        if {*config.policies, *config.critics} != {"own"}:
            return []  # Parts fit the policy and the critic that they were learnt from.
        cells = cells_of(config.runs, tasks)
        return parts_of((cell.run, cell.task) for cell in cells)

    if earlier:
        named = config.methods if config.methods != ("all",) else ()
        methods = list(read_methods(named, config.changes, parts)) if named else []
        table = join(earlier, out, methods=methods, tasks=tasks, reference=config.reference)
        write(table)
    else:
        effort = Effort(
            tune_episodes=config.tune_episodes,
            test_episodes=config.test_episodes,
            budget=config.budget,
            grid=config.grid or None,
            candidates=config.candidates,
            curve=config.curve,
            seed=config.seed,
        )
        table = compare(
            config.runs,
            read_methods(config.methods or _METHODS, config.changes, parts),
            out,
            tasks=tasks,
            reference=config.reference,
            effort=effort,
            policies=[None if place == "own" else place for place in config.policies],
            critics=[None if place == "own" else place for place in config.critics],
            cost=config.cost,
            workers=config.workers,
            lanes=config.lanes,
            on_table=write,
        )
    show_comparison(table)
    print(out / "compare.html")
