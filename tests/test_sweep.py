"""The weight is chosen on tuning episodes, reported on others, and everything is rebuilt from the rows."""

import json
import math
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors_for_tests import CRITIC, POLICY, DriftActor, distilled, untrained
from steerflow.envs.pool import Pool
from steerflow.errors import ArtefactError, SteerflowError, UnknownNameError
from steerflow.evaluate import choose
from steerflow.evaluate.arms import Actors
from steerflow.evaluate.choose import Point, best, coarse_grid, due, refined
from steerflow.evaluate.rows import read_rows, rows_path
from steerflow.evaluate.statistics import wilson
from steerflow.evaluate.summary import arm_line, summarise
from steerflow.evaluate.sweep import evaluate_run, sweep
from steerflow.steer.presets import recipe

TASK = "envs_for_tests:steerflow-test/Drift-v0"
METHODS = ("qgf", "best_of_n", "qgf_normalised")
SETTINGS = {"tune_episodes": 8, "test_episodes": 12, "budget": 6}


def points(successes: dict[float, int], episodes: int = 20) -> list[Point]:
    return [Point(w, episodes, k, 0.0, f"qgf w={w:g}") for w, k in successes.items()]


@pytest.mark.parametrize(
    ("successes", "chosen"),
    [
        ({0.0: 2, 0.03: 15, 0.1: 19, 0.3: 12}, 0.1),
        # Ties: the plateau's middle, not its edge.
        ({0.0: 2, 0.03: 20, 0.1: 20, 0.3: 20, 1.0: 3}, 0.1),
        ({0.0: 2, 0.03: 10, 0.1: 20, 0.3: 20, 1.0: 15}, 0.3),
        # Equal neighbours too: the smaller one.
        ({0.0: 5, 0.1: 20, 0.2: 20, 0.4: 5}, 0.1),
        ({0.0: 0, 0.1: 0, 0.3: 0}, 0.0),
        ({0.0: 9, 0.1: 4}, 0.0),
    ],
)
def test_best(successes, chosen):
    for order in (1, -1):
        assert best(points(successes)[::order]).strength == chosen


def test_mean_return_decides_where_success_is_unknown():
    found = [Point(w, 20, None, r, "") for w, r in ((0.0, -50.0), (0.1, -12.5), (0.3, -30.0))]
    assert best(found).strength == 0.1
    assert refined(found) == [0.0333, 0.173]


def test_where_nothing_succeeds_the_mean_return_decides_and_where_nothing_differs_the_range_grows():
    found = [Point(w, 20, 0, r, "") for w, r in ((0.0, -900.0), (0.1, -880.0), (0.3, -700.0))]
    assert best(found).strength == 0.3
    assert refined(found) == [0.173, 0.9]
    assert refined(points({0.0: 0, 0.1: 0, 0.3: 0})) == [0.9, 0.0333]
    assert refined(points({0.0: 20, 0.1: 20, 0.3: 20})) == [0.9, 0.0333]


def test_refining_goes_to_the_neighbours_middles_and_beyond_the_ends():
    assert refined(points({0.0: 1, 0.01: 5, 0.09: 19, 0.81: 3})) == [0.03, 0.27]
    assert refined(points({0.0: 1, 0.1: 20, 0.3: 3})) == [0.0333, 0.173]
    assert refined(points({0.0: 1, 0.1: 2, 0.3: 9})) == [0.173, 0.9]
    assert refined(points({0.0: 9, 0.1: 2, 0.3: 1})) == [0.0333]
    assert refined(points({0.0: 1, 0.1: 20, 0.11: 3, 0.09: 3})) == []
    assert refined(points({0.0: 1})) == []


@given(
    st.dictionaries(st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0]), st.integers(0, 20), min_size=2, max_size=7)
)
def test_choosing_never_leaves_the_data_and_refining_never_repeats(successes):
    found = points(successes)
    top = best(found)
    assert top.score == max(p.score for p in found)
    for weight in refined(found):
        assert weight > 0
        assert weight not in successes
        assert float(f"{weight:.3g}") == weight


