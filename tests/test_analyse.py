"""The mechanism figures: what they measure has a closed form somewhere, and what they show stands in the rows."""

import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

import steerflow
from actors_for_tests import POLICY, DriftActor, untrained
from conftest import write_data
from steerflow.analyse.about import COMPARED, FIGURES
from steerflow.analyse.direction import measure_direction, stability
from steerflow.analyse.distance import Neighbours
from steerflow.analyse.draw import LIGHT, Mean, Panel, draw
from steerflow.analyse.figures import AXES
from steerflow.analyse.measure import Case, Lab
from steerflow.analyse.panels import success_panels
from steerflow.analyse.states import draw_pairs
from steerflow.artefact import read_json
from steerflow.cli import analyse, main
from steerflow.cli.shell import run as run_command
from steerflow.envs.pool import Pool
from steerflow.evaluate.arms import Actors
from steerflow.evaluate.choose import best, curves
from steerflow.evaluate.rows import read_rows, rows_path
from steerflow.evaluate.statistics import wilson
from steerflow.evaluate.timing import read_timing
from steerflow.report.svg import _VARIABLES
from steerflow.steer.guidance import GUIDANCES
from steerflow.steer.models import Models
from steerflow.steer.presets import recipe

TASK = "envs_for_tests:steerflow-test/Drift-v0"
QUICK = ["--episodes", "3", "--tune-episodes", "2", "--budget", "2", "--workers", "1", "--lanes", "3"]
# Arguments of every figure, small enough for a test; "{a}", "{b}" and "{short}" are run folders.
ARGUMENTS = {
    "direction": [
        "{a}",
        "--guidance",
        "one_step",
        "jacobian(share=0.5)",
        "--states",
        "8",
        "--times",
        "0",
        "0.5",
        "--scales",
        "0.1",
        "--draws",
        "2",
    ],
    "q": ["{a}", "--states", "8", "--recorded", "30", "--method", "qgf", "--weights", "3"],
    "weight": ["{a}", *QUICK],
    "candidates": ["{a}", "--numbers", "1", "2", *QUICK],
    "flops": ["{a}", "--numbers", "1", "2", "--others", "bc", *QUICK],
    "transfer": [
        "{a}",
        "{b}",
        "--schedules",
        "constant",
        "distance",
        "--multiples",
        "0.1",
        "0.3",
        "--episodes",
        "3",
        "--tune-episodes",
        "2",
    ],
    "size": ["{a}", "{b}", *QUICK],
    "critic": ["{a}", "{b}", *QUICK],
    "steps": ["{a}", "--numbers", "2", "--solvers", "euler,heun", *QUICK],
    "schedule": ["{a}", "--shapes", "constant", "window(start=0.5)", *QUICK],
    "chunk": ["{a}", "{short}", *QUICK],
    "pessimism": ["{a}", "--method", "qgf", "--aggregates", "min", "mean", "--numbers", "1", "2", *QUICK],
}


