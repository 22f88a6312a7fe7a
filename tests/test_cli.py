"""The command line: quick to answer, plain about what is wrong, and calm when it is stopped."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from steerflow import progress
from steerflow.cli import analyse as analyse_commands
from steerflow.cli import data as data_commands
from steerflow.cli import doctor as doctor_command
from steerflow.cli import main, shell
from steerflow.cli import train as train_commands
from steerflow.data.store import StoreWriter
from steerflow.errors import BusyError, SteerflowError

HEAVY = ("jax", "numpy", "mujoco", "gymnasium", "matplotlib", "scipy", "equinox", "ogbench")
TABLES = {
    "": main.COMMANDS,
    "analyse": analyse_commands.COMMANDS,
    "data": data_commands.COMMANDS,
    "train": train_commands.COMMANDS,
}
COMMANDS = [[*group.split(), name] for group, table in TABLES.items() for name in table if group or name not in TABLES]


def steerflow(*arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "steerflow", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def tiny_data(tmp_path):
    """A data set of 4 + 1 short episodes with one task."""
    rng = np.random.default_rng(0)
    for split, episodes in (("train", 4), ("val", 1)):
        path = tmp_path / "data" / "tiny" / split
        with StoreWriter(path, action_low=[-1, -1], action_high=[1, 1], source={}) as writer:
            for _ in range(episodes):
                writer.append({"observations": rng.normal(size=(30, 3)), "actions": rng.uniform(-1, 1, (30, 2))})
            store = writer.commit()
        store.add_task("reach", -np.ones(store.rows), np.ones(store.rows))
    return tmp_path


@pytest.mark.parametrize("command", [*(group.split() for group in TABLES), *COMMANDS], ids=" ".join)
def test_help_loads_nothing_heavy_and_says_nothing_empty(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "steerflow", *command, "--help"],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"usage: {' '.join(['steerflow', *command])}")
    assert not re.search(r"\{None\}|\(default:\W*(None|True|False)?\W*\)", done.stdout)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "steerflow" in loaded
    assert not loaded & set(HEAVY)


def test_import_loads_nothing_heavy():
    code = f"import sys, steerflow; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_version():
    assert re.fullmatch(r"steerflow \d+\.\d+\.\d+\S*\n", steerflow("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "`steerflow train`"),
        (["data", "mkae"], "`steerflow data make`"),
        (["train", "polcy"], "`steerflow train policy`"),
        (["--verison"], "`steerflow --version`"),
        (["train", "policy", "--data", "x", "--upadtes", "3"], "--updates"),
        (["train", "both", "--data", "x", "--critic.expctile", "0.7"], "--critic.expectile"),
        (["sweep", "x", "--budgte", "3"], "--budget"),
        (["data", "make", "cube-singel-play"], "'cube-single-play'"),
        (["data", "get", "cube-singel-play"], "'cube-single-play'"),
        (["train", "policy", "--data", "tny"], "'tiny'"),
        (["report", "dmeo"], "demo"),
        (["sweep", "demo", "--task", "Pendulum-v1", "--method", "qfg"], "'qgf'"),
        (["evaluate", "demo", "--task", "Pendlum-v1"], "'Pendulum-v1'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_names_get_the_right_one(arguments, expected, tiny_data):
    (tiny_data / "runs" / "demo" / "critic" / "Pendulum-v1").mkdir(parents=True)
    (tiny_data / "runs" / "demo" / "critic" / "Pendulum-v1" / "meta.json").write_text("{}")
    done = steerflow(*arguments, cwd=tiny_data)
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert expected in said
    assert "Traceback" not in said


def test_missing_options_are_named():
    done = steerflow("train", "policy")
    assert done.returncode == 2
    assert "--data" in done.stderr + done.stdout


def test_errors_are_messages_and_debug_shows_more(tmp_path):
    plain = steerflow("report", "nowhere", cwd=tmp_path)
    assert plain.returncode == 2
    assert plain.stdout == ""
    assert plain.stderr.startswith("steerflow: There is no run folder nowhere.")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in steerflow("report", "nowhere", "--debug", cwd=tmp_path).stderr
    assert "Traceback" in steerflow("report", "nowhere", cwd=tmp_path, STEERFLOW_DEBUG="1").stderr


def fails(error):
    def command(arguments):
        raise error

    return command


@pytest.fixture
def keeps_handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("keeps_handlers")
class TestEnd:
    """Exit codes and last words of ``shell.run``."""

    def test_done(self):
        assert shell.run(lambda arguments: None, []) == 0

    def test_error(self, capsys):
        assert shell.run(fails(SteerflowError("Do this.")), []) == 2
        assert capsys.readouterr().err == "steerflow: Do this.\n"

    def test_what_another_process_holds_may_be_tried_again(self):
        assert shell.run(fails(BusyError("Wait for it.")), []) == shell.BUSY == os.EX_TEMPFAIL

    def test_full_disk(self, capsys):
        def command(arguments):
            shell.keeping("Half of it is kept.")
            raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

        assert shell.run(command, []) == 2
        assert capsys.readouterr().err == (
            "steerflow: The disk is full while writing /some/file. Half of it is kept. "
            "Free some space, then run the same command again.\n"
        )

    def test_other_errors_of_the_system_are_not_hidden(self):
        with pytest.raises(PermissionError):
            shell.run(fails(PermissionError("no")), [])

    def test_interrupt(self, capsys):
        def command(arguments):
            shell.keeping("Step 7 is kept.")
            raise KeyboardInterrupt

        assert shell.run(command, ["demo", "--run", "a b"]) == 130
        said = capsys.readouterr().err
        assert "stopped by Ctrl-C. Step 7 is kept. The same command continues: " in said
        assert said.endswith(" demo --run 'a b'\n")

    def test_nothing_kept_nothing_promised(self, capsys):
        assert shell.run(fails(KeyboardInterrupt()), ["doctor"]) == 130
        assert capsys.readouterr().err == "\nsteerflow: stopped by Ctrl-C.\n"

    def test_sigterm(self, capsys):
        def command(arguments):
            signal.raise_signal(signal.SIGTERM)

        assert shell.run(command, []) == 143
        assert "stopped by SIGTERM" in capsys.readouterr().err

    def test_a_broken_pipe_between_processes_is_an_error(self):
        with pytest.raises(BrokenPipeError):
            shell.run(fails(BrokenPipeError()), [])


def test_a_reader_that_leaves_is_no_error(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "steerflow", "data", "list"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    with process:
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


def captured_config(monkeypatch, command, *arguments):
    """The TrainConfig that a command would train."""
    import steerflow.learn.train

    seen = []
    monkeypatch.setattr(steerflow.learn.train, "train", lambda config: seen.append(config) or config.run)
    getattr(train_commands, command)(list(arguments))
    return seen[0]


def test_train_commands_say_what_is_learnt(monkeypatch, capsys):
    policy = captured_config(monkeypatch, "policy", "--data", "folder/tiny", "--policy.hidden", "8", "8")
    assert (policy.learn, policy.run, policy.tasks) == ("policy", Path("runs/tiny"), ())
    assert policy.policy.hidden == (8, 8)
    critic = captured_config(monkeypatch, "critic", "--data", "tiny", "--task", "a", "b", "--run", "x")
    assert (critic.learn, critic.run, critic.tasks) == ("critic", Path("x"), ("a", "b"))
    both = captured_config(monkeypatch, "both", "--data", "tiny", "--tasks", "a", "--critic.expectile", "0.7")
    assert (both.learn, both.tasks, both.critic.expectile) == ("both", ("a",), 0.7)
    assert (both.seeds, both.devices, both.distributed) == ((0,), "auto", False)
    many = captured_config(
        monkeypatch, "both", "--data", "tiny", "--seeds", "0", "1", "--devices", "8", "--distributed"
    )
    assert (many.seeds, many.devices, many.distributed) == ((0, 1), 8, True)
    assert captured_config(monkeypatch, "policy", "--data", "tiny", "--seed", "3").seeds == (3,)
    amortised = captured_config(monkeypatch, "amortised", "--run", "x", "--task", "a", "--amortised.hidden", "8", "8")
    assert (amortised.learn, amortised.data, amortised.run, amortised.tasks) == ("amortised", "", Path("x"), ("a",))
    assert amortised.amortised.hidden == (8, 8)
    assert capsys.readouterr().out == "runs/tiny\nx\n" + 3 * "runs/tiny\n" + "x\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_training_says_what_is_kept_and_continues(number, tiny_data):
    arguments = ["train", "both", "--data", "tiny", "--task", "reach", "--chunk", "2", "--batch", "8",
                 "--policy.hidden", "8", "--critic.hidden", "8", "--call-updates", "50", "--log-every", "50"]  # fmt: skip
    metrics = tiny_data / "runs" / "tiny" / "metrics.jsonl"
    with started(*arguments, "--updates", 100_000_000, cwd=tiny_data) as process:
        wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, process)
        process.send_signal(number)
        out, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert out == ""
    assert "Traceback" not in said
    assert re.search(
        r"stopped by (Ctrl-C|SIGTERM)\. The last checkpoint is in runs/tiny\. The same command continues: ", said
    )
    kept = json.loads(next((tiny_data / "runs/tiny/checkpoints/both").glob("*/meta.json")).read_text())["step"]
    done = steerflow(*arguments, "--updates", kept + 50, cwd=tiny_data)
    assert done.returncode == 0, done.stderr
    assert "Passing over" not in done.stderr
    assert json.loads((tiny_data / "runs/tiny/policy/meta.json").read_text())["step"] == kept + 50
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_generation_leaves_no_process_behind(number, tmp_path):
    with started("data", "make", "pointmaze-medium-navigate", "--workers", 2, cwd=tmp_path) as process:
        wait_for(lambda: any(tmp_path.glob("data/.*.parts/*/*.npz")), process)
        # Ctrl-C reaches every process of the terminal, SIGTERM the one that is meant.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert "The same command continues: " in said
    # The group is empty a moment after its leader ended.
    deadline = time.monotonic() + 60
    while alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def started(*arguments, cwd):
    """A command in a process group of its own, which is gone after the block, whatever happens in it."""
    with subprocess.Popen(
        [sys.executable, "-m", "steerflow", *map(str, arguments)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_check_reports_and_fails_on_errors(tiny_data):
    good = steerflow("data", "check", "tiny", cwd=tiny_data)
    assert good.returncode == 0
    assert "train: 116 transitions in 4 episodes" in good.stdout
    column = tiny_data / "data/tiny/train/observations.npy"
    content = bytearray(column.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    column.write_bytes(content)
    bad = steerflow("data", "check", "tiny", "--json", cwd=tiny_data)
    assert bad.returncode == 1
    assert any(f["severity"] == "error" and f["column"] == "observations" for f in json.loads(bad.stdout)["findings"])


def test_list_shows_what_is_here_and_what_can_be_had(tiny_data):
    shown = steerflow("data", "list", cwd=tiny_data).stdout
    assert "tiny: 116 transitions in 4 episodes" in shown
    assert "rewards of reach" in shown
    assert "  cube-single-play\n" in shown
    assert "cube-single-play" not in steerflow("data", "list", "puzzle", cwd=tiny_data).stdout


def test_doctor(tmp_path):
    done = steerflow("doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    findings = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings.keys() >= {"python", "packages", "cores", "memory", "disk", "jax", "simulator", "pictures"}
    assert {f["state"] for f in findings.values()} <= {"ok", "missing"}
    assert all(f["mend"] or f["state"] == "ok" for f in findings.values())


def test_doctor_says_what_to_type_where_the_core_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(doctor_command, "_python_says", lambda code, **environment: (1, "ImportError: no libjax.so"))
    with pytest.raises(SystemExit) as end:
        doctor_command.doctor([])
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "✗ jax        does not start: ImportError: no libjax.so" in said
    assert "-m pip install" in said
    assert "– pictures" in said


def test_the_time_left_is_reckoned_from_work_alone(monkeypatch, capsys):
    """Of 100 units 60 were there before, 20 take 10 s each, and 10 need not be done: 10 are left."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bar("Work", 100) as shown:
        shown.skip(60)
        for done in range(61, 81):
            now[0] += 10
            shown.update(done)
        shown.skip(90)
        now[0] += 20
        shown.update(91, "last")
    said = capsys.readouterr().err
    assert "Work: 80/100  (200 s, 200 s left)" in said
    assert f"Work: 91/100 last (220 s, {220 / 21 * 9:.0f} s left)" in said
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.bar("Work", 100) as shown:
        shown.skip(60, "there")
    assert re.search("Work .*60/100.*there", capsys.readouterr().err)