def raced(outcomes: dict[float, list[bool]], told: bool = True) -> list[Point]:
    """The points of a curve after each arm has run what ``due`` asked, from five episodes each and all of weight 0."""

    def point(w: float, n: int) -> Point:
        done = outcomes[w][:n]
        return Point(w, n, sum(done) if told else None, sum(done) / n - 7 * w, f"{w:g}")

    whole = len(outcomes[0.0])
    found = {w: point(w, min(choose.WAVE, whole) if w else whole) for w in outcomes}
    while wanted := due(list(found.values()), whole):
        for arm, numbers in wanted.items():
            assert found[float(arm)].episodes == numbers.start < numbers.stop <= whole
            found[float(arm)] = point(float(arm), numbers.stop)
    return list(found.values())


@given(
    st.integers(1, 24).flatmap(
        lambda whole: st.dictionaries(
            st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.3, 1.0]),
            st.tuples(st.integers(0, 4), st.randoms(use_true_random=False)).map(
                lambda made: [made[1].randrange(4) < made[0] for _ in range(whole)]
            ),
            min_size=1,
        ).map(lambda some: {0.0: [False] * whole, **some})
    ),
    st.booleans(),
)
def test_giving_up_what_cannot_win_chooses_and_refines_as_if_all_had_been_run(outcomes, told):
    whole = len(outcomes[0.0])
    found = raced(outcomes, told)
    full = [
        Point(w, whole, sum(done) if told else None, sum(done) / whole - 7 * w, f"{w:g}")
        for w, done in outcomes.items()
    ]
    assert best(found) == best(full)
    assert refined(found) == refined(full)
    if not told or not any(map(any, outcomes.values())):
        assert all(point.episodes == whole for point in found)


def test_a_setting_is_given_up_as_soon_as_it_cannot_win():
    always, half, never = [True] * 20, [True, False] * 10, [False] * 20
    episodes = {p.strength: p.episodes for p in raced({0.0: never, 0.1: always, 0.3: half, 1.0: never})}
    assert episodes == {0.0: 20, 0.1: 20, 0.3: 5, 1.0: 5}
    # Of two equals the neighbours decide, so they run whole.
    episodes = {p.strength: p.episodes for p in raced({0.0: never, 0.1: never, 0.3: always, 1.0: always, 3.0: half})}
    assert episodes == {0.0: 20, 0.1: 20, 0.3: 20, 1.0: 20, 3.0: 20}


def test_refining_finds_a_narrow_optimum():
    # Success falls off on both sides of 0.07; the coarse grid for scale 1 is .06, .2, .6, 1.8.
    def success(w: float) -> int:
        return round(1000 * math.exp(-(math.log(w / 0.09) ** 2) / 0.3)) if w else 0

    tried = {w: success(w) for w in [0.0, *coarse_grid(1.0)]}
    while len(tried) < 12 and (new := refined(points(tried, 1000))):
        tried |= {w: success(w) for w in new}
    assert best(points(tried, 1000)).strength == pytest.approx(0.09, rel=0.2)


def test_the_grid_is_relative_to_the_natural_scale():
    assert coarse_grid(0.45) == [float(f"{0.45 * m:.3g}") for m in sorted(choose.GRID)]
    assert coarse_grid(0.45, budget=2) == [0.09, 0.27]
    assert coarse_grid(0.45, [0.0, 0.3, 0.1], 5) == [0.1, 0.3]
    assert coarse_grid(0.45, [0.0, 0.3, 0.1], 1) == [0.3]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with Pool(TASK, workers=2, lanes=4) as pool:
        summary = sweep(
            folder, POLICY, CRITIC, TASK, METHODS, curve=True, pool=pool, actors=Actors(DriftActor), **SETTINGS
        )
        assert pool.builds <= pool.lanes
    return folder, summary


def of(summary, split, **facts):
    return [a for a in summary["arms"] if a["split"] == split and all(a[k] == v for k, v in facts.items())]


