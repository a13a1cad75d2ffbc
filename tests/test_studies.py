"""Studies on the engine: killed and resumed, failing in part, on a GPU in turns, on a cluster, and with many runs."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch

from ccella.core import CcellaError, read_json, write_json
from ccella.exams.cohort import Cohort
from ccella.organs.prostate.phantom import write_phantoms
from ccella.recipe import load_recipe
from ccella.studies.adaptation import (
    AdaptationParameters,
    adaptation_parameters,
    analyse_adaptation,
    make_sets,
    plan_adaptation,
    run_adaptation,
    run_training,
    trainings,
    write_tables,
)
from ccella.studies.engine import engine_command, run_engine, write_plan
from ccella.studies.run import ENGINE_PID, Run, hold

OVERRIDES = {"name": "adapt", "classifier.epochs": 1, "classifier.target_epochs": 1}
RECIPE = load_recipe("tiny", OVERRIDES)
DEFAULTS = """name = broken = ''
seconds = 0.0
run = device = '.'
threads = 1"""
DUMMY = """import json, os, time
begun = time.time()
assert name != broken, "broken as asked"
time.sleep(seconds)
os.makedirs("metrics", exist_ok=True)
found = {"begun": begun, "ended": time.time(), "threads": os.environ["OMP_NUM_THREADS"]}
json.dump(found, open(f"metrics/{name}.json", "w"))"""


def write_dummy(path: Path) -> None:
    """Write a notebook that only waits, and says when it began and ended."""
    parameters = nbformat.v4.new_code_cell(DEFAULTS, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(DUMMY)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(notebook, path)


def dummies(folder: Path, after: dict[str, list[str]], broken: str = "", seconds: float = 0.0) -> tuple[Run, dict]:
    """A plan of notebooks that only wait, by name with what each waits for."""
    folder.mkdir()
    write_dummy(folder / "dummy.ipynb")
    cells = {}
    for name, former in after.items():
        parameters = {"name": name, "broken": broken, "seconds": seconds}
        cells[name] = {
            "executed": f"cells/{name}/dummy.ipynb",
            "after": former,
            "threads": 1,
            "tracked": {"parameters": parameters},
        }
    return Run(folder / "run"), {"notebooks": str(folder), "cells": cells, "page": {}}


def engine(run: Run, plan: dict, device: str = "cpu", **more) -> list[str]:
    """Run a plan's cells on two cores; give the names of those that had to run."""
    lock = hold(run.folder / "logs" / "engine.lock")
    try:
        return run_engine(run.folder, plan, list(plan["cells"]), 2, device, lock, **more)
    finally:
        lock.close()


def spans(run: Run, names) -> list[tuple[float, float]]:
    """When each dummy began and ended, the first to begin first."""
    found = [read_json(run.metrics(name)) for name in names]
    for metrics in found:
        assert metrics["threads"] == "1", "a job's torch takes more threads than the job has"
    return sorted((metrics["begun"], metrics["ended"]) for metrics in found)


@pytest.mark.slow
def test_a_failed_run_stops_only_what_starts_from_it(tmp_path):
    """What does not need the failed run is done; once mended, what was changed runs again."""
    after = {"first": [], "second": ["first"], "other": [], "last": ["other"]}
    run, plan = dummies(tmp_path / "d", after, broken="first")
    with pytest.raises(CcellaError, match="stage first failed: AssertionError: broken as asked"):
        engine(run, plan)
    done = {name for name in after if run.metrics(name).is_file()}
    assert done == {"other", "last"}
    for cell in plan["cells"].values():
        cell["tracked"]["parameters"]["broken"] = ""
    assert set(engine(run, plan)) == set(after), "what was changed did not run again"


@pytest.mark.slow
def test_a_gpu_is_taken_in_turns_and_cores_are_not(tmp_path):
    """Two jobs on one GPU would fill its memory; two on two cores that wait for each other would waste one."""
    names = {"a": [], "b": []}
    run, plan = dummies(tmp_path / "gpu", names, seconds=1.5)
    engine(run, plan, "cuda:0")  # the device's name decides; the notebooks here only wait
    (_, end), (begin, _) = spans(run, names)
    assert begin >= end

    run, plan = dummies(tmp_path / "cores", names, seconds=6.0)
    engine(run, plan)
    (_, end), (begin, _) = spans(run, names)
    assert begin < end


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["local", "gpu", "slurm"])
def test_a_study_of_full_size_dry_run(tmp_path, profile):
    """102 trainings, what they share and the table; a slot of a GPU in the profiles that have GPUs, and only there."""
    run = Run(tmp_path / "full")
    request = {"adapt": AdaptationParameters().model_dump(mode="json")}
    plan = plan_adaptation(run, load_recipe("ccellapp"), request, 8)
    written = write_plan(run.folder, plan, "cuda")
    command = engine_command(run.folder, written, ["table"], 8, profile, "--dry-run")
    environment = {name: value for name, value in os.environ.items() if name != ENGINE_PID}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^total +104$", told, re.MULTILINE), told[-2000:]
    _, after = told.split("rule bpMRI_synthetic_6p25_t2:")
    job, _, _ = after.partition("\n\n")
    assert "metrics/bpMRI_synthetic_0_t2.json" in job
    assert "logs/bpMRI_synthetic_6p25_t2.log" in job
    assert ("gpu=1" in job) == (profile in ("gpu", "slurm"))
    assert ("slurm_partition=gpu" in job) == (profile == "slurm")


