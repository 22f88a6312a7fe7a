"""``steerflow demo``."""

from __future__ import annotations

from steerflow.cli.shell import keeping, parse
from steerflow.demo import DemoConfig


def demo(arguments: list[str]) -> None:
    config = parse(DemoConfig, arguments, prog="steerflow demo")
    keeping(f"Finished phases, the last checkpoint and finished episodes are kept in {config.run}.")
    from steerflow.cli.table import show_arms
    from steerflow.demo import PHASES, demo
    from steerflow.progress import console

    summary = demo(config)
    console().print()
    show_arms(summary, summary["arms"][0]["task"])
    seconds = summary["seconds"]
    phases = ", ".join(f"{name} {seconds[name]:.0f} s" for name in PHASES if name in seconds)
    console().print(f"\nThe policy was trained once; only its sampling differs. Time: {phases}.\n", style="dim")
    print(f"report   {config.run / 'report.html'}\nsummary  {config.run / 'summary.json'}")
