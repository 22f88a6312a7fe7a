"""One fair table over runs and tasks: resumable, equal in effort, and rebuilt from the rows."""

import itertools
import json
import math
import re
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rliable.metrics import aggregate_iqm

from actors_for_tests import DriftActor, untrained
from steerflow.artefact import write_artefact
from steerflow.cli.compare import compare as compare_command
from steerflow.cli.runs import Changes, parts_of, read_methods
from steerflow.cli.table import show_comparison
from steerflow.errors import ArtefactError, MismatchError, SteerflowError, UnknownNameError
from steerflow.evaluate.arms import Actors
from steerflow.evaluate.choose import best, curves
from steerflow.evaluate.compare import CANDIDATES, Pair, PoolWhenNeeded, cells_of, compare, comparison_path, join
from steerflow.evaluate.rows import read_rows, rows_path
from steerflow.evaluate.statistics import resampled_means
from steerflow.evaluate.sweep import sweep
from steerflow.evaluate.table import Result, tables
from steerflow.evaluate.tune import Effort
from steerflow.learn.config import PARTS
from steerflow.report import words
from steerflow.report.comparison import render_comparison
from steerflow.report.tradeoff import _LETTER, _LINE, _label_places, by_task
from steerflow.spec import Spec
from steerflow.steer.presets import PRESETS, recipe

TASKS = ("envs_for_tests:steerflow-test/Drift-v0", "envs_for_tests:steerflow-test/Silent-v0")
METHODS = ("qgf", "qgf_normalised", "best_of_n")
EFFORT = Effort(tune_episodes=4, test_episodes=8, budget=5, candidates=CANDIDATES)
SETTINGS = {"effort": EFFORT, "workers": 1, "lanes": 4, "cost": False, "make_actor": DriftActor}


def study(folder, tasks=TASKS, seeds=(0, 1)):
    """A folder of seeds with untrained networks."""
    for seed in seeds:
        run = folder / f"seed-{seed}"
        for task in tasks:
            untrained(run, task, seed=seed)
        (run / "config.toml").write_text("")
    return folder