def test_every_method_is_tuned_and_reported_on_other_episodes(swept):
    folder, summary = swept
    rows = read_rows(rows_path(folder, TASK))
    tune, test = ({row.seed for row in rows if row.split == split} for split in ("tune", "test"))
    assert not tune & test
    assert (len(tune), len(test)) == (8, 12)
    # Common episodes: all arms of a split have the same seeds, but for those that were given up while tuning.
    chosen = {c["arm"] for c in summary["choice"]} | {"bc"}
    given_up = 0
    for arm in summary["arms"]:
        seeds = {r.seed for r in rows if (r.arm, r.split) == (arm["arm"], arm["split"])}
        if arm["split"] == "test" or arm["arm"] in chosen:
            assert seeds == (tune if arm["split"] == "tune" else test)
        else:
            assert len(seeds) >= 5
            assert seeds == set(sorted(tune)[: len(seeds)])
            given_up += len(seeds) < len(tune)
    assert given_up
    assert len(of(summary, "tune", method="bc")) == len(of(summary, "test", method="bc")) == 1
    for method in ("qgf", "qgf_normalised"):
        weights = {a["weight"] for a in of(summary, "tune", method=method)}
        assert 4 <= len(weights) <= SETTINGS["budget"]
        assert 0.0 not in weights
    assert {a["candidates"] for a in of(summary, "tune", method="best_of_n")} == {4, 16}
    json.dumps(summary, allow_nan=False)
    assert json.loads((folder / "summary.json").read_text()) == summary


def test_the_grid_is_measured_for_every_guided_method(swept):
    _, summary = swept
    qgf = {a["weight"] for a in of(summary, "tune", method="qgf")}
    normalised = {a["weight"] for a in of(summary, "tune", method="qgf_normalised")}
    # DriftActor's velocity norm is 2, that of what weight 1 adds is 4, whatever the schedule.
    assert set(coarse_grid(0.5)) < qgf
    assert set(coarse_grid(0.5)) < normalised
    assert {c["method"]: c["scale"] for c in summary["choice"]} == {
        "qgf": 0.5,
        "qgf_normalised": 0.5,
        "best_of_n": None,
    }


def test_the_choice_follows_from_the_tuning_episodes_alone(swept):
    _, summary = swept
    assert {c["method"] for c in summary["choice"]} == set(METHODS)
    for choice in summary["choice"]:
        curve = {p[choice["tuned"]]: p for p in choice["curve"]}
        assert max(p["success"] for p in curve.values()) == curve[choice[choice["tuned"]]]["success"]
        assert choice["split"] == "tune"
        assert (0.0 in curve) == (choice["tuned"] == "weight")
        (result,) = of(summary, "test", arm=choice["arm"])
        assert result["episodes"] == 12
    # The fake environment is easy with a well chosen push and hard without any.
    (bc,) = of(summary, "test", method="bc")
    (qgf,) = of(summary, "test", arm=next(c["arm"] for c in summary["choice"] if c["method"] == "qgf"))
    assert qgf["mean_return"] > bc["mean_return"]


def test_arms_have_intervals_and_comparisons_are_paired(swept):
    folder, summary = swept
    for arm in summary["arms"]:
        assert (arm["ci_low"], arm["ci_high"]) == wilson(arm["successes"], arm["episodes"])
        assert arm["success"] == arm["successes"] / arm["episodes"]
        assert arm["arm"] in arm_line(arm)
    rows = read_rows(rows_path(folder, TASK))
    chosen = {c["arm"] for c in summary["choice"]}
    assert {c["arm"] for c in summary["comparisons"] if c["against"] == "bc"} == chosen - {"bc"}
    for comparison in summary["comparisons"]:
        a, b = (
            {r.seed: r.success for r in rows if r.split == "test" and r.arm == comparison[k]}
            for k in ("arm", "against")
        )
        assert comparison["wins"] == sum(a[s] and not b[s] for s in a)
        assert comparison["losses"] == sum(b[s] and not a[s] for s in a)
        assert comparison["episodes"] == 12
        assert comparison["measure"] == "success"


def test_the_optimistic_maximum_is_labelled_and_never_below_the_report(swept):
    _, summary = swept
    found = {c["method"]: c for c in summary["optimistic"]}
    for choice in summary["choice"]:
        (reported,) = of(summary, "test", arm=choice["arm"])
        if choice["method"] in found and reported["method"] == choice["method"]:
            assert found[choice["method"]]["success"] >= reported["success"]
    assert all("optimistic" in c["note"] for c in found.values())