def linear(dims: int):
    """(velocity matrix, curvatures, the critic's optimum), seeded."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(dims, dims)) / 3, rng.uniform(0.2, 4, dims), rng.normal(size=dims)


def as_models(matrix, curvatures, optimum) -> Models:
    m, h, c = (jnp.asarray(x, jnp.float32) for x in (matrix, curvatures, optimum))
    return Models(lambda s, a, t: a @ m.T, lambda s, a: -0.5 * jnp.sum(h * (a - c) ** 2, axis=-1))


@pytest.mark.parametrize("name", COMPARED)
def test_a_constant_flow_and_a_linear_critic_have_one_direction(name):
    slope = jnp.asarray([1.0, -2.0, 0.5])
    models = Models(lambda s, a, t: jnp.full_like(a, 0.3), lambda s, a: a @ slope)
    # So near to 0 that no estimate reaches the clip, whose derivative some guidances take.
    a, noise = (
        0.1 * jax.random.normal(jax.random.key(0), (6, 3)),
        0.05 * jax.random.normal(jax.random.key(1), (4, 6, 3)),
    )
    found = stability(models, GUIDANCES[name](), jnp.zeros((6, 2)), a, jnp.float32(0.4), noise)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-6)
    np.testing.assert_allclose(found.norm_spread, 0, atol=1e-6)


@pytest.mark.parametrize("name", ["one_step", "noisy"])
def test_a_linear_flow_and_a_quadratic_critic_by_hand(name):
    matrix, curvatures, optimum = linear(4)
    rng, t = np.random.default_rng(0), 0.25
    a, noise = rng.normal(size=(5, 4)), 0.5 * rng.normal(size=(7, 5, 4))

    def guidance(x):
        estimate = np.clip(x + (1 - t) * x @ matrix.T, -1, 1) if name == "one_step" else x
        return -curvatures * (estimate - optimum)

    before, after = guidance(a), guidance(a + noise)
    norms = np.linalg.norm(after, axis=-1)
    cosine = ((before * after).sum(-1) / np.linalg.norm(before, axis=-1) / norms).mean(0)
    single = [jnp.asarray(x, jnp.float32) for x in (np.zeros((5, 1)), a)]
    models = as_models(matrix, curvatures, optimum)
    found = stability(models, GUIDANCES[name](), *single, jnp.float32(t), jnp.asarray(noise, jnp.float32))
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-5)
    np.testing.assert_allclose(found.norm_spread, norms.std(0) / norms.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.norm, np.linalg.norm(before, axis=-1), rtol=1e-5)
    assert not found.vanishing.any()


def test_no_guidance_has_no_direction():
    models = Models(lambda s, a, t: a, lambda s, a: jnp.zeros(a.shape[:1]))
    found = stability(
        models, GUIDANCES["noisy"](), jnp.zeros((2, 1)), jnp.ones((2, 3)), jnp.float32(0.0), jnp.ones((2, 2, 3))
    )
    for value, expected in zip(found, (0, 0, 0, 1), strict=True):
        np.testing.assert_array_equal(value, np.full(2, expected))


def test_directions_are_paired_and_summed_up_over_times_and_scales():
    models, rng = as_models(*linear(3)), np.random.default_rng(1)
    steps = []
    entries = measure_direction(
        {name: (models, GUIDANCES[name.rstrip("2")]()) for name in ("one_step", "one_step2", "noisy")},
        np.zeros((20, 1), np.float32), rng.uniform(-1, 1, (20, 3)).astype(np.float32),
        times=(0.0, 0.6), scales=(0.1, 0.5), draws=3, on_time=lambda *step: steps.append(step),
    )  # fmt: skip
    assert steps == [(i + 1, name) for i, name in enumerate(np.repeat(["one_step", "one_step2", "noisy"], 2))]
    found = {(e["guidance"], e["time"], e["scale"]): e for e in entries}
    assert len(found) == len(entries) == 3 * 3 * 3
    for name in ("one_step", "noisy"):
        cells = [found[name, t, s]["cosine"] for t in (0.0, 0.6) for s in (0.1, 0.5)]
        assert found[name, None, None]["cosine"] == pytest.approx(np.mean(cells))
        assert found[name, 0.6, None]["cosine"] == pytest.approx(np.mean(cells[2:]))
        assert found[name, None, 0.1]["cosine"] == pytest.approx(np.mean(cells[::2]))
        # More noise turns the direction more.
        assert found[name, None, 0.1]["cosine"] > found[name, None, 0.5]["cosine"]
    for e in entries:
        assert e["cosine_low"] <= e["cosine"] <= e["cosine_high"]
        difference = e["cosine"] - found["one_step", e["time"], e["scale"]]["cosine"]
        assert e["minus_first"] == pytest.approx(difference, abs=1e-9)
    # The same noisy actions and shifts for all guidances.
    assert all(e["minus_first_high"] == 0 for e in entries if e["guidance"] == "one_step2")


def test_neighbours_are_the_nearest():
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 100.0, 0.0])
    recorded, queries = (5 + scales * rng.normal(size=(n, 3)) for n in (500, 130))
    chunks, asked = rng.uniform(-1, 1, (500, 2)), rng.uniform(-1, 1, (130, 2))
    found = Neighbours.of(recorded.astype(np.float32), chunks.astype(np.float32)).nearest(queries, asked)
    spread = np.concatenate([np.where(scales > 0, recorded.std(0), 1) * np.sqrt(3), chunks.std(0) * np.sqrt(2)])
    tree = cKDTree(np.concatenate([recorded, chunks], axis=1) / spread)
    expected, _ = tree.query(np.concatenate([queries, asked], axis=1) / spread)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_recorded_pair_is_its_own_neighbour():
    rng = np.random.default_rng(0)
    observations, chunks = 1e4 + rng.normal(size=(50, 3)), rng.uniform(-1, 1, (50, 2))
    np.testing.assert_allclose(Neighbours.of(observations, chunks).nearest(observations, chunks), 0, atol=1e-9)


@pytest.mark.parametrize("validation", [True, False])
def test_held_out_pairs_share_no_episode_with_the_recorded_ones(tmp_path, validation):
    data = write_data(tmp_path / "points", episodes=20, observation_dim=2)
    data = data if validation else replace(data, val=None)
    held_out, recorded = draw_pairs(data, POLICY.spec, 15, 200)
    places = {
        name: {tuple(row): (e, row_number) for e, (s, t) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True))
               for row_number, row in enumerate(np.asarray(store.observations[s:t]), start=s)}
        for name, store in (("train", data.train), ("val", data.val or data.train))
    }  # fmt: skip
    episodes = []
    for pairs, name, count in ((held_out, "val", 15), (recorded, "train", 200)):
        store = data.val if name == "val" and data.val else data.train
        found = [places[name][tuple(row)] for row in pairs.observations]
        assert len(set(found)) == len(found) == min(count, len(found))
        for (episode, row), chunk in zip(found, pairs.chunks, strict=True):
            # Whole: the last row of an episode has no action.
            assert row + 3 < store.episode_ends[episode]
            np.testing.assert_allclose(chunk, np.asarray(store.actions[row : row + 3]).ravel(), atol=1e-4)
        episodes.append({(name if validation else "train", e) for e, _ in found})
    assert not episodes[0] & episodes[1]
    assert len(held_out) == 15
    again = draw_pairs(data, POLICY.spec, 15, 200)
    np.testing.assert_array_equal(again[0].observations, held_out.observations)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Runs on the ``Drift`` environment: "a" and "b" alike but for their weights, "short" with chunks of 2."""
    folder = tmp_path_factory.mktemp("runs")
    write_data(folder / "points", observation_dim=2)
    specs = {"a": POLICY.spec, "b": POLICY.spec, "short": replace(POLICY.spec, chunk=2)}
    for seed, (name, spec) in enumerate(specs.items()):
        untrained(folder / name, TASK, spec, seed)
        (folder / name / "config.toml").write_text(f'[both]\ndata = "{folder / "points"}"\n')
    return {name: folder / name for name in specs}


