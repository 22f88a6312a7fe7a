"""``steerflow COMMAND``: the table of commands."""

from __future__ import annotations

import sys

from steerflow.cli.shell import Command, dispatch, run
from steerflow.compiled import keep_compiled

COMMANDS = {
    "demo": Command("steerflow.cli.demo:demo", "data, training, sweep and report in minutes"),
    "data": Command("steerflow.cli.data:data", "make, get, import, check and list data sets"),
    "train": Command("steerflow.cli.train:train", "train a flow policy, critics, or both"),
    "evaluate": Command("steerflow.cli.evaluate:evaluate", "success of one way to steer, with its interval"),
    "sweep": Command("steerflow.cli.sweep:sweep", "choose weights on tuning episodes, compare methods on others"),
    "analyse": Command("steerflow.cli.analyse:analyse", "why steering works: the paper's figures, as data and plots"),
    "compare": Command(
        "steerflow.cli.compare:compare", "methods over tasks and seeds with equal effort: one table, one page"
    ),
    "report": Command("steerflow.cli.report:report", "one HTML page that shows a run"),
    "launch": Command("steerflow.cli.launch:launch", "many of these commands: here, on a Ray cluster, or on SLURM"),
    "doctor": Command("steerflow.cli.doctor:doctor", "what this machine can do, and what to type to mend it"),
}
_ABOUT = """Train a flow policy once, steer it at test time. Begin with: steerflow demo

--version prints the version; --debug, anywhere, shows the traceback of an error."""


def main(argv: list[str] | None = None) -> None:
    """The entry point; leaves through SystemExit with the exit code."""
    keep_compiled()
    sys.exit(run(_steerflow, list(sys.argv[1:] if argv is None else argv)))


def _steerflow(arguments: list[str]) -> None:
    if arguments and arguments[0] in ("--version", "-V", "version"):
        from importlib.metadata import version

        print(f"steerflow {version('steerflow')}")
        return
    dispatch("steerflow", COMMANDS, arguments, _ABOUT, options=("--version", "--debug"))
