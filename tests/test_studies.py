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

RECIPE = load_recipe("tiny", {"name": "adapt", "classifier.epochs": 1, "classifier.target_epochs": 1})
DUMMY = """import json, os, time
begun = time.time()
assert name != broken, "broken as asked"
time.sleep(seconds)
os.makedirs("metrics", exist_ok=True)
found = {"begun": begun, "ended": time.time(), "threads": os.environ["OMP_NUM_THREADS"]}
json.dump(found, open(f"metrics/{name}.json", "w"))"""


def dummies(folder: Path, after: dict[str, list[str]], broken: str = "", seconds: float = 0.0) -> tuple[Run, dict]:
    """A plan of notebooks that only wait, by name with what each waits for."""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "name = broken = ''\nseconds = 0.0\nrun = device = '.'\nthreads = 1", metadata={"tags": ["parameters"]}
            ),
            nbformat.v4.new_code_cell(DUMMY),
        ]
    )
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "python3", "language": "python"}
    folder.mkdir()
    nbformat.write(notebook, folder / "dummy.ipynb")
    cells = {
        n: {
            "executed": f"cells/{n}/dummy.ipynb",
            "after": a,
            "threads": 1,
            "tracked": {"parameters": {"name": n, "broken": broken, "seconds": seconds}},
        }
        for n, a in after.items()
    }
    return Run(folder / "run"), {"notebooks": str(folder), "cells": cells, "page": {}}


def engine(run: Run, plan: dict, device: str = "cpu", **more) -> list[str]:
    lock = hold(run.folder / "logs" / "engine.lock")
    try:
        return run_engine(run.folder, plan, list(plan["cells"]), 2, device, lock, **more)
    finally:
        lock.close()


def spans(run: Run, names) -> list[tuple[float, float]]:
    found = [read_json(run.metrics(n)) for n in names]
    assert {f["threads"] for f in found} == {"1"}, "a job's torch takes more threads than the job has"
    return sorted((f["begun"], f["ended"]) for f in found)


def test_a_failed_run_stops_only_what_starts_from_it(tmp_path):
    run, plan = dummies(
        tmp_path / "d", {"first": [], "second": ["first"], "other": [], "last": ["other"]}, broken="first"
    )
    with pytest.raises(CcellaError, match="stage first failed: AssertionError: broken as asked"):
        engine(run, plan)
    assert {n for n in plan["cells"] if run.metrics(n).is_file()} == {"other", "last"}
    for cell in plan["cells"].values():
        cell["tracked"]["parameters"]["broken"] = ""
    assert set(engine(run, plan)) == set(plan["cells"]), "what was changed did not run again"


def test_a_gpu_is_taken_in_turns_and_cores_are_not(tmp_path):
    names = {"a": [], "b": []}
    run, plan = dummies(tmp_path / "gpu", names, seconds=1.5)
    engine(run, plan, "cuda:0")  # the device's name decides; the notebooks here only wait
    (_, end), (begin, _) = spans(run, names)
    assert begin >= end
    run, plan = dummies(tmp_path / "cores", names, seconds=6.0)
    engine(run, plan)
    (_, end), (begin, _) = spans(run, names)
    assert begin < end


@pytest.mark.parametrize("profile", ["local", "gpu", "slurm"])
def test_a_study_of_full_size_dry_run(tmp_path, profile):
    """102 trainings, what they share and the table; a slot of a GPU in the profiles that have GPUs, and only there."""
    run, recipe = Run(tmp_path / "full"), load_recipe("ccellapp")
    plan = plan_adaptation(run, recipe, {"adapt": AdaptationParameters().model_dump(mode="json")}, 8)
    command = engine_command(run.folder, write_plan(run.folder, plan, "cuda"), ["table"], 8, profile, "--dry-run")
    env = {k: v for k, v in os.environ.items() if k != ENGINE_PID}
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^total +104$", told, re.MULTILINE), told[-2000:]
    jobs = told.split("rule bpMRI_synthetic_6p25_t2:")[1].split("\n\n")[0]
    assert "metrics/bpMRI_synthetic_0_t2.json" in jobs and "logs/bpMRI_synthetic_6p25_t2.log" in jobs
    assert ("gpu=1" in jobs) == (profile != "local") and ("slurm_partition=gpu" in jobs) == (profile == "slurm")