def call(what: str, runs: dict[str, Path]) -> tuple[dict, bytes]:
    main._steerflow(["analyse", what, *(argument.format(**runs) for argument in ARGUMENTS[what])])
    folder = runs["a"] / "analysis"
    return read_json(folder / f"{what}.json"), (folder / f"{what}.png").read_bytes()


@pytest.mark.parametrize("what", sorted(FIGURES))
def test_every_figure_is_data_and_a_plot_and_costs_nothing_twice(what, runs):
    if what == "q":
        # It lives on the rows of others.
        evaluated("weight", runs)
    data, png = call(what, runs)
    assert data["title"] == FIGURES[what].title
    assert data["command"].startswith(f"steerflow analyse {what} ")
    assert data["settings"]["seed"] == 0
    assert data["versions"]["steerflow"] == steerflow.__version__
    assert data["points"]
    assert all(point["policy"] and point["task"] == TASK for point in data["points"])
    files = {path: path.read_bytes() for run in runs.values() for path in run.glob("evaluations/*.jsonl")}
    stepped = [read_timing(run).steps for run in runs.values()]
    again, same = call(what, runs)
    assert (again, same) == (data, png)
    assert [read_timing(run).steps for run in runs.values()] == stepped
    assert files == {path: path.read_bytes() for run in runs.values() for path in run.glob("evaluations/*.jsonl")}


def evaluated(what: str, runs: dict[str, Path]) -> list[dict]:
    path = runs["a"] / "analysis" / f"{what}.json"
    return read_json(path)["points"] if path.exists() else call(what, runs)[0]["points"]


@pytest.mark.parametrize("what", sorted(AXES))
def test_points_are_what_the_rows_say(what, runs):
    for point in evaluated(what, runs):
        run = next(run for run in runs.values() if str(run) == point["run"])
        rows = [
            row for row in read_rows(rows_path(run, TASK))
            if (row.arm, row.split, row.policy, row.critic) == (point["arm"], "test", point["policy"], point["critic"])
        ]  # fmt: skip
        assert [row.episode for row in rows] == [0, 1, 2]
        successes = sum(bool(row.success) for row in rows)
        assert (point["success"], point["ci_low"], point["ci_high"]) == (successes / 3, *wilson(successes, 3))