def test_an_unknown_profile_is_refused(tmp_path):
    run, plan = dummies(tmp_path / "d", {"a": []})
    with pytest.raises(CcellaError, match="profile: found 'moon', expected one of gpu, local, slurm, or a folder"):
        engine(run, plan, profile="moon")


def write_synthetic(folder: Path, source: Cohort) -> None:
    """Write a cohort of a source's own exams under other names, as if each was generated from the one it is."""
    beside = {}
    for column in (*source.sequences, "gland", "report", "truth"):
        beside[column] = [path and f"../{source.root.name}/{path}" for path in source.table[column]]
    table = source.table.assign(
        **beside,
        kind="synthetic",
        source_exam_id=source.table.exam_id,
        exam_id="S-" + source.table.exam_id,
        label_generated=source.table.label,
    )
    folder.mkdir()
    Cohort(folder, table, source.sequences, source.label_rule).write()


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A small study of one group and trial, its synthetic exams ready."""
    root = tmp_path_factory.mktemp("study")
    source = write_phantoms(root / "source", 48, 1, RECIPE.grid.shape, 3)
    write_synthetic(root / "made", source)
    return {
        "here": str(source.root),
        "synthetic": str(root / "made"),
        "there_exams": 48,
        "test": 24,
        "trials": 1,
        "fractions": [1.0],
        "sequences": {"bpMRI": ["axt2", "highb", "adc"]},
    }


def study_in_a_process(run: Run, asked: dict) -> subprocess.Popen:
    """Ask for a study in a process that can be killed."""
    call = f"""
from ccella.recipe import load_recipe
from ccella.studies.adaptation import run_adaptation

run_adaptation({str(run.folder)!r}, load_recipe("tiny", {OVERRIDES!r}), {asked!r}, cores=2)
"""
    return subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def times(run: Run, names) -> dict[str, int]:
    """When the metrics of each named run were written."""
    return {name: run.metrics(name).stat().st_mtime_ns for name in names}


def finished(run: Run) -> dict[str, int]:
    """The runs that the engine has seen end, with the time of their metrics."""
    log = run.folder / "logs" / "engine.log"
    told = log.read_text() if log.is_file() else ""
    return times(run, re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", told, re.MULTILINE))


def one_after_another(run: Run, asked: dict, names) -> None:
    """Make a study in this process, without the engine."""
    torch.set_num_threads(1)
    RECIPE.dump(run.folder / "recipe.yaml")
    parameters = adaptation_parameters(asked, {}).model_dump(mode="json")
    write_json(run.folder / "study.json", {"adapt": parameters, "show_reports": False})
    make_sets(run)
    for name in names:
        run_training(run, name)
    write_tables(analyse_adaptation(run), run.folder)


@pytest.mark.slow
def test_a_killed_study_resumes_with_nothing_lost_and_nothing_done_twice(tmp_path, asked):
    """SIGKILL to the engine's caller after a run is done and while others are in the middle.

    What follows equals the runs called one after another.
    """
    run, whole = Run(tmp_path / "killed"), Run(tmp_path / "whole")
    names = list(trainings(AdaptationParameters(**asked)))
    process = study_in_a_process(run, asked)
    while len(finished(run)) < 2:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    kill(process)
    time.sleep(3)  # the engine and its notebooks see that their caller is gone
    before = finished(run)
    assert "ready" in before
    assert 2 <= len(before) < 7
    time.sleep(2)
    assert finished(run) == before, "the study went on unseen"

    resumed = run_adaptation(run, None, {}, cores=2)
    assert set(resumed) == {"ready", *names, "table"} - set(before)
    assert times(run, before) == before
    assert run_adaptation(run, None, {}, cores=2) == []

    one_after_another(whole, asked, names)
    files = [f"cells/{name}/predictions.csv" for name in names]
    for file in [*files, "cells.csv", "pairs.csv"]:
        assert (run.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.by_hand
def test_a_hundred_short_runs(tmp_path):
    """102 runs of a second on two cores take less than five minutes."""
    names = {f"r{number}": [] for number in range(102)}
    run, plan = dummies(tmp_path / "d", names, seconds=1.0)
    began = time.perf_counter()
    assert len(engine(run, plan)) == 102
    took = time.perf_counter() - began
    print(f"102 runs of one second in {took:.0f} s")
    assert took < 300