def no_actor(arm):
    raise AssertionError(f"{arm.name} acts, though all its episodes are there.")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two seeds on the task that tells success."""
    folder = study(tmp_path_factory.mktemp("study"))
    tables = []
    table = compare([folder], METHODS, folder / "out", tasks=TASKS[:1], on_table=tables.append, **SETTINGS)
    assert [len(t["cells"]) for t in tables] == [1, 2]
    assert [t["missing"] for t in tables] == [[{"run": f"{folder.name}/seed-1", "task": TASKS[0]}], []]
    return folder, table


def rows_of(folder, seed):
    return read_rows(rows_path(folder / f"seed-{seed}", TASKS[0]))


def chosen_rows(folder, seed, method):
    """The test outcomes of a method, found by hand from the rows: (arm, {seed of the episode: success})."""
    rows = rows_of(folder, seed)
    arm = "bc"
    if method != "bc":
        (curve,) = (c for c in curves(rows) if c.method == method)
        arm = best(curve.points).arm
    return arm, {r.seed: float(r.success) for r in rows if (r.arm, r.split) == (arm, "test")}


def test_every_number_follows_from_the_rows(compared):
    folder, table = compared
    assert json.loads((folder / "out" / "compare.json").read_text()) == table
    assert [m["method"] for m in table["methods"]] == ["bc", *METHODS]
    (task,) = table["tasks"]
    outcomes = {}
    for entry, of_task in zip(table["methods"], task["methods"], strict=True):
        found = [chosen_rows(folder, seed, entry["method"]) for seed in (0, 1)]
        assert [run["arm"] for run in of_task["runs"]] == [arm for arm, _ in found]
        rates = outcomes[entry["method"]] = np.array([list(successes.values()) for _, successes in found])
        assert rates.shape == (2, 8)
        assert [run["score"] for run in of_task["runs"]] == rates.mean(axis=1).tolist()
        assert entry["iqm"] == pytest.approx(aggregate_iqm(rates.mean(axis=1, keepdims=True)))
        assert entry["mean"] == of_task["mean"] == pytest.approx(rates.mean())
        assert entry["mean_low"] <= entry["mean"] <= entry["mean_high"]
    for entry in table["methods"]:
        for other, d in entry["against"].items():
            difference = outcomes[entry["method"]] - outcomes[other]
            wins, losses = (difference > 0).sum(), (difference < 0).sum()
            assert (d["wins"], d["losses"], d["episodes"]) == (wins, losses, 16)
            assert d["difference"] == pytest.approx(difference.mean())
            assert d["low"] <= d["difference"] <= d["high"]
    assert {m["method"]: set(m["against"]) for m in table["methods"]} == {
        "bc": {"qgf"}, "qgf": {"bc"}, "qgf_normalised": {"bc", "qgf"}, "best_of_n": {"bc", "qgf"}
    }  # fmt: skip


def test_every_method_has_the_same_budget_and_weight_zero(compared):
    folder, table = compared
    for seed in (0, 1):
        tuning = {(r.method, r.arm) for r in rows_of(folder, seed) if r.split == "tune"}
        tried = {method: {arm for m, arm in tuning if m == method} for method, _ in tuning}
        assert tried["bc"] == {"bc"}
        assert all(4 <= len(tried[method]) <= EFFORT.budget for method in METHODS)
        # Nearest to the preset's 16, as many as the budget has.
        assert tried["best_of_n"] == {f"best_of_n n={n}" for n in (4, 8, 16, 32, 64)}
        runs = {m["method"]: m["runs"][seed] for m in table["tasks"][0]["methods"]}
        assert {method: run["settings"] for method, run in runs.items()} == {m: len(arms) for m, arms in tried.items()}
    by_name = {m["method"]: m["settings"] for m in table["methods"]}
    assert by_name["bc"] == [1, 1]
    assert by_name["best_of_n"] == [5, 5]


def test_called_again_it_runs_nothing_and_says_the_same(compared):
    folder, table = compared
    before = rows_path(folder / "seed-0", TASKS[0]).read_bytes()
    again = compare(
        [folder], METHODS, folder / "out", tasks=TASKS[:1], **{**SETTINGS, "make_actor": no_actor, "workers": -1}
    )
    assert again == table
    assert rows_path(folder / "seed-0", TASKS[0]).read_bytes() == before


def test_what_an_earlier_sweep_tried_beyond_the_budget_does_not_count(compared, tmp_path):
    folder, table = compared
    shutil.copytree(folder, tmp_path / folder.name)
    run = tmp_path / folder.name / "seed-0"
    with PoolWhenNeeded(TASKS[0], 1, 4) as pool:
        sweep(
            run, None, None, TASKS[0], ["qgf"], grid=[0.07, 0.11, 0.13], budget=3, tune_episodes=4, test_episodes=8,
            pool=pool, actors=Actors(DriftActor),
        )  # fmt: skip
    assert len(read_rows(rows_path(run, TASKS[0]))) > len(rows_of(folder, 0))
    again = compare(
        [run.parent], METHODS, tmp_path / "out", tasks=TASKS[:1], **{**SETTINGS, "make_actor": no_actor, "workers": -1}
    )
    assert again["methods"] == table["methods"]


def test_a_killed_comparison_ends_with_the_same_rows_and_table(compared, tmp_path):
    folder, table = compared
    mine = study(tmp_path / folder.name)

    class Stop(BaseException):
        pass

    def stopping(after):
        calls = itertools.count()

        class Actor(DriftActor):
            def rows(self, *arguments):
                if next(calls) > after:
                    raise Stop
                return super().rows(*arguments)

        return Actor

    for after in (9, 40):
        with pytest.raises(Stop):
            compare([mine], METHODS, mine / "out", tasks=TASKS[:1], **{**SETTINGS, "make_actor": stopping(after)})
    assert 0 < len(rows_of(mine, 0)) < len(rows_of(folder, 0))
    assert compare([mine], METHODS, mine / "out", tasks=TASKS[:1], **SETTINGS)["methods"] == table["methods"]
    for seed in (0, 1):
        paths = [rows_path(place / f"seed-{seed}", TASKS[0]) for place in (folder, mine)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_default_is_compared_as_it_is(tmp_path):
    runs = study(tmp_path / "runs", TASKS[:1], (0,))
    names = ("default", "qgf_jacobian_variance")
    table = compare([runs], names, tmp_path / "out", tasks=TASKS[:1], **SETTINGS)
    (task,) = table["tasks"]
    found = {m["method"]: m for m in task["methods"]}
    assert list(found) == ["bc", *names]
    assert (found["default"]["tuned"], found["default"]["settings"]) == (None, [1, 1])
    assert found["default"]["runs"][0]["arm"] == "default w=75"
    assert found["qgf_jacobian_variance"]["settings"] == [5, 5]
    rows = rows_of(runs, 0)
    assert {r.weight for r in rows if r.method == "default"} == {PRESETS["qgf_jacobian_variance"].to_json()["weight"]}
    assert {c.method for c in curves(rows)} == {"qgf_jacobian_variance"}


NOTHING_RUNS = {**SETTINGS, "make_actor": no_actor, "workers": -1}


@pytest.fixture(scope="module")
def pieces(compared, tmp_path_factory):
    """The comparison's two seeds, each compared alone from the rows that are there."""
    folder, place = compared[0], tmp_path_factory.mktemp("pieces")
    for seed in (0, 1):
        compare([folder / f"seed-{seed}"], METHODS, place / str(seed), tasks=TASKS[:1], **NOTHING_RUNS)
    return place


