"""Measure this project beside the usual way and the machine's own limit, in one run.

    python -m bench                                    # all parts: training, many, acting, cheaper, sweep, data, start
    python -m bench training acting                    # some
    python -m bench training --other 'training|name|/its/checkout|.venv/bin/python main.py --steps {n}|2000'

Each part prints its figures and writes bench/results/PART.json and PART.png. Figures are medians after a warm-up, with the
lowest and the highest; keep the machine otherwise idle. Targets and what was learnt: bench/NOTES.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from bench.measure import Options, Other
from bench.plot import draw

PARTS = ("training", "many", "acting", "cheaper", "sweep", "data", "start")


def other(text: str) -> Other:
    """``PART|NAME|FOLDER|COMMAND with {n}|UNITS``, PART with the table's group after a slash where it is not the first."""
    try:
        place, name, folder, command, units = text.split("|")
        part, _, group = place.partition("/")
        if part not in PARTS or "{n}" not in command:
            raise ValueError
        return Other(part, name, Path(folder), command, int(units), group)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not PART|NAME|FOLDER|COMMAND|UNITS with a part among {', '.join(PARTS)} and {{n}} in the command"
        ) from None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Options()
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"among {', '.join(PARTS)}; default: all")
    parser.add_argument("--data", default=default.data, help=f"data set, default {default.data} (made by `make demo`)")
    parser.add_argument("--task", default=default.task, help=f"its task, default {default.task}")
    parser.add_argument("--run", type=Path, default=default.run, help=f"a trained run, default {default.run}")
    parser.add_argument("--hidden", type=int, nargs="+", default=default.hidden, help="widths of the networks")
    parser.add_argument("--repeats", type=int, default=default.repeats, help="repetitions of each timing")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--scratch", type=Path, default=default.scratch, help="folder for large temporary files")
    parser.add_argument("--other", type=other, action="append", default=[], metavar="PART|NAME|FOLDER|COMMAND|UNITS",
                        help="a program of others to time as well; {n} in its command is the number of units; PART may be "
                             "PART/GROUP, such as training/4x512")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for the results")
    args = parser.parse_args()
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    options = Options(
        data=args.data, task=args.task, run=args.run, hidden=tuple(args.hidden), repeats=args.repeats,
        quick=args.quick, scratch=args.scratch, others=tuple(args.other),
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts or PARTS:
        print(f"{part}", flush=True)
        table = importlib.import_module(f"bench.{part}").measure(options)
        for one in options.others:
            if one.part == part:
                one.measure(table)
        (args.out / f"{part}.json").write_text(json.dumps(table.to_json(), indent=1) + "\n")
        draw(table, args.out / f"{part}.png")
        print(f"  -> {args.out / part}.json, .png", flush=True)


if __name__ == "__main__":
    main()