def test_the_summary_is_rebuilt_from_the_rows_alone(swept, tmp_path):
    folder, summary = swept
    shutil.copytree(folder / "evaluations", tmp_path / "evaluations")
    again = summarise(tmp_path, seconds={"train": 12.5}, data={"name": "points"})
    assert {k: v for k, v in again.items() if k not in ("seconds", "data")} == {
        k: v for k, v in summary.items() if k not in ("seconds", "data")
    }
    assert again["seconds"] == {"train": 12.5}
    # What is not in the rows is kept when the summary is built again.
    assert summarise(tmp_path, seconds={"report": 1.0})["seconds"] == {"train": 12.5, "report": 1.0}
    assert summarise(tmp_path)["data"] == {"name": "points"}
    with pytest.raises(ArtefactError, match="steerflow sweep"):
        summarise(tmp_path / "empty")


def test_timing_tells_the_share_of_physics(swept):
    _, summary = swept
    timing = summary["timing"]
    assert 0 < timing["physics_share"] < 1
    assert 0 < timing["physics"] < timing["capacity"]
    assert timing["environments_built"] == 8
    probes = 2 * 4
    assert timing["episodes"] == sum(a["episodes"] for a in summary["arms"]) + probes


def test_an_interrupted_sweep_ends_with_the_same_rows(swept, tmp_path):
    folder, summary = swept
    path = rows_path(tmp_path, TASK)

    class Stop(BaseException):
        pass

    def interrupted(after: int):
        calls = 0

        class Actor(DriftActor):
            def rows(self, *arguments):
                nonlocal calls
                calls += 1
                if calls > after:
                    raise Stop
                return super().rows(*arguments)

        return Actor

    with Pool(TASK, workers=1, lanes=4) as pool:
        for after in (10, 30, 60):
            with pytest.raises(Stop):
                sweep(
                    tmp_path,
                    POLICY,
                    CRITIC,
                    TASK,
                    METHODS,
                    curve=True,
                    pool=pool,
                    actors=Actors(interrupted(after)),
                    **SETTINGS,
                )
        assert 0 < len(read_rows(path)) < len(read_rows(rows_path(folder, TASK)))
        again = sweep(
            tmp_path, POLICY, CRITIC, TASK, METHODS, curve=True, pool=pool, actors=Actors(DriftActor), **SETTINGS
        )
    assert path.read_bytes() == rows_path(folder, TASK).read_bytes()
    assert {k: again[k] for k in ("arms", "choice", "comparisons")} == {
        k: summary[k] for k in ("arms", "choice", "comparisons")
    }


def test_without_a_curve_only_the_chosen_arms_are_reported(tmp_path):
    with Pool(TASK, workers=1, lanes=4) as pool:
        summary = sweep(
            tmp_path, POLICY, CRITIC, TASK, ["qgf"], grid=[0.05, 0.4], budget=2, tune_episodes=4, test_episodes=5,
            pool=pool, actors=Actors(DriftActor),
        )  # fmt: skip
    (choice,) = summary["choice"]
    assert {a["weight"] for a in of(summary, "tune", method="qgf")} == {0.05, 0.4}
    assert {a["arm"] for a in of(summary, "test")} == {"bc", choice["arm"]}
    assert summary["optimistic"] == []


def test_weight_zero_of_a_method_with_candidates_is_its_search_alone(tmp_path):
    with Pool(TASK, workers=1, lanes=4) as pool:
        summary = sweep(
            tmp_path, POLICY, CRITIC, TASK, ["qgf_best_of_n"], grid=[0.05], budget=1, tune_episodes=3, test_episodes=3,
            pool=pool, actors=Actors(DriftActor),
        )  # fmt: skip
    assert {a["arm"] for a in of(summary, "tune")} == {"bc", "best_of_n n=4", "qgf_best_of_n w=0.05 n=4"}
    (choice,) = summary["choice"]
    assert [p["arm"] for p in choice["curve"]] == ["best_of_n n=4", "qgf_best_of_n w=0.05 n=4"]