def test_pieces_join_to_the_table_of_the_whole(compared, pieces, tmp_path):
    joined = join([pieces / "0", pieces / "1" / "compare.json"], tmp_path)
    assert json.loads((tmp_path / "compare.json").read_text()) == joined
    assert joined.pop("joined") == [str(pieces / "0"), str(pieces / "1" / "compare.json")]
    assert joined.pop("left_out") == {}
    assert joined == compared[1]
    # Intervals do not depend on the order.
    swapped = join([pieces / "1", pieces / "0"], tmp_path / "swapped")
    assert swapped["methods"] == joined["methods"]


def test_what_a_piece_lacks_is_missing_unless_another_has_it(pieces, tmp_path):
    first, second = (json.loads((pieces / str(n) / "compare.json").read_text()) for n in (0, 1))
    gap = {"run": "study/seed-7", "task": TASKS[0]}
    first["missing"] = [{name: second["cells"][0][name] for name in ("run", "task")}, gap]
    second["missing"] = [gap]
    for name, piece in (("first", first), ("second", second)):
        (tmp_path / f"{name}.json").write_text(json.dumps(piece))
    joined = join([tmp_path / "first.json", tmp_path / "second.json"], tmp_path / "all")
    assert joined["missing"] == [gap]
    assert "join again" in render_comparison(joined, "all")


def test_every_task_of_several_is_a_column_with_what_is_clearly_above_and_below(pieces, tmp_path, capsys):
    """Pieces with a task each, joined: columns by name, or as tasks are named; marks as paired intervals say."""
    names = [f"cube-single-singletask-task{number}-v0" for number in (2, 1)]
    # Of 40 episodes; QGF has 20.
    successes = {"qgf": (20, 20), "bc": (0, 19), "best_of_n": (40, 21)}
    for task, column in zip(names, (0, 1), strict=True):
        outcomes = {m: "1" * some[column] + "0" * (40 - some[column]) for m, some in successes.items()}
        found = [
            Result(m, task, "run", None, None, m, 1, {"success": tuple(map(float, text))})
            for m, text in outcomes.items()
        ]
        about = json.loads((pieces / "0" / "compare.json").read_text())
        cells = [{**about["cells"][0], "task": task, "run": "run"}]
        piece = {**about, **tables(found, "qgf"), "cells": cells}
        (tmp_path / f"{column}.json").write_text(json.dumps(piece))
    places = [tmp_path / "0.json", tmp_path / "1.json"]
    assert [t["task"] for t in join(places, tmp_path / "named", tasks=names)["tasks"]] == names
    joined = join(places, tmp_path / "all")
    assert [t["task"] for t in joined["tasks"]] == names[::-1]
    page = render_comparison(joined, "all")
    (body,) = re.findall(r'aria-label="Task by task".*?</table>', page, flags=re.DOTALL)
    head, *rows = re.findall(r"<tr>(.*?)</tr>", body)
    assert re.findall(r">([^<]+)</th>", head) == ["method", "cube-single task\xa01", "cube-single task\xa02", "mean"]
    cells = [re.findall(r'>([^<]+)</th>|<td>([\d%.]+)(?:<i class="sign">(.?)</i>)?', row) for row in rows]
    assert [(row[0][0], *(cell[1:] for cell in row[1:])) for row in cells] == [
        ("best_of_n", ("52%", ""), ("100%", "▲"), ("76%", "")),
        ("qgf", ("50%", ""), ("50%", ""), ("50%", "")),
        ("bc", ("48%", ""), ("0%", "▼"), ("24%", "")),
    ]
    show_comparison(joined)
    _, printed = capsys.readouterr().err.split("success by task")
    said = [" ".join(line.split()) for line in printed.splitlines()]
    for line in (
        "method cube-single task 1 cube-single task 2",
        "qgf 0.50 0.50",
        "bc 0.47 0.00 ▼",
        "best_of_n 0.53 1.00 ▲",
    ):
        assert line in said
    show_comparison(json.loads((pieces / "0" / "compare.json").read_text()))
    assert "by task" not in capsys.readouterr().err


