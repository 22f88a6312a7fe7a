"""A SLURM of one node for tests: this file, called with sbatch, srun, sacct or scontrol as first word.

Its state is files in $FAKE_SLURM: JOB.sh is what was submitted, JOB.state its state, JOB.pid the process that srun
became. Jobs wait for their dependencies, run, and run again where ``scontrol requeue`` was called meanwhile.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["FAKE_SLURM"])


def write(path, text):
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.rename(path)


def options(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))


def sbatch(path):
    number = 1 + len(list(ROOT.glob("*.sh")))
    script = Path(path).read_text()
    (ROOT / f"{number}.sh").write_text(script)
    last = int(re.match(r"0-(\d+)", options(script).get("array", "0-0"))[1])
    ids = [f"{number}_{task}" for task in range(last + 1)] if "array" in options(script) else [str(number)]
    for job in ids:
        write(ROOT / f"{job}.state", "PENDING")
    subprocess.Popen(
        [sys.executable, __file__, "run", *ids],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    print(f"Submitted batch job {number}")


def run(*jobs):
    script = ROOT / f"{jobs[0].split('_')[0]}.sh"
    needs = options(script.read_text()).get("dependency", "").split(":")[1:]
    while any(state(need) in ("PENDING", "RUNNING", "REQUEUED") for need in needs):
        time.sleep(0.05)
    for job in jobs:
        if any(state(need) != "COMPLETED" for need in needs):
            write(ROOT / f"{job}.state", "CANCELLED")
            continue
        array, _, task = job.partition("_")
        ids = {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {}
        while True:
            write(ROOT / f"{job}.state", "RUNNING")
            code = subprocess.call(
                ["bash", script], env={**os.environ, "SLURM_JOB_ID": job.split("_")[0], "JOB": job, **ids}
            )
            if state(job) != "REQUEUED":
                break
        write(ROOT / f"{job}.state", "FAILED" if code else "COMPLETED")


def state(job):
    return (ROOT / f"{job}.state").read_text()


def srun(*words):
    """Becomes the command that follows its options; of these, --output and --error take a value as their next word."""
    words = list(words)
    while words[0].startswith("-"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            place = words.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
            place = place.replace("%A", os.environ["SLURM_JOB_ID"])
            file = os.open(
                place.replace("%a", os.environ.get("SLURM_ARRAY_TASK_ID", "")), os.O_CREAT | os.O_APPEND | os.O_WRONLY
            )
            os.dup2(file, 1 if option == "--output" else 2)
    write(ROOT / f"{os.environ['JOB']}.pid", str(os.getpid()))
    os.execvp(words[0], words)


def sacct(*_):
    print("JobID|State|NodeList")
    for path in ROOT.glob("*.state"):
        print(f"{path.stem}|{path.read_text()}|here")


def scontrol(action, job):
    assert action == "requeue"
    write(ROOT / f"{job}.state", "REQUEUED")


if __name__ == "__main__":
    {"sbatch": sbatch, "srun": srun, "sacct": sacct, "scontrol": scontrol, "run": run}[sys.argv[1]](*sys.argv[2:])
