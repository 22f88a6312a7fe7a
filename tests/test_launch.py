"""Many jobs: read from a file, run somewhere, killed, retried, and ended with the bytes of commands typed by hand."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import write_data
from steerflow.artefact import write_json
from steerflow.cli import main
from steerflow.cli.launch import _not_done
from steerflow.errors import SteerflowError
from steerflow.launch.jobs import EXAMPLE, Job, Resources, named, read_jobs
from steerflow.launch.work import Place, Record, blocked, is_done, run_job
from steerflow.run import locked

ROOT = Path(__file__).parents[1]
# A second or two of work, with a checkpoint every few milliseconds.
TRAIN = (
    "train policy --data points --seed {seed} --chunk 2 --batch 8 --policy.hidden 8 "
    "--updates 4000 --call-updates 50 --log-every 1000 --save-seconds 0 --run runs/{seed}"
)
JOBS = f"""
[matrix]
seed = [0, 1]

[[job]]
command = "{TRAIN}"

[[job]]
name = "look"
command = "data check points"
needs = "train"
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The variables under which commands find the data set "points" from anywhere."""
    root = tmp_path_factory.mktemp("data")
    write_data(root / "points")
    return {"STEERFLOW_DATA": str(root), "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def typed(data, tmp_path_factory):
    """The directory in which the commands of JOBS were typed by hand and never killed."""
    directory = tmp_path_factory.mktemp("typed")
    for seed in (0, 1):
        steerflow(*shlex.split(TRAIN.format(seed=seed)), cwd=directory, **data)
    return directory


def steerflow(*arguments, cwd, code=0, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "steerflow", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


@contextmanager
def launched(*arguments, cwd, **environment):
    """A launch in progress, and its output so far."""
    command = [sys.executable, "-m", "steerflow", "launch", *map(str, arguments)]
    with (
        open(cwd / "said", "w+") as said,
        subprocess.Popen(command, cwd=cwd, stdout=said, stderr=said, env={**os.environ, **environment}) as process,
    ):
        try:
            yield process, (cwd / "said").read_text
        finally:
            if process.poll() is None:
                process.kill()


def wait_for(condition, process, said, seconds=120):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, said()
        assert time.monotonic() < end, said()
        time.sleep(0.02)
    return value


@contextmanager
def mark():
    """A variable by which processes that inherit it are found; they are gone after the block, whatever happens in it."""
    variable = {"STEERFLOW_TEST_MARK": f"{os.getpid()}-{time.monotonic_ns()}"}
    try:
        yield variable
    finally:
        kill(variable)


def marked(variable):
    """Processes whose environment has the variable, and what descends from them: a process that sets its title, as Ray's
    do, overwrites its environment."""
    ((name, value),) = variable.items()
    entry, found, parents = f"{name}={value}".encode(), set(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The fields after the name, which may hold anything: state, parent, ...
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found & parents.keys())


def seeds(variable):
    """The seeds that processes with the variable train at this moment."""
    lines = []
    for process in marked(variable):
        with suppress(OSError):
            lines.append(Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return {int(seed) for line in lines for seed in re.findall(r"launch\.work .*--seed (\d)", line)}


def kill(variable):
    while processes := marked(variable):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def artefacts(directory):
    """The bytes of all that training leaves, by path: artefacts, checkpoints and metrics. Not what is hidden: the lock, and the
    temporary folder of a checkpoint that a kill cut short."""
    paths = [path.relative_to(directory) for path in sorted((directory / "runs").rglob("*")) if path.is_file()]
    visible = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    found = {str(path): (directory / path).read_bytes() for path in visible if path.name != "config.toml"}
    assert any(name.endswith("policy/tensors.safetensors") for name in found)
    return found


def records(directory, name="jobs"):
    return {p.stem: Record(**json.loads(p.read_text())) for p in (directory / "launches" / name).glob("*-*.json")}


class TestJobFile:
    def jobs(self, tmp_path, text):
        (tmp_path / "jobs.toml").write_text(text)
        return read_jobs(tmp_path / "jobs.toml").jobs

    def test_a_command_becomes_a_job_for_each_combination_that_it_names(self, tmp_path):
        jobs = {job.name: job for job in self.jobs(tmp_path, EXAMPLE)}
        assert len(jobs) == 1 + 3 * 2 + 3 * 2
        assert jobs["train-2-1"].command == (
            "steerflow train both --data cube-single-play --task cube-single-singletask-task2-v0 --seed 1 "
            "--updates 100000 --run runs/task2-1"
        )
        assert jobs["train-2-1"].resources == Resources(cpus=4, gpus=1, memory_gb=16, hours=12)
        assert jobs["data"].needs == ()
        assert jobs["train-2-1"].needs == ("data",)
        assert jobs["sweep-2-1"].needs == ("train-2-1",)

    def test_a_job_needs_those_that_agree_in_what_both_name(self, tmp_path):
        text = """
            matrix = { task = ["a", "b"], seed = [0, 1], method = ["qgf"] }
            [[job]]
            name = "train"
            command = "steerflow train both --data x --task {task} --seed {seed}"
            [[job]]
            command = "sweep {task} --method {method}"
            needs = ["train"]
            [[job]]
            command = "report all"
            needs = "sweep"
        """
        jobs = {job.name: job for job in self.jobs(tmp_path, text)}
        assert jobs["train-a-0"].arguments[:2] == ("train", "both")
        assert jobs["sweep-b-qgf"].needs == ("train-b-0", "train-b-1")
        assert jobs["report"].needs == ("sweep-a-qgf", "sweep-b-qgf")

    def test_values_are_words_unless_they_are_quoted(self, tmp_path):
        text = """
            matrix.hidden = ["8 8"]
            [[job]]
            command = "train policy --policy.hidden {hidden} --data '{hidden}'"
        """
        (job,) = self.jobs(tmp_path, text)
        assert job.arguments == ("train", "policy", "--policy.hidden", "8", "8", "--data", "8 8")
        assert job.name == "train-8_8"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "no [[job]]"),
            ("[[job]", "not valid TOML"),
            ("[[jobs]]\ncommand = 'data list'", "Did you mean 'job'?"),
            ("[[job]]\ncomand = 'data list'", "no command"),
            ("[[job]]\ncommand = 'data list'\ncpu = 3", "Did you mean 'cpus' or"),
            ("[[job]]\ncommand = 'data list'\ncpus = 'many'", "cpus = 'many'"),
            ("[[job]]\ncommand = 'data list'\ncpus = true", "cpus = True"),
            ("[[job]]\ncommand = 'data list'\ncpus = 0", "less than nothing"),
            ("[[job]]\ncommand = 'data list'\nneeds = 'trian'", "must stand before 'data'"),
            ("[[job]]\ncommand = 'data list'\n[[job]]\ncommand = 'data check x'", "named 'data'"),
            ("[[job]]\ncommand = 'data list {sed}'\n[matrix]\nseed = [0]", "Did you mean 'seed'?"),
            ("[[job]]\ncommand = 'data list'\n[matrix]\nseed = [0]", "uses {seed}"),
            ("[[job]]\ncommand = 'data list {seed}'\n[matrix]\nseed = 0", "seed = [0, 1]"),
            ("[[job]]\ncommand = 'data list {seed}'\n[matrix]\nseed = ['a b', 'a/b']", "called data-a_b"),
            ('[[job]]\ncommand = "data list \'"', "split into words"),
            ("slurm = 3\n[[job]]\ncommand = 'data list'", "[slurm]"),
        ],
    )
    def test_what_is_not_understood_is_said(self, tmp_path, text, said):
        with pytest.raises(SteerflowError) as error:
            self.jobs(tmp_path, text)
        assert said in str(error.value)

    def test_only_some_jobs_and_what_they_need(self, tmp_path):
        jobs = self.jobs(tmp_path, EXAMPLE)
        names = [job.name for job in named(jobs, ["sweep-2-*", "train-1-0"])]
        assert names == ["data", "train-1-0", "train-2-0", "train-2-1", "sweep-2-0", "sweep-2-1"]
        assert named(jobs, ["*"]) == jobs
        with pytest.raises(SteerflowError, match=r"'trian-1'\. Did you mean 'train-"):
            named(jobs, ["data", "trian-1"])

    def test_the_job_files_of_the_documentation_are_understood(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        for text in re.findall(
            r"^```toml\n(.*?)^```$", (ROOT / "docs/launch.md").read_text(), re.MULTILINE | re.DOTALL
        ):
            Path("jobs.toml").write_text(text)
            main._steerflow(["launch", "jobs.toml", "--dry-run"])
        assert "steerflow train" in capsys.readouterr().out


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _there(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_the_example_is_a_job_file_whose_commands_are_understood(self, capsys):
        main._steerflow(["launch", "--example"])
        Path("study.toml").write_text(capsys.readouterr().out)
        main._steerflow(["launch", "study.toml", "--dry-run"])
        lines = capsys.readouterr().out.splitlines()
        assert [shlex.split(line, comments=True) for line in lines] == [
            ["steerflow", *job.arguments] for job in read_jobs(Path("study.toml")).jobs
        ]
        assert "# train-1-0; after data" in lines[1]
        main._steerflow(["launch", "study.toml", "--dry-run", "--only", "sweep-3-1"])
        assert capsys.readouterr().out.splitlines() == [lines[0], lines[6], lines[12]]

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("train both --data x --upadtes 3", "--updates"),
            ("trian both --data x", "`steerflow train`"),
            ("train", "the job wrong"),
            ("data list --help", "the job wrong"),
            ("train both --data x --seed one", "seed"),
            ("launch jobs.toml", "is a launch itself"),
        ],
    )
    def test_a_wrong_command_is_refused_before_anything_is_started(self, command, said, capsys):
        text = f"[[job]]\nname = 'first'\ncommand = 'data list'\n[[job]]\nname = 'wrong'\ncommand = '{command}'\n"
        Path("jobs.toml").write_text(text)
        with pytest.raises(SystemExit) as end:
            main.main(["launch", "jobs.toml"])
        assert end.value.code == 2
        captured = capsys.readouterr()
        assert said in captured.out + captured.err
        assert not Path("launches").exists()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "steerflow launch --example"),
            (["none.toml"], "Could not read none.toml"),
            (["jobs.toml", "--address", "auto"], "--on ray"),
            (["jobs.toml", "--on", "slurm"], "no sbatch here" if find_spec("submitit") else "steerflow[slurm]"),
        ],
    )
    def test_wrong_uses_say_what_to_type(self, arguments, said, monkeypatch, capsys):
        # Where there is a SLURM, nothing must reach it.
        monkeypatch.setenv("PATH", str(Path.cwd()))
        Path("jobs.toml").write_text("[[job]]\ncommand = 'data list'")
        with pytest.raises(SystemExit) as end:
            main.main(["launch", *arguments])
        assert end.value.code == 2
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize(("on", "package"), [("ray", "ray"), ("slurm", "submitit")])
    def test_a_missing_extra_is_named(self, on, package, monkeypatch, capsys):
        Path("jobs.toml").write_text("[[job]]\ncommand = 'data list'")
        monkeypatch.setattr("steerflow.cli.launch.find_spec", lambda name: None)
        with pytest.raises(SystemExit):
            main.main(["launch", "jobs.toml", "--on", on])
        assert (
            f"needs {package}, which is not installed. Type: pip install 'steerflow[{on}]'" in capsys.readouterr().err
        )

    @pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
    def test_no_engine_is_started_where_all_is_done(self, monkeypatch, capsys):
        Path("jobs.toml").write_text("[[job]]\ncommand = 'data list'")
        Path("launches/jobs").mkdir(parents=True)
        Path("launches/jobs/data.json").write_text(json.dumps(vars(Record("steerflow data list", "before", "done"))))
        monkeypatch.setattr("steerflow.cli.launch._ends", lambda *_: pytest.fail("started"))
        main._steerflow(["launch", "jobs.toml", "--on", "ray"])
        assert capsys.readouterr().out == "launches/jobs\n"


def test_a_job_is_done_while_its_command_is_the_same_and_its_result_is_there(tmp_path):
    place = Place(tmp_path, tmp_path, "now")
    first, second, other = (
        Job("a", "a", ("data", "list")),
        Job("b", "b", ("report", "x"), ("a",)),
        Job("c", "c", ("doctor",)),
    )
    for job in (first, second, other):
        place.record(job).write_text(json.dumps(vars(Record(job.command, "before", "done", result=job.name))))
        (tmp_path / job.name).touch()
    jobs = [first, second, other]
    assert _not_done(jobs, place) == []
    assert not is_done(Job("c", "c", ("doctor", "--json")), place)
    # What needs a job that is run again is run again.
    (tmp_path / "a").unlink()
    assert _not_done(jobs, place) == [first, second]
    (tmp_path / "a").touch()
    place.record(other).write_text("cut sho")
    assert _not_done(jobs, place) == [other]


def test_a_job_whose_needs_failed_is_skipped(tmp_path):
    job = Job("b", "b", ("doctor",), ("a",))
    failed = Record("x", "now", "failed")
    assert blocked(job, Place(tmp_path, tmp_path, "now"), {"a": failed}).state == "skipped"
    assert blocked(job, Place(tmp_path, tmp_path, "now"), {"a": Record("x", "now", "done")}) is None


@pytest.fixture
def place(data, tmp_path):
    (tmp_path / "launches").mkdir()
    return Place(tmp_path, tmp_path / "launches", "now", environment=data)


def test_a_job_waits_for_a_process_that_holds_its_run_folder(place):
    job = Job("train", "train", tuple(shlex.split(TRAIN.replace("4000", "50").format(seed=0))))
    held = threading.Event()

    def hold():
        with locked(place.directory / "runs/0"):
            held.set()
            while not place.log(job).exists() or "Another process" not in place.log(job).read_text():
                time.sleep(0.02)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    held.wait()
    record = run_job(job, place, last=True)
    assert (record.state, record.exit, record.attempts, record.result) == ("done", 0, 1, "runs/0")
    log = place.log(job).read_text()
    assert log.count(f"$ {job.command}") == 2
    assert "Another process is writing runs/0" in log


def test_a_job_that_fails_says_the_last_words_of_its_log(place):
    record = run_job(Job("x", "x", ("report", "nowhere")), place, last=False)
    assert (record.state, record.exit) == ("failed", 2)
    assert record.problem.startswith("steerflow: There is no run folder nowhere.")
    assert Record.read(place.folder / "x.json") == record


def test_a_node_without_the_files_is_named(tmp_path):
    record = run_job(Job("x", "x", ("doctor",)), Place(tmp_path / "none", tmp_path / "none/launches", "now"), last=True)
    assert record.state == "failed"
    assert f"is not there on {socket.gethostname()}: all nodes must see the same files" in record.problem


def checkpoint(directory, seed):
    """Whether the run has a checkpoint and is not through."""
    return any((directory / f"runs/{seed}/checkpoints/policy").glob("[0-9]*/meta.json"))


@needs_proc
def test_a_killed_command_is_tried_again_and_a_stopped_launch_stops_it(data, typed, tmp_path):
    (tmp_path / "jobs.toml").write_text(JOBS)
    with mark() as variable:
        with launched("jobs.toml", cwd=tmp_path, **data, **variable) as (process, said):
            wait_for(lambda: checkpoint(tmp_path, 0), process, said)
            (child,) = [p for p in marked(variable) if p != process.pid]
            os.kill(child, signal.SIGKILL)
            wait_for(lambda: checkpoint(tmp_path, 1), process, said)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        assert "The same command continues" in said()
        # The command that ran saved its work and is gone.
        assert marked(variable) == []
    assert (
        "stopped by SIGTERM. The last checkpoint is in runs/1." in (tmp_path / "launches/jobs/train-1.log").read_text()
    )
    first = records(tmp_path)["train-0"]
    assert (first.state, first.attempts) == ("done", 2)
    again = steerflow("launch", "jobs.toml", cwd=tmp_path, **data)
    assert again.stdout == "launches/jobs\n"
    assert records(tmp_path)["train-0"] == first
    assert artefacts(tmp_path) == artefacts(typed)


@needs_proc
def test_a_command_ends_with_the_process_that_started_it(data, place):
    job = Job("train", "train", tuple(shlex.split(TRAIN.replace("4000", "10000000").format(seed=0))))
    code = f"""
