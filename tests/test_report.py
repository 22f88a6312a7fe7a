"""The report says what the rows say, in one file, whatever is missing."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fake_run import TASK, fake_metrics, fake_rows, make_run, write_lines
from steerflow.errors import ArtefactError
from steerflow.evaluate.statistics import wilson
from steerflow.evaluate.timing import Timing
from steerflow.report import words
from steerflow.report.compare import families
from steerflow.report.paths import fit_plane, paths_plot, sample_paths
from steerflow.report.read import read_run
from steerflow.report.svg import SERIES, marks
from steerflow.report.video import NoVideo, Take, _clip, _uri, film
from steerflow.report.write import write_report


class Page(HTMLParser):
    """What a reader and a browser find in a page: tags with attributes, text, table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.source = text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data):
        self.words.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.tags if a.get("id") is not None]  # pyright: ignore[reportReturnType]

    def chosen(self) -> set[str]:
        return {row[0].removesuffix("chosen") for row in self.rows if len(row) == 9 and row[0].endswith("chosen")}

    def row(self, arm: str, occurrence: int = 0) -> list[str]:
        return [row for row in self.rows if row and row[0].startswith(arm)][occurrence]


def page_of(run: Path) -> Page:
    return Page(write_report(run, video=False).read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """The run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(run) -> Page:
    return page_of(run)


def test_the_headline_says_what_the_rows_say(page):
    low, high = wilson(18, 100)
    assert "Behaviour cloning succeeds in 18 % of the test episodes".replace(" %", "%") in page.text
    assert "steered by qgf at test time, succeeds in 96%" in page.text
    assert f"{100 * low:.0f}–{100 * high:.0f}% against" in page.text
    assert "The weight, 0.1, was chosen on 40 other episodes" in page.text
    assert "+78 points" in page.text


def test_the_table_has_every_arm_on_both_splits_and_marks_the_choice(page):
    rows = fake_rows()
    for arm in {r["arm"] for r in rows}:
        listed = [row for row in page.rows if len(row) == 9 and row[0].removesuffix("chosen") == arm]
        assert len(listed) == len({r["split"] for r in rows if r["arm"] == arm})
        test = [r["success"] for r in rows if (r["arm"], r["split"]) == (arm, "test")]
        if test:
            assert listed[0][4:6] == [str(len(test)), words.percent(np.mean(test))]
    assert page.chosen() == {"qgf w=0.1", "qfql w=0.1", "best_of_n n=16"}


def test_the_optimistic_maximum_is_labelled_and_not_reported(copy):
    path = copy / "evaluations" / "0.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        # By luck another weight than the chosen one is the best on the test episodes.
        if row["split"] == "test" and row["arm"] == "qgf w=0.2":
            row["success"] = row["episode"] != 3
    write_lines(path, rows)
    page = page_of(copy)
    assert "succeeds in 96%" in page.text
    line = page.row("qgf: optimistic maximum")
    assert "best of 3 on these same episodes" in line[1]
    assert line[2:4] == ["99%", "not valid"]
    assert "summary.json does not fit the episode rows for 1 arm(s): qgf w=0.2 (test)" in page.text


def test_paired_differences(page):
    line = page.row("qgf w=0.1 − bc")
    assert line[1] == "+78"
    assert int(line[3]) - int(line[4]) == 78
    assert line[5:] == ["100", "< 0.001"]


def test_one_file_without_requests_or_scripts(run):
    page = page_of(run)
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(tags)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "xlink:href", "action", "data"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, name, target)
    text = (run / "report.html").read_text()
    assert not re.findall(r"https?:|@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_every_figure_is_labelled_and_every_reference_leads_somewhere(page):
    ids = page.ids()
    assert len(ids) == len(set(ids))
    text = " ".join(str(value) for _, attributes in page.tags for value in attributes.values())
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert {a["href"][1:] for t, a in page.tags if t == "use" and a.get("href")} <= set(ids)  # pyright: ignore
    labels = [a.get("aria-label") for t, a in page.tags if t == "svg" and a.get("role") == "img"]
    assert len(labels) == 8
    assert all(labels)
    assert [t for t, _ in page.tags].count("figcaption") == 3


def test_long_names_leave_results_their_room(copy):
    long = "qgf guidance=sum(terms=(('one_step', 1.0), ('jacobian', 0.5))) schedule=window(start=0.2, stop=0.8)"
    (rows,) = copy.glob("evaluations/*.jsonl")
    rows.write_text(re.sub(r'("arm": |"method": )"qgf', rf'\1"{long}', rows.read_text()))
    (copy / "summary.json").unlink()
    page = page_of(copy)
    assert max(map(len, re.findall(r"<text[^>]*>([^<]*)</text>", page.source))) <= 50
    assert max(len(line) for row in page.rows for line in row[0].split("\n")) <= 60
    assert " ".join(page.row("qgf")[1].split("\n")) == long
    # The two axes of a weight panel: the left one ends where the right one begins.
    panels = [p for p in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL) if "results against guidance weight" in p]
    assert len(panels) == 2
    for panel in panels:
        (_, end), (start, _) = re.findall(r'axes_[12]">\n<g [^>]*>\n<path d="M ([\d.]+) \S+\s+L ([\d.]+)', panel)
        assert 0 < float(start) - float(end) < 20


def test_equal_runs_give_equal_reports(run):
    first = write_report(run, video=False).read_bytes()
    assert write_report(run, run / "again.html", video=False).read_bytes() == first
    assert str(run).encode() not in first


def test_figures_take_their_colours_from_the_page(run):
    text = write_report(run, video=False).read_text()
    figures = "".join(re.findall(r'<svg viewBox.*?role="img".*?</svg>', text, flags=re.DOTALL))
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", figures)
    used = set(re.findall(r"var\((--[\w-]+)\)", figures))
    assert {"--ink", "--paper", "--series-0", "--series-1"} <= used
    assert used <= set(re.findall(r"(--[\w-]+):", text))


def test_the_colours_can_be_read_on_both_backgrounds(run):
    text = write_report(run, video=False).read_text()
    themes = [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", t)) for t in re.findall(r":root \{([^}]*)\}", text)[:2]]
    assert len(themes) == 2
    for theme in themes:
        for name, least in [("--ink", 7), ("--muted", 4.5), ("--chosen", 4.5)] + [
            (f"--series-{i}", 3) for i in range(8)
        ]:
            assert contrast(theme[name], theme["--paper"]) >= least, (name, theme[name])
        assert contrast(theme["--ink"], theme["--mark"]) >= 7


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_methods_keep_their_looks_and_differ_in_marker_too():
    assert marks(["qgf", "mine"])["qgf"] == marks(["bc", "qgf", "zeta"])["qgf"]
    looks = marks(["bc", "qgf", "qfql", "best_of_n", "qgf_best_of_n", "qgf_normalised", "mine", "yours"])
    assert len({m.marker for m in looks.values()}) == len(SERIES)
    many = marks(["bc", *map(str, range(20))])
    assert len({(look.colour, look.marker) for look in many.values()}) == 21
    assert [n for n, look in many.items() if look.colour == many["bc"].colour] == ["bc"]


def test_text_from_files_is_escaped(tmp_path):
    task, method = "<script>alert(1)</script> & \"x\" 'y' $z_1$", '<b onload="x">&$m_1$'
    rows = fake_rows(task)
    for row in rows:
        row["arm"], row["method"] = (row[k].replace("qfql", method) for k in ("arm", "method"))
    (tmp_path / "evaluations").mkdir()
    write_lines(tmp_path / "evaluations" / "rows.jsonl", rows)
    page = page_of(tmp_path)
    assert not {"script", "b onload"} & {tag for tag, _ in page.tags}
    assert not [a for _, a in page.tags if "onload" in a]
    assert task in page.text
    assert page.row(f"{method} w=0.1")[1] == method
    labels = [a["aria-label"] for _, a in page.tags if a.get("aria-label")]
    assert {f"Arms on {task}", f"{method}: results against guidance weight"} <= set(labels)


def test_without_evaluations_there_is_still_learning(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_lines(run / "metrics.jsonl", fake_metrics(validation=False))
    page = page_of(run)
    assert f"Nothing has been evaluated yet. To evaluate: steerflow sweep {run}" in page.text
    assert "There are no validation losses" in page.text
    assert "validation data" not in page.text
    assert "learning" in page.ids()


def test_only_evaluations(tmp_path):
    run = tmp_path / "run"
    (run / "evaluations").mkdir(parents=True)
    write_lines(run / "evaluations" / "rows.jsonl", fake_rows())
    page = page_of(run)
    assert "succeeds in 96%" in page.text
    assert "no learning curves" in page.text
    assert "learning" not in page.ids()
    # Without a summary the same rule chooses, from the same rows.
    assert page.chosen() == {"qgf w=0.1", "qfql w=0.1", "best_of_n n=16"}


def test_one_arm_only(tmp_path):
    page = page_of(make_run(tmp_path / "run", methods=("bc",)))
    assert "1 task evaluated" in page.text
    assert page.row("bc")[5] == "18%"
    assert "Paired differences" not in page.text


def test_an_environment_that_tells_no_success_is_compared_by_return(tmp_path):
    page = page_of(make_run(tmp_path / "run", success=False))
    assert "Behaviour cloning earns a mean return of −177" in page.text
    assert "Return against guidance weight" in page.text
    assert page.row("bc")[5] == "–"
    assert "None" not in page.text
    assert "nan" not in page.text


def test_several_tasks_have_parts_of_their_own(tmp_path):
    tasks = tuple(f"cube-double-singletask-task{i}-v0" for i in (1, 2))
    page = page_of(make_run(tmp_path / "run", tasks))
    assert "Over 2 tasks, behaviour cloning succeeds in 18%" in page.text
    assert {"success-0", "success-1", "critic-0", "critic-1"} <= set(page.ids())
    assert page.row(tasks[0])[1:4] == ["18%", "12–27%", "qgf w=0.1"]


def test_without_tuning_nothing_is_called_chosen(tmp_path):
    page = page_of(make_run(tmp_path / "run", tune=0, methods=("bc", "qgf")))
    assert not page.chosen()
    assert page.row("qgf: optimistic maximum")


def test_behaviour_cloning_chosen_while_tuning(tmp_path):
    run = make_run(tmp_path / "run", methods=("bc", "qgf"))
    summary = json.loads((run / "summary.json").read_text())
    (choice,) = summary["choice"]
    summary["choice"] = [{**choice, "arm": "bc", "weight": 0.0}]
    (run / "summary.json").write_text(json.dumps(summary))
    (_, family) = families(read_run(run))
    assert family.result is not None
    assert family.result.arm == "bc"
    assert "1 task evaluated" in page_of(run).text


def test_times_have_units(copy):
    summary = json.loads((copy / "summary.json").read_text())
    timing = Timing(wall=1234.56, physics=300.0, capacity=400.0, calls=1234)
    (copy / "summary.json").write_text(json.dumps({**summary, "timing": timing.to_json()}))
    text = " ".join(page_of(copy).text.split())
    for told in ("wall 20 min 35 s", "policy 0.0 s", "physics share 75%", "calls 1234"):
        assert told in text


def test_rows_of_an_earlier_training_are_left_out(copy):
    write_lines(copy / "evaluations" / "old.jsonl", fake_rows(policy="o" * 16, methods=("bc",), test=30))
    page = page_of(copy)
    assert page.row("bc")[4] == "100"
    assert "70 episodes of another policy or critic" in page.text


@pytest.mark.parametrize("text", ['{"arms": [', '{"arms": 3}', '{"arms": [{"arm": "bc"}]}', "[]"])
def test_a_damaged_summary_is_an_error_that_says_what_to_do(copy, text):
    (copy / "summary.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"summary\.json"):
        write_report(copy, video=False)


def test_what_is_no_run_is_an_error(tmp_path):
    with pytest.raises(ArtefactError, match="There is no run folder"):
        write_report(tmp_path / "missing")
    with pytest.raises(ArtefactError, match="is not a run folder"):
        write_report(tmp_path)


def test_a_damaged_artefact_is_noted(copy):
    (copy / "policy").mkdir()
    (copy / "policy" / "meta.json").write_text('{"sha256": "1"}')
    (copy / "policy" / "tensors.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert "is not a safetensors file" in page_of(copy).text


def test_the_report_needs_neither_jax_nor_pyplot(tmp_path, run):
    code = (
        "import sys; from pathlib import Path; from steerflow.report.write import write_report\n"
        f"write_report(Path({str(run)!r}), Path({str(tmp_path / 'r.html')!r}))\n"
        "print([m for m in ('jax', 'mujoco', 'matplotlib.pyplot', 'gymnasium') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "There is no video: the run folder holds no policy" in Page((tmp_path / "r.html").read_text()).text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.967, "97%"), (1.0, "100%"), (0.996, "99.6%"), (0.0, "0%"), (0.004, "0.4%"), (None, "–")],
)
def test_percentages_never_round_to_certainty(value, text):
    assert words.percent(value) == text


def test_numbers():
    assert [words.number(x) for x in (12345.6, 0.012345, -3.14159, 0, None)] == ["12,346", "0.0123", "−3.14", "0", "–"]
    assert [words.weight(x) for x in (0.1, 0.03, 2.0, 0.0866025, 0.0)] == ["0.1", "0.03", "2", "0.0866", "0"]
    assert [words.seconds(x) for x in (4.21, 42, 425, 7980)] == ["4.2 s", "42 s", "7 min 5 s", "2 h 13 min"]
    assert words.points(-0.001) == "0"


class LinearActor:
    """Flow from noise to a point that the weight pushes along the first dimension; only three dimensions matter."""

    def paths(self, seeds, observations, weights):
        noise = np.stack([np.random.default_rng(int(s)).normal(size=6) for s in seeds])
        spread = np.array([0.3, 0.2, 0.01, 0, 0, 0])
        ends = noise * spread + np.asarray(weights)[:, None] * np.array([5, 0, 0, 0, 0, 0])
        return np.stack([noise + t * (ends - noise) for t in np.linspace(0, 1, 11)]).astype(np.float32)


def test_paths_start_in_the_same_noise_and_are_shown_where_they_differ_most():
    paths = sample_paths(LinearActor(), np.zeros(4), weight=0.2, count=50)
    assert paths.plain.shape == paths.guided.shape == (11, 50, 6)
    assert np.array_equal(paths.plain[0], paths.guided[0])
    plane = fit_plane(paths)
    assert plane.explained > 0.99
    assert np.allclose(np.abs(plane.axes[:, :2]), np.eye(2), atol=0.05)
    assert np.allclose(plane.project(plane.lift(np.array([[0.4, -0.2]]))), [[0.4, -0.2]])
    shift = plane.project(paths.guided[-1]).mean(axis=0) - plane.project(paths.plain[-1]).mean(axis=0)
    assert shift == pytest.approx([1.0, 0.0], abs=0.05)


def test_the_picture_of_paths_asks_the_critic_inside_the_bounds_only():
    asked = []

    def q(chunks):
        asked.append(chunks)
        return -np.sum(np.square(chunks - 0.5), axis=-1)

    plot = paths_plot("paths", sample_paths(LinearActor(), np.zeros(4), 0.2), "qgf", "a state", q)
    assert len(plot.panels) == 2
    assert "40 denoising paths of 10 steps at a state" in plot.caption
    assert "the higher the critic's value" in plot.caption
    assert np.abs(asked[0]).max() <= 1
    without = paths_plot("paths", sample_paths(LinearActor(), np.zeros(4), 0.2), "qgf", "a state")
    assert "critic" not in without.caption
    assert len(without.panels[0]) < len(plot.panels[0])


def test_paths_that_never_differ_can_be_drawn():
    class Constant:
        def paths(self, seeds, observations, weights):
            return np.zeros((3, len(seeds), 1), np.float32)

    plot = paths_plot("paths", sample_paths(Constant(), np.zeros(2), 0.1), "qgf", "a state", lambda a: np.zeros(len(a)))
    assert len(plot.panels) == 2


def test_a_clip_is_one_animation_that_holds_the_end_of_the_shorter_episode():
    rng = np.random.default_rng(0)
    short, long = (Take(rng.integers(0, 255, (n, 24, 24, 3), dtype=np.uint8), n == 3, 2 * n, 0.0) for n in (3, 5))
    clip = _clip((long, short))
    image = Image.open(io.BytesIO(decoded(clip.animation)))
    assert (image.n_frames, image.size) == (5, (56, 24))  # pyright: ignore[reportAttributeAccessIssue]
    image.seek(4)
    last = np.asarray(image.convert("RGBA")).astype(int)
    assert last[12, 28, 3] == 0, "the gap is transparent"
    assert last[12, 2, 1] < last[12, 34, 1], "grey around the failure, green around the success"
    assert [len(strip) for strip in clip.stills] == [4, 4]
    assert Image.open(io.BytesIO(decoded(clip.stills[0][0]))).size == (24, 24)


def decoded(uri: str) -> bytes:
    import base64

    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    assert _uri(base64.b64decode(data)) == uri
    return base64.b64decode(data)


def test_without_opengl_there_is_a_reason_instead_of_a_video(tmp_path, run, monkeypatch):
    from steerflow.report import video

    monkeypatch.setattr(video, "_backends", lambda: ["no-such-backend"])
    rows = [r for r in read_run(run).rows if r.split == "test"][:2]
    with pytest.raises(NoVideo, match="no OpenGL backend works here"):
        film(tmp_path, rows)


@pytest.fixture(scope="module")
def reacher(tmp_path_factory) -> Path:
    """A real run, but for its networks, which are small and untrained: one episode of two arms on a MuJoCo task."""
    import jax

    from steerflow.critic import Critic, CriticNetworks
    from steerflow.envs.pool import Pool
    from steerflow.evaluate.arms import Arm
    from steerflow.evaluate.rollout import evaluate
    from steerflow.learn.networks import Critics, Value, Velocity
    from steerflow.policy import Policy
    from steerflow.spec import Normaliser, Spec
    from steerflow.steer.presets import recipe

    run, task = tmp_path_factory.mktemp("reacher"), "Reacher-v5"
    spec, plain, key = Spec(10, 2, 5, (-1.0, -1.0), (1.0, 1.0)), Normaliser.identity(10), jax.random.key(0)
    network = {"hidden": [16, 16], "time_frequency": 100.0}
    Policy(spec, plain, Velocity(key, 10, 10, (16, 16), 100.0), {"network": network, "step": 0}).save(run / "policy")
    networks = CriticNetworks(Critics(key, 10, 10, (16, 16), 2), Value(key, 10, (16, 16)))
    meta = {"network": {"hidden": [16, 16], "ensemble": 2}, "task": task, "step": 0}
    Critic(spec, plain, networks, meta).save(run / "critic" / task)
    policy, critic = Policy.load(run / "policy"), Critic.load(run / "critic" / task)
    arms = [Arm(n, m, policy, critic, recipe(m)) for n, m in (("bc", "bc"), ("qgf w=0.1", "qgf"))]
    with Pool(task, 1, 2) as pool:
        evaluate(arms, range(2), "test", pool, run / "evaluations" / f"{task}.jsonl")
    return run


def test_paths_of_a_real_run(reacher):
    page = page_of(reacher)
    assert "paths" in page.ids()
    found = re.search(
        r"10 steps at test episode 0 of Reacher-v5, decision (\d+) of 10, where guidance moves", page.text
    )
    assert found
    assert 1 <= int(found[1]) <= 10
    moved = re.search(r"moves a chunk by ([\d.]+) on average.*?over the whole episode it is ([\d.]+)\.", page.text)
    assert moved
    assert float(moved[1]) > 0
    assert "no picture of denoising paths" not in page.text
    assert page.row("bc")[5] == "–"


def test_a_real_episode_is_filmed_as_it_was_evaluated(reacher, monkeypatch):
    from steerflow.report import video

    pair = sorted((r for r in read_run(reacher).rows if r.episode == 1), key=lambda r: r.arm)
    try:
        clip = film(reacher, pair)
    except NoVideo as reason:
        if "no OpenGL backend" in str(reason):
            pytest.skip(str(reason))
        raise
    assert [(len(t.frames), t.length) for t in clip.takes] == [(26, 50), (26, 50)]
    assert [t.total for t in clip.takes] == pytest.approx([r.return_ for r in pair], rel=1e-12)
    assert clip.takes[0].frames[0].std() > 5, "the picture is empty"
    assert np.array_equal(clip.takes[0].frames[0], clip.takes[1].frames[0]), "both start in the same state"
    assert not np.array_equal(clip.takes[0].frames[-1], clip.takes[1].frames[-1])
    # Rows of another machine or version are not passed off as this episode.
    monkeypatch.setattr(video, "_in_process", lambda *_: (0, ""))
    monkeypatch.setattr(video, "_read_take", lambda path: clip.takes[int(path.stem)])
    with pytest.raises(NoVideo, match="did not replay as recorded"):
        film(reacher, pair[::-1])


def test_task_is_in_every_caption(page):
    assert page.text.count(TASK) >= 5