def test_bad_sweeps_get_an_instruction(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'qgf'"):
        sweep(tmp_path, POLICY, CRITIC, TASK, ["qfg"])
    with pytest.raises(SteerflowError, match="at least one tuning episode"):
        sweep(tmp_path, POLICY, CRITIC, TASK, ["qgf"], tune_episodes=0)
    with pytest.raises(UnknownNameError, match="Unknown task"):
        sweep(tmp_path, POLICY, CRITIC, "cube-singel-play-singletask-task2-v0", ["qgf"])
    with pytest.raises(ArtefactError, match="There is no policy at"):
        sweep(tmp_path, None, None, TASK, ["qgf"])


def test_a_run_is_evaluated_and_swept_with_its_own_networks(tmp_path, capsys):
    policy, critic = untrained(tmp_path, TASK)
    settings = {"workers": 2, "lanes": 2}
    found = evaluate_run(
        tmp_path, TASK, "qgf", weight=0.3, solver="heun", steps=3, episodes=4, split="tune", **settings
    )
    assert [arm["arm"] for arm in found] == ["bc solver=heun steps=3", "qgf solver=heun steps=3 w=0.3"]
    assert all(arm["episodes"] == 4 and arm["policy"] == policy.fingerprint for arm in found)
    printed = " ".join(capsys.readouterr().err.split())
    assert all(arm_line(arm) in printed for arm in found)
    rows = read_rows(rows_path(tmp_path, TASK))
    assert (
        evaluate_run(tmp_path, TASK, "qgf", weight=0.3, solver="heun", steps=3, episodes=4, split="tune", **settings)
        == found
    )
    assert read_rows(rows_path(tmp_path, TASK)) == rows

    methods = {"qgf": recipe("qgf", steps=2, aggregate="mean"), "bc": recipe("bc", steps=2)}
    summary = sweep(tmp_path, None, None, TASK, methods, tune_episodes=4, test_episodes=4, budget=3, **settings)
    # Other settings of a method are another method with a choice of its own.
    choices = {choice["method"]: choice for choice in summary["choice"]}
    assert set(choices) == {"qgf aggregate=mean steps=2", "qgf solver=heun steps=3"}
    curve = choices["qgf aggregate=mean steps=2"]["curve"]
    assert curve[0]["arm"] == "bc steps=2"
    assert [p["arm"] for p in curve[1:]] == [f"qgf aggregate=mean steps=2 w={p['weight']:g}" for p in curve[1:]]
    assert len(curve) == 4
    assert {a["critic"] for a in summary["arms"]} == {critic.fingerprint}


def test_arms_of_different_parts_are_different_arms(tmp_path):
    policy, critic = untrained(tmp_path, TASK)
    settings = {
        "tune_episodes": 2,
        "test_episodes": 2,
        "budget": 1,
        "workers": 1,
        "lanes": 2,
        "grid": [0.1],
        "curve": True,
    }
    with pytest.raises(ArtefactError, match=r"There is no amortised at .*steerflow train amortised"):
        sweep(tmp_path, None, None, TASK, ["qgf_amortised"], **settings)
    nets = []
    for seed in range(2):
        nets.append(distilled(tmp_path, policy, critic, seed))
        summary = sweep(tmp_path, None, None, TASK, ["qgf", "qgf_amortised"], **settings)
    found = {(a["arm"], *a["parts"].values()) for a in summary["arms"] if a["split"] == "test"}
    first, second = (net.fingerprint for net in nets)
    amortised = {("qgf_amortised w=0.1", first), ("qgf_amortised w=0.1", second)}
    assert found == {("bc",), ("qgf w=0.1",), *amortised}
    rows = read_rows(rows_path(tmp_path, TASK))
    assert len(rows) == 2 * 4 * 2
    # What asks none of them is not repeated.
    assert [c["method"] for c in summary["choice"]].count("qgf") == 1


def test_a_run_without_a_critic_is_evaluated_with_its_part(tmp_path):
    policy, critic = untrained(tmp_path, TASK)
    net = distilled(tmp_path, policy, critic)
    shutil.rmtree(tmp_path / "critic")
    (_, arm) = evaluate_run(tmp_path, TASK, "qgf_amortised", weight=0.2, episodes=2, workers=1, lanes=2)
    assert (arm["critic"], arm["parts"], arm["mean_q"]) == ("", {"amortised": net.fingerprint}, None)
    assert arm["mean_gradient_norm"] > 0
    with pytest.raises(ArtefactError, match="There is no critic at"):
        evaluate_run(tmp_path, TASK, "qgf", episodes=2, workers=1, lanes=2)