def test_a_run_is_no_comparison_whatever_lies_in_it(pieces, tmp_path):
    assert (
        comparison_path(pieces / "0") == comparison_path(pieces / "0" / "compare.json") == pieces / "0" / "compare.json"
    )
    assert comparison_path(pieces) is None
    runs = study(tmp_path / "runs", seeds=(0,))
    for folder in (runs, runs / "seed-0"):
        shutil.copy(pieces / "0" / "compare.json", folder)
        assert comparison_path(folder) is None


def test_joining_takes_what_all_have_or_what_is_named(compared, pieces, tmp_path):
    folder, table = compared
    compare([folder / "seed-1"], ("best_of_n",), tmp_path / "1", tasks=TASKS[:1], **NOTHING_RUNS)
    for found in (
        join([pieces / "0", tmp_path / "1"], tmp_path / "all"),
        join([pieces / "0", pieces / "1"], tmp_path / "all", methods=["best_of_n"]),
    ):
        assert [m["method"] for m in found["methods"]] == ["bc", "best_of_n"]
        assert found["methods"][1]["mean"] == next(m for m in table["methods"] if m["method"] == "best_of_n")["mean"]
        assert found["reference"] == "best_of_n"
    with pytest.raises(SteerflowError, match=f"'qgf' cannot be joined: it is not in {tmp_path / '1'}"):
        join([pieces / "0", tmp_path / "1"], tmp_path / "all", methods=["qgf"])
    with pytest.raises(UnknownNameError, match="must be in all"):
        join([pieces / "0", pieces / "1"], tmp_path / "all", methods=["qfg"])


def test_methods_that_cannot_be_joined_are_left_out_and_named(compared, pieces, tmp_path, capsys):
    """One with another recipe, and two that a comparison lacks, in the middle of three: named together by their reason."""
    first, second = (json.loads((pieces / str(n) / "compare.json").read_text()) for n in (0, 1))
    second["settings"]["methods"]["qgf"]["steps"] = 3
    third = json.loads(json.dumps(second))
    third["cells"][0]["run"] = "study/seed-7"
    lacks = ("qgf_normalised", "best_of_n")
    for table in (second, *second["tasks"]):
        table["methods"] = [one for one in table["methods"] if one["method"] not in lacks]
    places = [tmp_path / f"{name}.json" for name in ("first", "second", "third")]
    for place, piece in zip(places, (first, second, third), strict=True):
        place.write_text(json.dumps(piece))
    joined = join(places, tmp_path / "all")
    recipes = f"one recipe in {places[0]} and another in {places[1]}"
    assert joined["left_out"] == {"qgf": recipes} | dict.fromkeys(lacks, f"not in {places[1]}")
    kept = [m["method"] for m in compared[1]["methods"] if m["method"] not in joined["left_out"]]
    assert [m["method"] for m in joined["methods"]] == kept
    page = render_comparison(joined, "all")
    assert f"<li>qgf: {recipes}</li>" in page
    assert f"<li>qgf_normalised, best_of_n: not in {places[1]}</li>" in page
    assert "Left out" not in render_comparison(compared[1], "study")
    show_comparison(joined)
    printed = " ".join(capsys.readouterr().err.split())
    assert "Left out: qgf is one recipe in" in printed
    assert "Left out: qgf_normalised, best_of_n are not in" in printed