def test_points_stand_where_the_figure_says(runs):
    steps = {(p["line"], p["steps"]): p for p in evaluated("steps", runs)}
    calls = {("qgf, euler", 2): 2, ("qgf, heun", 2): 4, ("bc, euler", 2): 2, ("bc, heun", 2): 4}
    assert {key: p["calls"]["velocity"] for key, p in steps.items()} == calls
    assert {p["chunk"] for p in evaluated("chunk", runs)} == {2, 3}
    assert [(p["line"], p["candidates"]) for p in evaluated("candidates", runs)] == [
        ("bc", 1), ("bc", 2), ("qgf", 1), ("qgf", 2),
    ]  # fmt: skip
    operations = [p["flops"] for p in evaluated("flops", runs)]
    # Two candidates cost twice as much, and the critic's choice.
    assert all(2 * one < two < 3 * one for one, two in (operations[:2], operations[2:4]))
    swapped = {(p["line"], p["swapped"]): (p["run"], p["critic_run"]) for p in evaluated("critic", runs)}
    a, b = str(runs["a"]), str(runs["b"])
    assert swapped["qgf: policy of a, critic of", "b"] == (a, b)
    assert swapped["qgf: critic of a, policy of", "b"] == (b, a)
    assert swapped["bc", "b"] == (b, b)
    critics = {(p["line"], p["critics"]): p["critic"] for p in evaluated("pessimism", runs)}
    assert [n for _, n in critics] == [1, 2] * 3
    whole_ensemble = steerflow.load_critic(runs["a"]).fingerprint
    assert all((name == whole_ensemble) == (n == 2) for (_, n), name in critics.items())
    whole = evaluated("weight", runs)
    assert sum(p["chosen"] for p in whole) == 1
    assert sorted(p["strength"] for p in whole) == [p["strength"] for p in whole]


def test_values_are_the_critics_in_held_out_states(runs):
    evaluated("weight", runs)
    points = call("q", runs)[0]["points"]
    recorded, plain, *_ = points
    assert (recorded["line"], plain["arm"]) == ("data", "bc")
    assert plain["distance"] == pytest.approx(1, abs=1e-12)
    assert plain["distance_high"] - plain["distance_low"] < 1e-9
    policy, critic = steerflow.load_policy(runs["a"]), steerflow.load_critic(runs["a"])
    held_out, _ = draw_pairs(steerflow.DataSet.open(runs["a"].parent / "points"), policy.spec, 8, 30)
    for point in points[1:]:
        act = steerflow.steer(policy, critic, steerflow.Recipe.from_json(point["recipe"]))
        weights = np.full(8, point["recipe"]["weight"])
        _, info = act.rows(np.arange(8), np.zeros(8, int), held_out.observations, weights)
        assert point["q"] == pytest.approx(info["q"].mean(), rel=1e-4, abs=1e-5)
    # The weight that was only asked for here has no episodes.
    assert [p["success"] for p in points if p["arm"] == "qgf w=3"] == [None]
    assert all(p["success"] is not None for p in points if "split" in p)


def test_a_weight_is_chosen_on_tuning_episodes_and_shown_on_others(tmp_path):
    policy, critic = untrained(tmp_path, TASK)
    with Pool(TASK, workers=1, lanes=4) as pool:
        lab = Lab(TASK, pool, episodes=10, tune_episodes=8, budget=4, actors=Actors(DriftActor))
        cases = [Case("line", "qgf", recipe("qgf"), tmp_path, strength=strength) for strength in ("curve", "chosen")]
        *whole, chosen = lab.measure(cases)
        (given,) = lab.measure([replace(cases[0], strength="given", recipe=recipe("qgf", weight=whole[2]["strength"]))])
        stepped = read_timing(tmp_path).steps
        assert lab.measure(cases) == [*whole, chosen]
        assert read_timing(tmp_path).steps == stepped
    rows = read_rows(rows_path(tmp_path, TASK))
    assert {(row.policy, row.critic) for row in rows} == {(policy.fingerprint, critic.fingerprint)}
    (curve,) = curves(rows)
    assert [p["strength"] for p in whole] == [point.strength for point in curve.points]
    assert len(whole) == chosen["tried"] == 5
    assert chosen["arm"] == best(curve.points).arm
    assert [p["arm"] for p in whole if p["chosen"]] == [chosen["arm"]]
    for point in (*whole, chosen, given):
        tested = [row.success for row in rows if (row.arm, row.split) == (point["arm"], "test")]
        assert (point["episodes"], point["success"]) == (10, sum(tested) / 10)
    # The stand-in's success depends on its weight.
    assert len({p["success"] for p in whole}) > 2
    assert given["arm"] == whole[2]["arm"]
    (panel,) = success_panels(whole, AXES["weight"])[0]
    assert panel.levels == ((whole[0]["success"], "bc"),)
    drawn = [(mean.x, mean.y, mean.chosen) for mean in panel.lines["line"]]
    assert drawn == [(p["strength"], p["success"], p["chosen"]) for p in whole[1:]]