def test_an_unknown_profile_is_refused(tmp_path):
    run, plan = dummies(tmp_path / "d", {"a": []})
    with pytest.raises(CcellaError, match="unknown profile 'moon', known: gpu, local, slurm, or a folder"):
        engine(run, plan, profile="moon")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A small study of one group and trial, its synthetic exams ready: copies of the real ones under other names."""
    root = tmp_path_factory.mktemp("study")
    source = write_phantoms(root / "source", 48, 1, RECIPE.grid.shape, 3)
    files = {
        k: source.table[k].map(lambda v: v and f"../source/{v}")
        for k in (*source.sequences, "gland", "report", "truth")
    }
    (root / "made").mkdir()
    Cohort(
        root / "made",
        source.table.assign(
            **files,
            kind="synthetic",
            source_exam_id=source.table.exam_id,
            exam_id="S-" + source.table.exam_id,
            label_generated=source.table.label,
        ),
        source.sequences,
        source.label_rule,
    ).write()
    return {
        "here": str(source.root),
        "synthetic": str(root / "made"),
        "there_exams": 48,
        "test": 24,
        "trials": 1,
        "fractions": [1.0],
        "sequences": {"bpMRI": ["axt2", "highb", "adc"]},
        "draws": 30,
    }


@pytest.mark.slow
def test_a_killed_study_resumes_with_nothing_lost_and_nothing_done_twice(tmp_path, asked):
    """SIGKILL to the engine's caller after a run is done and while others are in the middle.

    What follows equals the runs called one after another.
    """
    run = Run(tmp_path / "killed")
    call = f"""
from ccella.recipe import load_recipe
from ccella.studies.adaptation import run_adaptation

recipe = load_recipe("tiny", {{"name": "adapt", "classifier.epochs": 1, "classifier.target_epochs": 1}})
run_adaptation({str(run.folder)!r}, recipe, {asked!r}, cores=2)
"""
    process = subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    names = list(trainings(AdaptationParameters(**asked)))
    log = run.folder / "logs" / "engine.log"

    def finished():
        """The runs that the engine has seen end, with the time of their metrics."""
        told = log.read_text() if log.is_file() else ""
        ended = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", told, re.MULTILINE)
        return {name: run.metrics(name).stat().st_mtime_ns for name in ended}

    while len(finished()) < 2:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(3)  # the engine and its notebooks see that their caller is gone
    before = finished()
    assert "ready" in before and 2 <= len(before) < 7
    time.sleep(2)
    assert finished() == before, "the study went on unseen"
    assert set(run_adaptation(run, None, {}, cores=2)) == {"ready", *names, "table"} - set(before)
    assert {n: run.metrics(n).stat().st_mtime_ns for n in before} == before
    assert run_adaptation(run, None, {}, cores=2) == []

    torch.set_num_threads(1)
    whole = Run(tmp_path / "whole")
    RECIPE.dump(whole.folder / "recipe.yaml")
    write_json(
        whole.folder / "study.json",
        {"adapt": adaptation_parameters(asked, {}).model_dump(mode="json"), "show_reports": False},
    )
    make_sets(whole)
    for name in names:
        run_training(whole, name)
    write_tables(analyse_adaptation(whole), whole.folder)
    for file in [f"cells/{n}/predictions.csv" for n in names] + ["cells.csv", "pairs.csv"]:
        assert (run.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file


@pytest.mark.by_hand
def test_a_hundred_short_runs(tmp_path):
    """102 runs of a second on two cores take less than five minutes."""
    run, plan = dummies(tmp_path / "d", {f"r{i}": [] for i in range(102)}, seconds=1.0)
    began = time.perf_counter()
    assert len(engine(run, plan)) == 102
    took = time.perf_counter() - began
    print(f"102 runs of one second in {took:.0f} s")
    assert took < 300
