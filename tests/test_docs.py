"""The documentation runs: its Python is executed, its commands are at least read by the command line."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steerflow.cli import analyse, compare, data, demo, doctor, evaluate, launch, main, report, sweep, train
from steerflow.data.store import StoreWriter

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TASK = "cube-single-singletask-task2-v0"
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """(language, words after it, text) of each fenced block."""
    return [(m[1], m[2].strip(), m[3]) for m in _FENCE.finditer(page.read_text())]


def commands(text):
    """Argument lists of the ``steerflow`` and ``make`` commands in a block of shell lines."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name in ("steerflow", "make"):
            yield [Path(words[0]).name, *words[1:]]


def all_commands():
    for page in PAGES:
        for language, _, text in blocks(page):
            if language in ("sh", "console", "bash"):
                yield from commands(text)
        for inline in re.findall(r"`((?:steerflow|make) [^`\n]+)`", _FENCE.sub("", page.read_text())):
            yield from commands(inline)


class Read(Exception):
    """The command line was understood."""


@pytest.mark.parametrize("command", list(all_commands()), ids=" ".join)
def test_commands_are_understood(command, monkeypatch):
    program, *arguments = command
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {a for a in arguments if "=" not in a} <= set(targets)
        return
    groups = {"data": data.COMMANDS, "analyse": analyse.COMMANDS}
    if arguments[0] in main.COMMANDS and arguments[1:] in ([], *([name] for name in groups.get(arguments[0], ()))):
        # Named in the running text.
        return
    for module in (analyse, compare, data, demo, doctor, evaluate, launch, report, sweep, train):
        monkeypatch.setattr(module, "parse", lambda *a, parse=module.parse, **k: fail(parse(*a, **k)))
    with pytest.raises(Read):
        main._steerflow(arguments)


def fail(config):
    raise Read(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with ``runs/demo``: networks for the demo's task that have learnt next to nothing."""
    from steerflow.learn.config import FlowMatchingConfig, IQLConfig, TrainConfig
    from steerflow.learn.train import train

    folder, rng = tmp_path_factory.mktemp("docs"), np.random.default_rng(0)
    with StoreWriter(folder / "cubes/train", action_low=[-1] * 5, action_high=[1] * 5, source={}) as writer:
        for _ in range(4):
            writer.append({"observations": rng.normal(size=(40, 28)), "actions": rng.uniform(-1, 1, (40, 5))})
        store = writer.commit()
    store.add_task(TASK, -np.ones(store.rows), np.ones(store.rows))
    train(
        TrainConfig(
            data=str(folder / "cubes"), run=folder / "runs/demo", tasks=(TASK,), updates=10, batch=8, log_every=10,
            call_updates=10, policy=FlowMatchingConfig(hidden=(8,)), critic=IQLConfig(hidden=(8,)),
        )
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    names = {}
    for language, words, text in blocks(page):
        if language == "python" and words.startswith("file="):
            Path(words.removeprefix("file=")).write_text(text)
        elif language == "python" and words != "notest":
            exec(compile(text, f"{page.name}", "exec"), names)
        elif language == "sh" and words == "run":
            for _, *arguments in commands(text):
                done = subprocess.run(
                    [sys.executable, "-m", "steerflow", *arguments],
                    capture_output=True, text=True, timeout=900, check=False, env={**os.environ, "JAX_PLATFORMS": "cpu"},
                )  # fmt: skip
                assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr}"
                print(done.stdout, done.stderr)


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", _FENCE.sub("", page.read_text())):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_defaults_share_follows_from_the_committed_outcomes(capsys):
    runpy.run_path(str(ROOT / "bench/evidence/share.py"), run_name="__main__")
    shares = re.findall(r"([\d.]+) % \(([\d.]+) - ([\d.]+)\)", capsys.readouterr().out)
    told = (ROOT / "docs/evidence.md").read_text().replace("\n  ", " ").replace("**", "")
    assert len(shares) == 5
    for share, low, high in shares:
        assert re.search(rf"{share} %( of QGF tuned)? ?\({low} – {high}", told), share