def test_without_success_the_return_is_shown():
    point = {"task": "t", "line": "qgf", "arm": "qgf", "success": None, "mean_return": -3.0, "chunk": 5}
    point |= {"return_ci_low": -4.0, "return_ci_high": -2.0}
    (panel,) = success_panels([point], AXES["chunk"])[0]
    assert not panel.success
    assert panel.lines == {"qgf": [Mean(5, -3.0, -4.0, -2.0)]}
    assert "return" in panel.y_label


def test_plots_have_the_reports_light_colours():
    style = (Path(steerflow.__file__).parent / "report" / "style.css").read_text()
    light = dict(re.findall(r"(--[\w-]+): (#\w+);", style[: style.index("@media")]))
    assert {stand_in: light[variable] for stand_in, variable in _VARIABLES.items()} == LIGHT


def test_a_plot_shows_its_marks(tmp_path):
    lines = {"bc": [Mean(1.0, 0.2, 0.1, 0.3)], "qgf": [Mean(1.0, 0.8, 0.7, 0.9, "note"), Mean(4.0, 0.9, hollow=True)]}
    png = draw([[Panel("task", "x", "success", lines, log=True, success=True, levels=((0.5, "half"),))]], "A heading")
    assert png == draw(
        [[Panel("task", "x", "success", lines, log=True, success=True, levels=((0.5, "half"),))]], "A heading"
    )
    (tmp_path / "a.png").write_bytes(png)
    with Image.open(tmp_path / "a.png") as image:
        colours = {"#%02x%02x%02x" % pixel for pixel in image.convert("RGB").get_flattened_data()}  # noqa: UP031
    # Behaviour cloning's grey and QGF's blue, on the page's paper.
    assert {"#6b7280", "#0b67b2", "#fdfdfb"} <= colours
    assert not colours & set(_VARIABLES)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["dirction", "{a}"], "`steerflow analyse direction`"),
        (["direction", "{a}", "--guidance", "one_stp"], "'one_step'"),
        (["direction", "{a}", "--times", "1.0"], "[0, 1)"),
        (["direction", "{a}", "--guidance", "amortised"], "steerflow train amortised"),
        (["direction", "{a}", "--data", "nowhere"], "Unknown data set 'nowhere'"),
        (["q", "{b}", "--method", "qfql"], "steerflow sweep"),
        (["weight", "{a}", "--method", "best_of_n"], "Methods with guidance: "),
        (["size", "{a}"], "steerflow analyse size RUN RUN"),
        (["critic", "{a}", "{short}", *QUICK], "--chunk"),
        (["chunk", "{a}", "{nowhere}"], "There is no run folder"),
        (["pessimism", "{a}", "--numbers", "3", *QUICK], "an ensemble of 2"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_an_instruction(arguments, expected, runs, capfd):
    filled = [argument.format(**runs, nowhere="nowhere") for argument in arguments]
    try:
        code = run_command(main._steerflow, ["analyse", *filled])
    except SystemExit as left:
        code = left.code
    said = capfd.readouterr()
    assert code == 2
    assert expected in said.err + said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize("what", sorted(FIGURES))
def test_help_says_what_is_shown_and_claimed(what, capsys):
    with pytest.raises(SystemExit, match="0"):
        analyse.COMMANDS[what].load()(["--help"])
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert FIGURES[what].shows in said
    assert FIGURES[what].claim in said
