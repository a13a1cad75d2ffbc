"""A run on a real SLURM cluster, told apart from one on this machine by nothing that it made.

By hand: `pytest -m by_hand tests/test_slurm.py`, on a cluster whose jobs this user may change.
docs/howto/cluster.md says how to have one of one node.
"""

import re
import subprocess
import threading
import time
from pathlib import Path

import nbformat
import pytest
import yaml

from ccella.core import CcellaError, read_json
from ccella.generators.trainer import state_step
from ccella.recipe import load_recipe
from ccella.studies.engine import GRID, execute_run, failure_text, run_engine
from ccella.studies.run import Run, hold

pytestmark = [pytest.mark.slow, pytest.mark.by_hand]
DUMMY = """import os, time
from pathlib import Path
from ccella.core import CcellaError, write_json
if what == "late" and not Path("kept").exists():
    Path("kept").touch()
    time.sleep(1000)
if what == "stopped":
    time.sleep(1000)
if what == "large":
    held = [bytearray(os.urandom(2**20)) * 64 for _ in range(200)]
if what == "broken":
    raise CcellaError("weights.pt: found no such file, expected weights; correct the path")
write_json(Path("metrics") / f"{what}.json", {"device": device})"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Skip where there is no cluster."""
    try:
        subprocess.run(["sinfo"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no SLURM here (sinfo does not answer); docs/howto/cluster.md says how to have one")


def write_profile(folder: Path, retries: int, **of_rules) -> Path:
    """The shipped profile for a small node without a card, with other minutes and memory for some rules."""
    profile = yaml.safe_load((GRID / "profiles" / "slurm" / "config.yaml").read_text())
    profile["default-resources"] |= {"gpu": 0, "mem_mb": 3000, "runtime": 60}
    profile["set-resources"] = {"table": {"runtime": 60}, **of_rules}
    profile["retries"] = retries
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(profile))
    return folder


def wait_for(found, seconds: float = 3600.0):
    """Wait until a function finds something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        it = found()
        if it:
            return it
        time.sleep(1)
    raise AssertionError("waited in vain")


def job_of(run: Run, rule: str) -> str | None:
    """The number of the last job that was sent for a rule."""
    log = run.folder / "logs" / "engine.log"
    told = log.read_text() if log.is_file() else ""
    sent = re.findall(rf"SLURM jobid (\d+) \(log: \S+/rule_{rule}/", told)
    return sent[-1] if sent else None


def state_of(job: str) -> str:
    return subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True).stdout.strip()


def dummies(folder: Path, names: list[str]) -> tuple[Run, dict]:
    """A plan of notebooks that end as their names say."""
    parameters = nbformat.v4.new_code_cell('run = device = what = ""\nthreads = 1', metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(DUMMY)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(notebook, folder / "dummy.ipynb")
    cells = {}
    for name in names:
        tracked = {"parameters": {"what": name}}
        cells[name] = {"executed": f"cells/{name}/dummy.ipynb", "after": [], "threads": 1, "tracked": tracked}
    return Run(folder / "run"), {"notebooks": str(folder), "cells": cells, "page": {}}


def do(run: Run, plan: dict, profile: Path) -> list[str]:
    """Run all notebooks of a plan as jobs."""
    lock = hold(run.folder / "logs" / "engine.lock")
    try:
        return run_engine(run.folder, plan, list(plan["cells"]), 1, "auto", lock, profile)
    finally:
        lock.close()


def test_how_jobs_end(tmp_path):
    """A line that names the stage, how it ended and what to do; what could be done is done."""
    of_rules = {"late": {"runtime": 1}, "large": {"mem_mb": 1000}, "refused": {"slurm_partition": "'moon'"}}
    profile = write_profile(tmp_path / "profile", retries=0, **of_rules)
    run, plan = dummies(tmp_path, ["late", "stopped", "large", "broken", "refused", "fine"])

    def cancel():
        job = wait_for(lambda: job_of(run, "stopped"))
        wait_for(lambda: state_of(job) == "RUNNING")
        subprocess.run(["scancel", job], check=True)

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(CcellaError, match=r"stage \w+ failed: .* \(4 more failed: "):
        do(run, plan, profile)
    told = {name: failure_text(run.folder, plan["cells"], name) for name in plan["cells"] if name != "fine"}
    assert told["late"].startswith("its job reached its time limit; raise its runtime in the profile; what it kept")
    assert told["stopped"].startswith("its job was cancelled; what it kept")
    assert "killed, as happens when memory is short; give it more (on a cluster mem_mb in the profile)" in told["large"]
    assert told["broken"] == "weights.pt: found no such file, expected weights; correct the path"
    assert "invalid partition" in told["refused"]
    assert read_json(run.metrics("fine"))["device"] == "auto", "the device is found where the job runs"


def test_work_longer_than_a_job_goes_on_by_itself(tmp_path):
    """A job that met its time limit is sent again, and told as failed no longer when it ends well."""
    profile = write_profile(tmp_path / "profile", retries=1, late={"runtime": 1})
    run, plan = dummies(tmp_path, ["late"])
    assert do(run, plan, profile) == ["late"]
    log = (run.folder / "logs" / "engine.log").read_text()
    assert re.findall(r"SLURM status is: '(\w+)'", log) == ["TIMEOUT"]


SMALL = {
    "cohort": {"exams": 24, "fresh": 4, "other": 0},
    "encode": {"reconstructions": 2},
    "train": {"processes": 2},
    "generate": {"batch": 4},
}
RECIPE = load_recipe("tiny", {"train.steps": 300, "train.save_every": 20, "train.eval_every": 100})


def make(run: Run, jobs: int = 1, **more) -> list[str]:
    """Bring a run up to date, to its synthetic exams."""
    parameters = SMALL | {"generate": SMALL["generate"] | {"jobs": jobs}}
    return execute_run(run, RECIPE, ["generate"], parameters, 1, "auto", **more)


def steps_of(run: Run) -> int:
    log = run.model / "metrics.csv"
    return len(log.read_text().splitlines()) - 1 if log.is_file() else 0


def cancel_training(run: Run, kept: list) -> None:
    """Cancel a training's job when it has kept some steps, and tell how many."""
    wait_for(lambda: steps_of(run) > 30)
    subprocess.run(["scancel", job_of(run, "train")], check=True)
    kept.append(state_step(run.model, {}))


def made(run: Run) -> dict[str, bytes]:
    """Weights and synthetic exams, as bytes by file."""
    files = [run.model / "model.safetensors", *(path for path in run.synthetic.rglob("*") if path.is_file())]
    return {path.relative_to(run.folder).as_posix(): path.read_bytes() for path in files}


def figures(run: Run) -> dict[str, dict]:
    """The metrics of the stages, without what is of the moment or of the machine."""
    passing = ("seconds", "train_seconds", "provenance", "parameters")
    found = {}
    for stage, metrics in run.results().items():
        found[stage] = {name: value for name, value in metrics.items() if name not in passing}
    return found


def test_a_run_whose_job_was_cancelled_is_the_run(tmp_path, monkeypatch):
    """A training of two processes, cancelled, goes on by itself, and two jobs generate: all as on this machine."""
    monkeypatch.chdir(tmp_path)
    here, there = Run("here"), Run("there")
    profile, kept = write_profile(tmp_path / "profile", retries=1), []
    threading.Thread(target=cancel_training, args=(there, kept), daemon=True).start()
    done = make(there, jobs=2, profile=profile)
    assert set(done) == {"cohort", "encode", "train", "generate_1", "generate_2", "generate"}
    log = (there.folder / "logs" / "engine.log").read_text()
    assert re.findall(r"SLURM status is: '(\w+)'", log) == ["CANCELLED"]
    assert 20 <= kept[0] < 300
    assert make(there, jobs=2, profile=profile) == []

    make(here)
    assert figures(there) == figures(here)
    assert made(there) == made(here)