def test_what_does_not_fit_is_not_joined(compared, pieces, tmp_path):
    folder, _ = compared

    def edited(change):
        other = json.loads((pieces / "1" / "compare.json").read_text())
        change(other)
        (tmp_path / "other.json").write_text(json.dumps(other))
        return [pieces / "0", tmp_path / "other.json"]

    with pytest.raises(SteerflowError, match=f"is in {pieces / '0'} and in "):
        join([pieces / "0", folder / "out"], tmp_path / "all")
    with pytest.raises(SteerflowError, match=f"tune_episodes is 4 in {pieces / '0'} and 12 in "):
        join(edited(lambda table: table["settings"].update(tune_episodes=12)), tmp_path / "all")
    other = edited(lambda table: table["settings"]["methods"]["qgf"].update(steps=3))
    with pytest.raises(SteerflowError, match="'qgf' cannot be joined: it is one recipe in"):
        join(other, tmp_path / "all", methods=["qgf"])
    with pytest.raises(SteerflowError, match="'qgf' cannot be joined: it is one recipe in"):
        join(other, tmp_path / "all", reference="qgf")
    # A weight that was tuned makes no difference, whatever it began with.
    other = edited(lambda table: table["settings"]["methods"]["qgf"].update(weight=7.0))
    assert "qgf" not in join(other, tmp_path / "alike")["left_out"]
    with pytest.raises(ArtefactError, match="before tables kept the outcomes"):
        join(edited(lambda table: table["tasks"][0]["methods"][0]["runs"][0].pop("outcomes")), tmp_path / "all")
    with pytest.raises(SteerflowError, match="others of returns"):
        join(edited(lambda table: table.update(measure="return")), tmp_path / "all")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ArtefactError, match="is no comparison"):
        join([pieces / "0", tmp_path / "other.json"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_times_of_several_machines_are_not_joined(tmp_path):
    runs = study(tmp_path / "runs")
    for seed in (0, 1):
        effort = Effort(tune_episodes=1, test_episodes=2, budget=1)
        settings = {**SETTINGS, "effort": effort, "cost": True}
        compare(
            [runs / f"seed-{seed}"], {"qgf": recipe("qgf", steps=2)}, tmp_path / str(seed), tasks=TASKS[:1], **settings
        )
    both = [tmp_path / "0", tmp_path / "1"]
    cost = join(both, tmp_path / "out")["methods"][0]["cost"]
    assert set(cost["ms"]) == {"1", "64"}
    assert "ms, 64" in render_comparison(json.loads((tmp_path / "out" / "compare.json").read_text()), "joined")
    other = json.loads((tmp_path / "1" / "compare.json").read_text())
    other["machine"]["processor"] = "another"
    (tmp_path / "1" / "compare.json").write_text(json.dumps(other))
    table = join(both, tmp_path / "out")
    assert table["machine"] is None
    assert table["methods"][0]["cost"] == {**cost, "ms": {}}
    page = render_comparison(table, "joined")
    assert "ms, 64" not in page
    assert "on several machines" in page


def test_costs_are_measured_once_and_returns_compared_where_no_success_is_told(tmp_path, monkeypatch):
    run = study(tmp_path / "runs", TASKS[1:], (0,)) / "seed-0"
    methods = {name: recipe(name, steps=2) for name in ("bc", "qgf")}
    effort = Effort(tune_episodes=1, test_episodes=2, budget=1, curve=True)
    settings = {"effort": effort, "workers": 1, "lanes": 2}
    table = compare([run], methods, tmp_path / "out", **settings)
    assert table["measure"] == "return"
    rows = read_rows(rows_path(run, TASKS[1]))
    returns = {a: np.mean([r.return_ for r in rows if (r.arm, r.split) == (a, "test")]) for a in {r.arm for r in rows}}
    assert len(returns) == 2
    bc, qgf = table["methods"]
    assert bc["mean"] == returns["bc steps=2"]
    assert qgf["optimistic"] == max(returns.values())
    # Behaviour cloning asks no critic; the other one only if its chosen weight is not 0.
    entries = json.loads((run / "evaluations" / "costs.json").read_text())["costs"]
    (plain,) = (e for e in entries if e["of"]["recipe"]["guidance"] == "none")
    assert {name: n for name, n in plain["cost"]["calls"].items() if n} == {"velocity": 2}
    assert set(plain["of"]["networks"]) == {"policy"}
    assert bc["cost"] == plain["cost"]
    for batch in ("1", "64"):
        assert 0 < bc["cost"]["ms"][batch]["median"] <= bc["cost"]["ms"][batch]["p95"]
    monkeypatch.setattr("steerflow.evaluate.cost._measured", no_actor)
    assert compare([run], methods, tmp_path / "out", **settings) == table
    page = render_comparison(table, "a comparison")
    assert "mean return" in page
    assert "bc steps=2" in page


def test_the_page_shows_every_method_and_what_is_missing(compared):
    _, table = compared
    page = render_comparison(table, "study")
    assert page == render_comparison(json.loads(json.dumps(table)), "study")
    (figure,) = re.findall(r"<svg[^>]*role=\"img\".*?</svg>", page, re.DOTALL)
    for m in table["methods"]:
        assert f"{m['method']}: {m['iqm']:.3g} ({m['iqm_low']:.3g} to {m['iqm_high']:.3g})" in figure
        for run in table["tasks"][0]["methods"][table["methods"].index(m)]["runs"]:
            assert f"{words.percent(run['score'])} {run['arm']}" in page
    assert "still to come" not in page
    gap = {"run": "study/seed-7", "task": "reach"}
    page = render_comparison({**table, "missing": [gap]}, "study")
    assert "<li>reach with study/seed-7</li>" in page
    assert "The same command continues" in page


def test_a_long_name_leaves_room_for_the_results(compared):
    _, table = compared
    long = 'qgf guidance=sum(terms=(("one_step", 1.0), ("jacobian", 0.5))) schedule=window(start=0.2, stop=0.8)'
    table = json.loads(json.dumps(table).replace('"qgf"', json.dumps(long)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (panel,) = by_task("tasks", table).panels
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", panel)
    assert any(label.startswith("schedule=") for label in labels)
    assert max(map(len, labels)) <= 28


@given(st.lists(st.tuples(st.floats(0, 0.7), st.floats(0, 1)), min_size=1, max_size=12))
def test_labels_of_a_scatter_plot_do_not_overlap(spots):
    places = _label_places(spots, ["method"] * len(spots))
    for (x, y), (left, _) in zip(spots, places, strict=True):
        assert left > x
        assert 0 <= y <= 1
    for (x, y), (other_x, other_y) in itertools.combinations(places, 2):
        assert abs(y - other_y) > 0.999 * _LINE or abs(x - other_x) > 0.999 * _LETTER * len("method")


@given(st.lists(st.tuples(st.floats(0, 0.7), st.floats(0, 1)), min_size=2, max_size=6))
def test_labels_of_several_lines_do_not_overlap(spots):
    places = _label_places(spots, ["method\nof\nlines"] * len(spots))
    for (x, y), (other_x, other_y) in itertools.combinations(places, 2):
        assert abs(y - other_y) > 2.999 * _LINE or abs(x - other_x) > 0.999 * _LETTER * len("method")


def test_methods_are_written_like_calls():
    methods = read_methods(
        ["qgf, bc", "qgf(aggregate=mean, schedule=window(start=0.5))", "fast(steps=3)"], Changes(), list
    )
    mean = recipe("qgf", aggregate="mean", schedule="window(start=0.5)")
    assert methods == {
        "bc": recipe("bc"),
        "qgf": recipe("qgf"),
        "qgf schedule=window(start=0.5, stop=1.0) aggregate=mean": mean,
        "fast steps=3": recipe("fast", steps=3),
    }
    changed = read_methods(["qgf"], Changes(steps=5, aggregate="mean"), list)
    assert changed == {
        "bc": recipe("bc", steps=5),
        "qgf aggregate=mean steps=5": recipe("qgf", steps=5, aggregate="mean"),
    }
    with pytest.raises(SteerflowError, match="like a call"):
        read_methods(["qgf(steps=3"], Changes(), list)
    with pytest.raises(UnknownNameError, match="'steps'"):
        read_methods(["qgf(stesp=3)"], Changes(), list)


def test_bad_comparisons_get_an_instruction_before_anything_runs(tmp_path):
    folder, out = study(tmp_path / "study"), tmp_path / "out"
    with pytest.raises(UnknownNameError, match="Did you mean 'qgf'"):
        compare([folder], ["qfg"], out, **SETTINGS)
    with pytest.raises(UnknownNameError, match=r"method to compare with 'bc2'.*'bc'"):
        compare([folder], ["qgf"], out, reference="bc2", **SETTINGS)
    with pytest.raises(SteerflowError, match="There is no run folder"):
        compare([tmp_path / "stduy"], ["qgf"], out, **SETTINGS)
    with pytest.raises(UnknownNameError, match="Unknown task 'cube-single-singletask-task2-v0'"):
        compare([folder], ["qgf"], out, tasks=["cube-single-play-singletask-task2-v0"], **SETTINGS)
    with pytest.raises(ArtefactError, match=r"no amortised .*train amortised"):
        compare([folder], ["qgf_amortised"], out, **SETTINGS)
    other, _ = untrained(tmp_path / "other", TASKS[0], Spec(2, 2, 5, (-1.0, -1.0), (1.0, 1.0)))
    assert other.spec.chunk == 5
    with pytest.raises(MismatchError, match="chunk"):
        compare([folder], ["qgf"], out, policies=[tmp_path / "other"], **SETTINGS)
    shutil.rmtree(folder / "seed-1" / "critic" / TASKS[1])
    with pytest.raises(SteerflowError, match=r"seed-1 has no critic of .*Silent-v0, which other seeds have"):
        compare([folder], ["qgf"], out, **SETTINGS)
    assert not out.exists()
    assert not (folder / "seed-0" / "evaluations").exists()


def test_each_run_takes_part_in_the_tasks_that_it_has(tmp_path):
    both, one = study(tmp_path / "both"), study(tmp_path / "one", TASKS[1:], (0,)) / "seed-0"
    assert [(c.task, c.name) for c in cells_of([both, one])] == [
        (TASKS[0], "both/seed-0"),
        (TASKS[0], "both/seed-1"),
        (TASKS[1], "both/seed-0"),
        (TASKS[1], "both/seed-1"),
        (TASKS[1], "one/seed-0"),
    ]
    assert [c.name for c in cells_of([both, one], TASKS[1:])] == ["both/seed-0", "both/seed-1", "one/seed-0"]
    with pytest.raises(UnknownNameError, match="Drift"):
        cells_of([one], TASKS[:1])


def test_another_critic_is_another_line_of_the_table(tmp_path):
    run = study(tmp_path / "study", TASKS[:1], (0,)) / "seed-0"
    mine, own = untrained(run, TASKS[0])
    _, other = untrained(tmp_path / "other", TASKS[0], seed=7)
    assert own.fingerprint != other.fingerprint
    place = str(tmp_path / "other")
    settings = {**SETTINGS, "effort": Effort(1, 2, 1, grid=(0.1,))}
    table = compare([run], ["qgf"], tmp_path / "out", critics=[None, place], **settings)
    names = ["bc", "qgf", f"bc, critic of {place}", f"qgf, critic of {place}"]
    assert [m["method"] for m in table["methods"]] == names
    assert [set(m["against"]) for m in table["methods"]] == [{"qgf"}, {"bc"}, {"bc", "qgf"}, {"bc", "qgf"}]
    assert [cell["artefacts"] for cell in table["cells"]] == [
        [[mine.fingerprint, critic.fingerprint]] for critic in (own, other)
    ]
    rows = read_rows(rows_path(run, TASKS[0]))
    assert {sum(r.critic == critic.fingerprint for r in rows) for critic in (own, other)} == {len(rows) // 2}
    # A method is known by its recipe, whatever stands in its name.
    arm = "qgf schedule=window(start=0.5, stop=1.0)"
    assert [Pair.without(name) for name in (*names, f"{arm}, policy of x, critic of y")] == [
        "bc",
        "qgf",
        "bc",
        "qgf",
        arm,
    ]
    # The other critic alone: no critic of the run's own is needed.
    shutil.rmtree(run / "critic")
    alone = compare([run], ["qgf"], tmp_path / "out", tasks=TASKS[:1], critics=[place], **settings)
    assert [m["method"] for m in alone["methods"]] == names[2:]
    assert [m["mean"] for m in alone["methods"]] == [m["mean"] for m in table["methods"][2:]]
    assert alone["methods"][1]["against"].keys() == {names[2]}


def test_the_budget_of_candidates_is_spent_near_the_methods_own_number():
    numbers = lambda budget, **changes: Effort(budget=budget, candidates=CANDIDATES).numbers(  # noqa: E731
        recipe("best_of_n", **changes)
    )
    assert numbers(1) == [16]
    assert numbers(2) == [8, 16]
    assert numbers(8) == [2, 4, 8, 16, 32, 64]
    assert numbers(3, candidates=5) == [4, 5, 8]


def test_resampling_has_the_spread_of_runs_and_of_episodes():
    rng = np.random.default_rng(0)
    # One run: the spread of a mean over its episodes.
    single = rng.binomial(1, 0.3, (1, 400)).astype(float)
    drawn = resampled_means({"a": single}, 4000)["a"]
    assert drawn.shape == (4000, 1)
    assert drawn.mean() == pytest.approx(single.mean(), abs=0.002)
    assert drawn.std() == pytest.approx(math.sqrt(single.var() / 400), rel=0.05)
    # Runs that differ but whose episodes are alike: the spread of the mean over runs drawn anew.
    runs = np.repeat(np.array([0.0, 0.2, 0.7, 1.0])[:, None], 50, axis=1)
    drawn = resampled_means({"a": runs}, 4000)["a"].mean(axis=1)
    assert drawn.std() == pytest.approx(runs[:, 0].std() / 2, rel=0.05)
    # The same draws for outcomes of the same shape: differences are paired.
    more = resampled_means({"a": runs + 0.25}, 4000)["a"].mean(axis=1)
    np.testing.assert_allclose(more - drawn, 0.25)


def test_all_methods_are_those_whose_parts_all_runs_have(tmp_path, capsys):
    assert set(read_methods(["all"], Changes(), lambda: PARTS)) == set(PRESETS)
    assert capsys.readouterr().err == ""
    both, one = tmp_path / "both", tmp_path / "one"
    for run, kinds in ((both, ("optimal", "robust")), (one, ("optimal",))):
        for kind in kinds:
            write_artefact(run / kind / TASKS[0], kind, {}, {})
    methods = read_methods(["all, qgf(steps=3)"], Changes(), lambda: parts_of([(both, TASKS[0]), (one, TASKS[0])]))
    assert set(PRESETS) - set(methods) == {"robust_q", "qgf_amortised", "dsrl"}
    assert methods["qgf steps=3"] == recipe("qgf", steps=3)
    assert "robust_q, for want of a robust part that fits (`steerflow train robust" in capsys.readouterr().err
    assert parts_of([(both, TASKS[1])]) == []


@pytest.mark.parametrize("others", [[], ["--critics", "own", "other"], ["--policies", "other"]], ids=str)
def test_parts_of_other_policies_and_critics_are_not_asked_for(others, tmp_path, monkeypatch):
    for kind in ("critic", *PARTS):
        write_artefact(tmp_path / "run" / kind / TASKS[0], kind, {}, {})
    asked = []
    monkeypatch.setattr(
        "steerflow.evaluate.compare.compare", lambda runs, methods, *_, **__: asked.extend(methods) or {}
    )
    monkeypatch.setattr("steerflow.cli.table.show_comparison", lambda table: None)
    compare_command([str(tmp_path / "run"), "--methods", "all", "--out", str(tmp_path / "out"), *others])
    plain = {name for name, one in PRESETS.items() if one.asks <= {"critic"}}
    assert set(asked) == (plain if others else set(PRESETS))
