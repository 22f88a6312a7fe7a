"""The whole path with tiny settings: it ends, it reuses, and it continues."""

import json
import subprocess
import sys

import pytest

from steerflow.cli.table import show_arms

TINY = ("--transitions", "1000", "--updates", "250", "--hidden", "16", "--budget", "1", "--tune-episodes", "1",
        "--test-episodes", "2", "--methods", "qgf")  # fmt: skip


def run_demo(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "steerflow", "demo", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run_demo(folder, *TINY)
    return folder


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_summary_and_report(folder):
    summary = summary_of(folder)
    assert summary.keys() >= {"arms", "versions", "seeds", "seconds", "data"}
    assert list(summary["data"]) == ["fingerprint", "name", "transitions", "validation_transitions"]
    assert summary["data"]["transitions"] == 1000
    assert summary["seconds"].keys() == {"data", "train", "sweep", "report"}
    needed = {"arm", "method", "weight", "candidates", "task", "split", "episodes", "successes", "success",
              "ci_low", "ci_high", "mean_return", "mean_length"}  # fmt: skip
    assert all(arm.keys() >= needed for arm in summary["arms"])
    assert {(arm["method"], arm["split"]) for arm in summary["arms"]} >= {
        ("bc", "tune"),
        ("bc", "test"),
        ("qgf", "tune"),
    }
    assert (folder / "runs/demo/report.html").read_text().startswith("<!doctype html>")


def test_a_second_run_reuses_everything(folder):
    before = contents(folder)
    written = (folder / "runs/demo/report.html").stat().st_mtime_ns
    done = run_demo(folder, *TINY)
    assert done.stdout == "report   runs/demo/report.html\nsummary  runs/demo/summary.json\n"
    assert "Training policy and critic" not in done.stderr
    assert "Evaluating" not in done.stderr
    assert contents(folder) == before
    assert (folder / "runs/demo/report.html").stat().st_mtime_ns == written


def test_settings_that_do_not_fit_are_refused_and_nothing_is_lost(folder):
    before = contents(folder)
    done = subprocess.run(
        [sys.executable, "-m", "steerflow", "demo", *TINY, "--hidden", "8"],
        cwd=folder, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--run" in done.stderr
    assert contents(folder) == before


def test_more_episodes_reuse_data_and_training(folder):
    done = run_demo(folder, *TINY, "--test-episodes", "3")
    assert "Training policy and critic" not in done.stderr
    summary = summary_of(folder)
    assert {arm["episodes"] for arm in summary["arms"] if arm["split"] == "test"} == {3}


def summary_of(folder):
    return json.loads((folder / "runs/demo/summary.json").read_text())


def test_table_shows_chosen_arms_and_labels_the_optimistic_one(capsys):
    def arm(name, method, success):
        return {"arm": name, "method": method, "task": "t", "split": "test", "episodes": 10, "success": success,
                "ci_low": success - 0.1, "ci_high": success, "mean_return": -5.0, "mean_length": 50.0}  # fmt: skip

    summary = {
        "arms": [arm("bc", "bc", 0.1), arm("qgf w=0.1", "qgf", 0.9), arm("qgf w=0.3", "qgf", 1.0)],
        "choice": [{"method": "qgf", "task": "t", "arm": "qgf w=0.1"}],
        "optimistic": [{**arm("qgf w=0.3", "qgf", 1.0), "over": 2, "note": "optimistic: the maximum over 2 arms"}],
    }
    show_arms(summary, "t")
    said = capsys.readouterr().err
    table, _, optimistic = said.partition("Optimistic")
    assert "qgf w=0.1" in table
    assert "0.90" in table
    assert "qgf w=0.3" not in table
    assert "1.00 at qgf w=0.3" in " ".join(optimistic.split())
