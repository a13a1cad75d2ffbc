"""Studies on the engine: killed and resumed, failing in part, on a GPU in turns, on a cluster, and with many runs.

And studies of classifiers that are fair: equal steps, settings chosen without a test label, all stated before.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from ccella.core import CcellaError, read_json, write_json
from ccella.exams.cohort import Cohort
from ccella.organs.prostate.phantom import write_phantoms
from ccella.recipe import load_recipe
from ccella.studies import adaptation
from ccella.studies.adaptation import (
    analyse_adaptation,
    choose_settings,
    make_sets,
    plan_adaptation,
    run_adaptation,
    run_training,
    write_tables,
)
from ccella.studies.arms import (
    AdaptationParameters,
    adaptation_parameters,
    adaptation_request,
    choices,
    state_study,
    statements,
    trainings,
)
from ccella.studies.engine import engine_command, plan_run, run_engine, write_plan
from ccella.studies.run import ENGINE_PID, Run, hold, run_request

OVERRIDES = {"name": "adapt"}
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
    """230 trials, 34 choices, what they share and the table; a slot of a GPU in the profiles that have GPUs alone."""
    run = Run(tmp_path / "full")
    two_generators = AdaptationParameters(generators=("shipped", "shipped"))
    request = {"adapt": two_generators.model_dump(mode="json")}
    plan = plan_adaptation(run, load_recipe("ccellapp"), request, 8)
    written = write_plan(run.folder, plan, "cuda")
    command = engine_command(run.folder, written, ["table"], 8, profile, "--dry-run")
    environment = {name: value for name, value in os.environ.items() if name != ENGINE_PID}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^total +266$", told, re.MULTILINE), told[-2000:]
    _, after = told.split("rule bpMRI_histology_synthetic1_6p25_t2:")
    job, _, _ = after.partition("\n\n")
    assert "metrics/bpMRI_histology_synthetic1_0_t2.json" in job
    assert "metrics/bpMRI_pirads_scratch_50_choice.json" in job, "all is chosen before a trial begins"
    assert "logs/bpMRI_histology_synthetic1_6p25_t2.log" in job
    assert ("gpu=1" in job) == (profile in ("gpu", "slurm"))
    assert ("runtime=720" in job) == (profile == "slurm")


@pytest.mark.slow
def test_what_the_stages_of_full_size_ask_a_cluster_for(tmp_path):
    """A card where there is a network; a day for a training; few cores of a large login node."""
    run = Run(tmp_path / "full")
    recipe, request = run_request(run, "ccellapp", {"generate": {"jobs": 4}})
    written = write_plan(run.folder, plan_run(recipe, request, 64), "auto")
    command = engine_command(run.folder, written, [], 64, "slurm", "--dry-run")
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    jobs = {}
    for name, job in re.findall(r"^rule (\w+):\n((?:    .*\n)+)", told, re.MULTILINE):
        asked = dict(re.findall(r"(threads|gpu|runtime|mem_mb)[=:] ?(\d+)", job))
        jobs[name] = tuple(int(asked.get(key, 1)) for key in ("threads", "gpu", "runtime", "mem_mb"))
    assert jobs["cohort"] == (8, 0, 480, 32000)
    assert jobs["train"] == jobs["classify"] == (8, 1, 1440, 32000)
    assert jobs["encode"] == jobs["generate_1"] == jobs["generate_4"] == (8, 1, 720, 32000)
    assert jobs["evaluate"] == (8, 1, 720, 64000)


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
        "synthetic": [str(root / "made")],
        "there_exams": 48,
        "test": 24,
        "trials": 1,
        "fractions": [1.0],
        "label_rules": ["pirads"],
        "steps": 4,
        "lengths": [0.5, 1.0],
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


def begin(run: Run, asked: dict) -> Run:
    """Ask for a study and lay out its sets in this process, without the engine."""
    torch.set_num_threads(1)
    parameters = adaptation_parameters(asked, {}).model_dump(mode="json")
    run.save_request(RECIPE, {"adapt": parameters, "show_reports": False})
    make_sets(run)
    return run


def one_after_another(run: Run, asked: dict) -> None:
    """Make a study in this process, without the engine."""
    p = adaptation_request(begin(run, asked))
    for name in choices(p):
        choose_settings(run, name)
    for name in trainings(p):
        run_training(run, name)
    write_tables(analyse_adaptation(run), run.folder)


@pytest.mark.slow
def test_a_killed_study_resumes_with_nothing_lost_and_nothing_done_twice(tmp_path, asked):
    """SIGKILL to the engine's caller after a run is done and while others are in the middle.

    What follows equals the runs called one after another.
    """
    run, whole = Run(tmp_path / "killed"), Run(tmp_path / "whole")
    p = AdaptationParameters(**asked)
    chosen, names = list(choices(p)), list(trainings(p))
    process = study_in_a_process(run, asked)
    while len(finished(run)) < 2:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    kill(process)
    time.sleep(3)  # the engine and its notebooks see that their caller is gone
    before = finished(run)
    assert "ready" in before
    assert 2 <= len(before) < 12
    stated = (run.folder / "stated.json").stat().st_mtime_ns
    assert stated < min(before.values()), "arms and hypotheses are stated before the first notebook"
    time.sleep(2)
    assert finished(run) == before, "the study went on unseen"

    resumed = run_adaptation(run, None, {}, cores=2)
    assert set(resumed) == {"ready", *chosen, *names, "table"} - set(before)
    assert times(run, before) == before
    assert run_adaptation(run, None, {}, cores=2) == []

    assert [len(statements(run)), statements(run)[0]["trainings done"]] == [1, 0]

    one_after_another(whole, asked)
    files = [f"cells/{name}/predictions.csv" for name in names] + [f"cells/{name}/choice.json" for name in chosen]
    for file in [*files, "cells.csv", "pairs.csv", "partitions.csv"]:
        assert (run.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file


@pytest.mark.slow
def test_every_arm_is_trained_for_equal_steps(tmp_path, asked, monkeypatch):
    """The optimiser's steps are counted: on a quarter of institution 2 as many as on all of institution 1.

    A choice takes them all for each rate. A trial takes them up to the length that was chosen, and learns as if it had
    taken all.
    """
    run = begin(Run(tmp_path / "steps"), asked | {"fractions": [0.25], "label_rules": ["pirads", "histology"]})
    p = adaptation_request(run)
    taken, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *given: taken.append(0) or step(self, *given))
    counts, found = {}, {}
    for name in [*choices(p), *trainings(p)]:
        taken.clear()
        found[name] = choose_settings(run, name) if name in choices(p) else run_training(run, name)
        counts[name] = len(taken)
    sizes = [one["exams"] for one in found.values()]
    assert len(counts) == 2 * 2 * (2 + 3)
    assert min(sizes) < 12 < 36 < max(sizes)
    assert {one["steps"] for one in found.values()} == {4}
    assert {counts[name] for name in choices(p)} == {4 * len(p.lr_factors)}, counts
    assert {name: counts[name] for name in trainings(p)} == {name: found[name]["length"] for name in trainings(p)}


@pytest.mark.slow
def test_the_choice_reads_no_test_label(tmp_path, asked):
    """Wrong test labels leave every choice as it was, and so does a test set that is gone."""
    run = begin(Run(tmp_path / "choice"), asked | {"there_exams": 100, "test": 12})
    names, sets = list(choices(adaptation_request(run))), run.cache / "sets"
    before = {name: choose_settings(run, name) for name in names}
    assert before["bpMRI_pirads_scratch_100_choice"]["chosen_by"] == "best average precision in validation"
    table = pd.read_csv(sets / "there_test.csv")
    columns = [name for name in ("label", "label_pirads") if table[name].notna().all()]
    wrong = {name: 1 - table[name] for name in columns}
    table.assign(**wrong).to_csv(sets / "there_test.csv", index=False)
    assert {name: choose_settings(run, name) for name in names} == before
    for file in sets.glob("there_test.*"):
        file.unlink()

    validation = pd.read_csv(sets / "there_val.csv")  # what it does read
    validation.assign(label_pirads=1 - validation.label_pirads).to_csv(sets / "there_val.csv", index=False)
    found = {name: choose_settings(run, name) for name in names}
    assert all(found[name] == before[name] for name in names if "_0_" in name), "a test set that is gone is not missed"
    assert all(found[name]["tried"] != before[name]["tried"] for name in names if "_0_" not in name)


def write_scores(run: Run, distance: dict[str, float], of_second: float = 0.0, seed: int = 0) -> None:
    """Write predictions as if an arm of a source had told the classes apart by so many deviations.

    `of_second` is what is added to the distance with the second generator.
    """
    rng = np.random.default_rng(seed)
    table = pd.read_csv(run.cache / "sets" / "there_test.csv")
    for name, training in trainings(adaptation_request(run)).items():
        label = table[training.arm.label]
        apart = distance[training.arm.source] + of_second * (training.generator == 1)
        score = apart * label + rng.normal(size=len(table))
        found = pd.DataFrame({"exam_id": table.exam_id, "patient_id": table.patient_id, "label": label})
        (run.folder / "cells" / name).mkdir(parents=True, exist_ok=True)
        found.assign(p=1 / (1 + np.exp(-score))).to_csv(run.folder / "cells" / name / "predictions.csv", index=False)


@pytest.mark.slow
def test_nothing_is_concluded_from_an_arm_that_did_not_learn(tmp_path, asked):
    """A baseline at chance has its figures, no p-value and a word; what did learn is compared as stated."""
    changes = {"test": 90, "trials": 3, "synthetic": asked["synthetic"] * 2, "label_rules": ["pirads", "histology"]}
    run = begin(Run(tmp_path / "chance"), asked | changes)
    write_scores(run, {"scratch": 0.0, "real": 3.0, "synthetic": 2.5})
    found = analyse_adaptation(run)
    verdicts = {(cell["rule"], cell["arm"]): cell["verdict"] for cell in found["cells"]}
    for rule in ("pirads", "histology"):
        assert verdicts[rule, "scratch"] == "did not learn"
        assert verdicts[rule, "real"] == verdicts[rule, "synthetic"] == "learnt"
    with_scratch = [pair for pair in found["pairs"] if pair["b"].endswith("scratch")]
    assert len(with_scratch) == 2 * 2 * 2
    for pair in with_scratch:
        assert pair["p"] is None and pair["value"] > 0
        assert pair["verdict"] == f"nothing concluded: {pair['b']} did not learn"
    family = [pair for pair in found["pairs"] if pair.get("primary")]
    assert [pair["rule"] for pair in family] == ["pirads"] * 2 + ["histology"] * 2
    assert all(pair["verdict"] == "" and pair["p"] <= pair["p_holm"] <= 1 for pair in family)

    write_scores(run, {"scratch": 0.0, "real": 0.0, "synthetic": 2.5})
    weak = [pair for pair in analyse_adaptation(run)["pairs"] if pair.get("primary")]
    assert len(weak) == 4, "the family is as it was stated"
    assert {pair["p_holm"] for pair in weak} == {None}
    assert all("real did not learn" in pair["verdict"] for pair in weak)


@pytest.mark.slow
def test_generators_that_differ_have_taught_nonetheless(tmp_path, asked):
    """An interval of the next generator may hold 0.5 though every training learnt."""
    run = begin(Run(tmp_path / "differ"), asked | {"test": 90, "trials": 5, "synthetic": asked["synthetic"] * 2})
    write_scores(run, {"scratch": 2.0, "real": 3.0, "synthetic": 3.0}, of_second=-1.8)
    areas = [cell for cell in analyse_adaptation(run)["cells"] if cell["metric"] == "AUC"]
    assert {cell["verdict"] for cell in areas} == {"learnt"}
    assert all(cell["low"] < 0.5 for cell in areas if cell["arm"] == "synthetic")


def test_both_sources_of_exams_take_no_more_steps(tmp_path, asked):
    """Also where the recipe's epochs give the number of steps."""
    run = begin(Run(tmp_path / "augment"), asked | {"study": "augment", "steps": None, "fractions": [1.0]})
    config = RECIPE.classifier
    runs = trainings(adaptation_request(run)).values()
    assert {len(training.learn) for training in runs} == {1, 2}
    assert len({adaptation._steps(run, training, config) for training in runs}) == 1


def test_a_study_is_stated_before_its_first_notebook(tmp_path, asked, monkeypatch):
    """What will be tested stands in the folder when the engine is called, and is not said again unless it changes."""
    run, seen = Run(tmp_path / "stated"), []
    monkeypatch.setattr(adaptation, "run_grid", lambda run, *given: seen.append(statements(run)) or [])
    for trials in (1, 1, 5):
        run_adaptation(run, RECIPE, asked | {"trials": trials})
    assert [len(known) for known in seen] == [1, 1, 2]
    stated = seen[0][0]["stated"]
    assert "AP after synthetic less AP after real" in stated["hypotheses"]["primary"]
    assert len(stated["arms"]) == 5 and "includes 0.5" in stated["did not learn"]
    assert any("1 trials" in words or "trials: 1" in words for words in stated["limits"])
    assert not (run.folder / "metrics").exists()

    write_json(run.metrics(next(iter(trainings(AdaptationParameters(**asked))))), {})
    state_study(run, AdaptationParameters(**asked | {"trials": 2}), RECIPE)
    assert statements(run)[-1]["trainings done"] == 1, "what was stated late is told to be late"


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