import sys
from pathlib import Path
from steerflow.launch.work import Job, Place, run_job
run_job(Job("train", "train", {job.arguments!r}), Place(Path({str(place.directory)!r}), Path({str(place.folder)!r}), "now"), True)
"""
    with mark() as variable:
        with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **data, **variable}) as worker:
            wait_for(lambda: checkpoint(place.directory, 0), worker, lambda: "")
            worker.kill()
        end = time.monotonic() + 60
        while marked(variable):
            assert time.monotonic() < end
            time.sleep(0.05)
    assert "stopped by SIGTERM" in place.log(job).read_text()


@pytest.fixture
def ray_home(tmp_path):
    """Variables that keep Ray's token, which it writes to the home folder, out of it: one for this test's Ray alone."""
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


@contextmanager
def ray_node(folder, *arguments, **variable):
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, "--num-cpus=1", "--num-gpus=0",
               "--object-store-memory=80000000", f"--plasma-directory={folder}", "--disable-usage-stats"]  # fmt: skip
    quick = {"RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "1000",
             "RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "3"}  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **quick, **variable}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield
    finally:
        kill({name: value for name, value in variable.items() if name == "STEERFLOW_TEST_MARK"})


@needs_ray
@needs_proc
@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_ends_with_the_same_bytes(data, ray_home, typed, tmp_path):
    data = {**data, **ray_home}
    (tmp_path / "jobs.toml").write_text(JOBS)
    # Ray's sockets have long names for which there are 107 characters.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    head = [
        "--head",
        f"--node-ip-address={host}",
        f"--port={port}",
        f"--temp-dir={folder}",
        "--include-dashboard=false",
    ]
    try:
        with (
            mark() as here,
            mark() as there,
            ray_node(folder, *head, **data, **here),
            ray_node(folder, f"--address={address}", f"--node-ip-address={host}", **data, **there),
            launched("jobs.toml", "--on", "ray", "--address", address, cwd=tmp_path, **data) as (process, said),
        ):
            # A node loses power while it trains.
            wait_for(lambda: any(checkpoint(tmp_path, seed) for seed in seeds(there)), process, said)
            kill(there)
            assert process.wait(120) == 0, said()
    finally:
        shutil.rmtree(folder)
    found = records(tmp_path)
    assert [record.state for record in found.values()] == ["done", "done"]
    assert sorted(record.attempts for record in found.values()) == [1, 2]
    assert artefacts(tmp_path) == artefacts(typed)
    assert re.search(r"^train +2 +1 ", said(), re.MULTILINE)


@needs_ray
@needs_proc
def test_ray_on_this_machine_skips_what_needs_a_failure_and_stops_what_it_started(data, ray_home, tmp_path):
    (tmp_path / "jobs.toml").write_text(
        "[[job]]\nname = 'bad'\ncommand = 'report nowhere'\n[[job]]\nname = 'after'\nneeds = 'bad'\ncommand = 'data list'\n"
        f"[[job]]\ncommand = '{TRAIN.replace('4000', '10000000').format(seed=0)}'\n"
    )
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    try:
        with mark() as variable:
            environment = {**data, **ray_home, **variable, "RAY_TMPDIR": folder}
            with launched("jobs.toml", "--on", "ray", cwd=tmp_path, **environment) as (process, said):
                bad = tmp_path / "launches/jobs/bad.json"
                wait_for(
                    lambda: checkpoint(tmp_path, 0) and bad.exists() and '"failed"' in bad.read_text(), process, said
                )
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 130, said()
            end = time.monotonic() + 60
            while marked(variable):
                assert time.monotonic() < end, marked(variable)
                time.sleep(0.1)
    finally:
        shutil.rmtree(folder)
    assert "stopped by SIGTERM. The last checkpoint is in runs/0." in (tmp_path / "launches/jobs/train.log").read_text()
    assert "The same command continues" in said()
    assert not (tmp_path / "launches/jobs/after.log").exists()


@needs_ray
def test_jobs_for_which_no_node_is_large_enough_are_refused(capsys):
    from steerflow.launch.ray import _require_room

    nodes = [{"CPU": 4.0, "memory": 8e9}, {"CPU": 2.0, "GPU": 1.0, "memory": 32e9}]
    _require_room(
        [Job("x", "x", (), (), Resources(cpus=4, memory_gb=8)), Job("y", "y", (), (), Resources(gpus=1))], nodes, None
    )
    large = [Job("z", "z", (), (), Resources(cpus=4, gpus=1))]
    with pytest.raises(SteerflowError, match="No node has what z asks for"):
        _require_room(large, nodes, None)
    _require_room(large, nodes, "auto")
    assert "It waits until" in capsys.readouterr().err


needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")


@pytest.fixture
def slurm(tmp_path, data):
    """The variables under which a fake SLURM takes jobs, and the folder with its state."""
    state, programs = tmp_path / "slurm", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/fake_slurm.py {name} "$@"\n')
        (programs / name).chmod(0o755)
    with mark() as variable:
        yield (
            {**data, **variable, "FAKE_SLURM": str(state), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
            state,
        )


@needs_submitit
@needs_proc
def test_slurm_queues_jobs_once_and_again_when_their_time_is_out(slurm, typed, tmp_path):
    environment, state = slurm
    resources = "cpus = 2\ngpus = 1\nmemory_gb = 1.5\nhours = 0.5\n"
    text = JOBS.replace('[[job]]\nname = "look"', f'{resources}\n[[job]]\nname = "look"')
    (tmp_path / "jobs.toml").write_text(text + '\n[slurm]\npartition = "short"\n')
    with launched("jobs.toml", "--on", "slurm", cwd=tmp_path, **environment) as (process, said):
        wait_for(lambda: "In SLURM's queue: 1 2." in said(), process, said)
        wait_for(lambda: checkpoint(tmp_path, 0), process, said)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "to cancel them: scancel 1 2." in said()

    train, look = ((state / f"{number}.sh").read_text() for number in (1, 2))
    for option in (
        "array=0-1%2",
        "cpus-per-task=2",
        "gpus-per-node=1",
        "mem=1536M",
        "time=30",
        "partition=short",
        "requeue",
    ):
        assert f"\n#SBATCH --{option}\n" in train
    assert "\n#SBATCH --dependency=afterok:1_0:1_1\n" in look
    assert "\n#SBATCH --kill-on-invalid-dep=yes\n" in look
    assert "srun " in train
    assert " --cpus-per-task=2 " in train

    with launched("jobs.toml", "--on", "slurm", cwd=tmp_path, **environment) as (process, said):
        # The first went on meanwhile and is not queued a second time; the second runs out of time.
        wait_for(lambda: checkpoint(tmp_path, 1), process, said)
        os.kill(int((state / "1_1.pid").read_text()), signal.SIGUSR2)
        assert process.wait(120) == 0, said()
    assert len(list(state.glob("*.sh"))) == 2
    found = records(tmp_path)
    assert (found["train-0"].attempts, found["train-1"].attempts) == (1, 2)
    assert (
        "stopped by SIGTERM. The last checkpoint is in runs/1." in (tmp_path / "launches/jobs/train-1.log").read_text()
    )
    assert artefacts(tmp_path) == artefacts(typed)


@needs_submitit
def test_slurm_jobs_that_are_never_through_in_time_say_so(tmp_path):
    from steerflow.launch.slurm import _Submitted

    errors = tmp_path / "1_0_log.err"
    handle = SimpleNamespace(state="FAILED", job_id="1", paths=SimpleNamespace(stderr=errors))
    job = Job("long", "train", ("train",), resources=Resources(hours=0.5))
    submitted = _Submitted(job, Place(tmp_path, tmp_path, "now"), handle)
    write_json(submitted.place.record(job), asdict(Record(job.command, "now", "running", attempts=4)))
    just_now, long_ago = time.monotonic(), time.monotonic() - 1000
    assert submitted.end(just_now) is None
    assert submitted.end(long_ago).problem == f"SLURM says FAILED of job 1; see also {errors}"
    # What submitit raises in the job.
    errors.write_text("UncompletedJobError: Job not requeued because: timed-out too many times.\n")
    ended = submitted.end(just_now)
    assert (ended.state, ended.attempts) == ("failed", 4)
    assert "not through within its 0.5 hours" in ended.problem


@needs_submitit
@needs_proc
def test_slurm_does_not_start_what_needs_a_failure(slurm, tmp_path):
    environment, _ = slurm
    (tmp_path / "jobs.toml").write_text(
        "[[job]]\ncommand = 'report nowhere'\n[[job]]\nname = 'after'\nneeds = 'report'\ncommand = 'data list'\n"
    )
    done = steerflow("launch", "jobs.toml", "--on", "slurm", cwd=tmp_path, code=1, **environment)
    assert "✗ report: steerflow: There is no run folder nowhere." in done.stderr
    assert "continue  steerflow report nowhere" in done.stderr
    assert re.search(r"after +0 +1 *$", done.stderr, re.MULTILINE)
    assert not (tmp_path / "launches/jobs/after.log").exists()


@needs_submitit
@needs_proc
def test_what_slurm_does_not_know_is_refused_before_anything_is_submitted(slurm, tmp_path):
    environment, state = slurm
    (tmp_path / "jobs.toml").write_text("slurm.partiton = 'x'\n[[job]]\ncommand = 'data list'\n")
    done = steerflow("launch", "jobs.toml", "--on", "slurm", cwd=tmp_path, code=2, **environment)
    assert "partiton" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(state.glob("*.sh"))
