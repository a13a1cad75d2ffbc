"""The command line: help that answers at once, exit codes, errors of one line, and from a report to an exam on disk."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import MARKER, REPORT, ccella, state, write_generator
from typer.testing import CliRunner

COMMANDS = ("phantom", "check", "describe", "generate", "run", "encode", "train", "evaluate", "classify", "recipes")
ROOT = Path(__file__).resolve().parents[1]
START = "from ccella.cli import main; main()"


def shell(cwd, *arguments, code=START):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """24 small phantoms, whose reports all hold the marker."""
    folder = tmp_path_factory.mktemp("cohort") / "here"
    made = ccella("phantom", folder, "--exams", 24, "--grid", 16, 16, 8, "--seed", 3)
    assert made.code == 0, made
    for report in folder.rglob("report.txt"):
        report.write_text(report.read_text(encoding="utf-8") + MARKER, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return write_generator(tmp_path_factory.mktemp("runs") / "runs" / "mine")


@pytest.fixture()
def report(tmp_path):
    (tmp_path / "report.txt").write_text(REPORT, encoding="utf-8")
    return tmp_path / "report.txt"


def test_help_answers_without_the_heavy_libraries(tmp_path):
    """Seconds of the processor, not of the clock, so that a busy machine does not fail it."""
    told = f"""
import atexit, json, sys, time
heavy = ("torch", "pandas", "numpy", "scipy", "monai", "transformers", "diffusers", "ccella.core")

@atexit.register
def tell():
    loaded = [m for m in heavy if m in sys.modules]
    print(json.dumps([time.process_time(), loaded]), file=sys.stderr)

{START}"""
    for arguments in (["--help"], ["generate", "--help"], ["--version"], ["phantom", "--exams", "many"]):
        done = shell(tmp_path, *arguments, code=told)
        seconds, heavy = json.loads(done.stderr.splitlines()[-1])
        assert done.returncode == (2 if "many" in arguments else 0) and not heavy and seconds < 1.5, (
            arguments,
            seconds,
            heavy,
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command):
    from ccella.cli import app

    overview = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    page = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120", "TERMINAL_WIDTH": "120"})
    assert f" {command} " in overview and page.exit_code == 0
    assert "Examples" in page.output and f"ccella {command}" in page.output.split("Examples")[1]
    described = next(c for c in app.registered_commands if (c.name or c.callback.__name__) == command)
    assert "default: " in page.output or command in ("check", "describe", "recipes")
    assert described.callback.__doc__


def test_exit_codes_and_one_line_errors(tmp_path):
    wrong_input = shell(tmp_path, "check", "nowhere")
    assert wrong_input.returncode == 1 and wrong_input.stdout == ""
    assert (
        wrong_input.stderr.startswith("ccella: nowhere/cohort.csv: found no such folder, expected a cohort")
        and wrong_input.stderr.count("\n") == 1
    )
    debug = shell(tmp_path, "check", "--debug", "nowhere")
    assert debug.returncode == 1 and "Traceback" in debug.stderr and "CcellaError" in debug.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["phantom"],
        ["phantom", "x", "--institution", "3"],
        ["phantom", "x", "--grid", "32", "32"],
        ["generate", "--out", "x"],
        ["generate", "--out", "x", "--report", "a", "--cohort", "b"],
        ["generate", "--out", "x", "--report", "a", "--split", "test"],
        ["generate", "--out", "x", "--report", "a", "--per-report", "0"],
        ["run", "x", "--set", "sample.steps"],
        ["check", "a", "b"],
    ],
    ids=" ".join,
)
def test_wrong_use_ends_with_2_and_writes_nothing(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = ccella(*arguments)
    assert ended.code == 2 and "Traceback" not in ended.err and not list(tmp_path.iterdir())


def test_an_unexpected_error_is_one_line_without_values(tmp_path, monkeypatch):
    from ccella.organs.prostate import phantom

    def broken(*_, **__):
        raise KeyError(f"{MARKER} in the report")

    monkeypatch.setattr(phantom, "write_phantoms", broken)
    ended = ccella("phantom", tmp_path / "x")
    assert (
        ended.code == 1
        and ended.err.count("\n") == 1
        and "unexpected KeyError" in ended.err
        and "--debug" in ended.err
        and MARKER not in ended.err
    )


def test_phantoms_are_the_same_bytes_and_another_cohort_is_kept(cohort, tmp_path):
    assert (
        ccella("phantom", tmp_path / "a", "--exams", 24, "--grid", 16, 16, 8, "--seed", 3, "--institution", 2).code == 0
    )
    before = state(tmp_path / "a")
    ended = ccella("phantom", tmp_path / "a", "--exams", 24, "--grid", 16, 16, 8, "--seed", 4, "--institution", 2)
    assert (
        ended.code == 1
        and "another cohort" in ended.err
        and ended.err.count("\n") == 1
        and state(tmp_path / "a") == before
    )
    assert (
        ccella("phantom", tmp_path / "b", "--exams", 24, "--grid", 16, 16, 8, "--seed", 3, "--institution", 2).code == 0
    )
    assert {k: v[1:] for k, v in state(tmp_path / "b").items()} == {k: v[1:] for k, v in before.items()}


def test_check_and_describe(cohort, tmp_path):
    checked = ccella("check", cohort, "--recipe", "demo")
    assert checked.code == 0 and "16×16×8: 24" in checked.out and "nothing wrong" in checked.out and checked.err == ""
    described = ccella("describe", cohort, cohort, "--csv", tmp_path / "table.csv")
    assert described.code == 0 and described.out.count("9.4 / 281 / 853") == 6
    from ccella.exams.cohort import Cohort
    from ccella.exams.volumes import read_volume

    train = [read_volume(e.files["adc"]).array for e in Cohort.read(cohort).subset(split="train")]
    import pandas as pd

    row = pd.read_csv(tmp_path / "table.csv").query("sequence == 'adc' and split == 'train'").iloc[0]
    assert row.exams == len(train) and np.isclose(row["mean"], np.mean([a.mean() for a in train]), rtol=1e-4)
    assert (
        np.isclose(row["p99.5"], np.mean([np.percentile(a, 99.5) for a in train]), rtol=1e-4)
        and row["paper_mean"] == 542
    )
    assert MARKER not in checked.out + described.out


def test_recipes_are_listed_and_written_out(tmp_path):
    from ccella.recipe import load_recipe

    assert all(name in ccella("recipes").out for name in ("ccellapp", "demo", "tiny", "cohort", "exams=160"))
    (tmp_path / "full.yaml").write_text(ccella("recipes", "tiny").out, encoding="utf-8")
    assert load_recipe(tmp_path / "full.yaml").differences(load_recipe("tiny")) == {}


def test_one_exam_from_one_report(generator, report, monkeypatch):
    from ccella.exams.cohort import Cohort
    from ccella.exams.volumes import read_volume

    monkeypatch.chdir(generator.parents[1])  # runs/mine from here
    out = report.parent / "exam"
    common = ("generate", "--run", "mine", "--report", report, "--device", "cpu")
    made = ccella(*common, "--out", out, "--seed", 7)
    assert made.code == 0 and made.err == "" and "1 synthetic exam in" in made.out and MARKER not in made.out
    exam = next(iter(Cohort.read(out)))
    volumes = {s: read_volume(f) for s, f in exam.files.items()}
    assert (
        list(volumes) == ["axt2", "highb", "adc"]
        and exam.kind == "synthetic"
        and exam.text() == REPORT.strip()
        and exam.extra["source_exam_id"] == "report"
    )
    assert all(
        v.array.shape == (32, 32, 8)
        and np.allclose(v.spacing_mm, (3, 3, 8))
        and v.stored == "RAS"
        and v.array.std() > 0
        for v in volumes.values()
    )
    assert volumes["highb"].array.max() <= 52.1

    def arrays(folder):
        return [read_volume(path).array for exam in Cohort.read(folder) for path in exam.files.values()]

    before = state(out)
    assert ccella(*common, "--out", out, "--seed", 7).code == 0 and state(out) == before
    assert ccella(*common, "--out", report.parent / "again", "--seed", 7, "--batch", 1).code == 0
    assert all((a == b).all() for a, b in zip(arrays(out), arrays(report.parent / "again"), strict=True))
    other = ccella(*common, "--out", out, "--seed", 8)
    assert other.code == 1 and "another seed" in other.err
    fewer = ccella(*common, "--out", out, "--seed", 7, "--steps", 2)
    assert fewer.code == 1 and "another sample" in fewer.err
    report.write_text(REPORT.replace("Left", "Right"), encoding="utf-8")
    changed = ccella(*common, "--out", out, "--seed", 7)
    assert (
        changed.code == 1
        and "another report" in changed.err
        and MARKER not in changed.err
        and changed.err.count("\n") == 1
        and state(out) == before
    )


def test_several_per_report_and_a_spacing_of_ones_own(generator, report):
    from ccella.exams.cohort import Cohort
    from ccella.exams.volumes import read_volume

    made = ccella(
        "generate",
        "--run",
        generator / "model",
        "--report",
        report,
        "--per-report",
        3,
        "--spacing",
        2,
        2,
        6,
        "--out",
        report.parent / "three",
        "--device",
        "cpu",
    )
    assert made.code == 0, made
    exams = list(Cohort.read(report.parent / "three"))
    arrays = [read_volume(e.files["axt2"]) for e in exams]
    assert (
        [e.extra["replicate"] for e in exams] == [0, 1, 2]
        and len({e.exam_id for e in exams}) == 3
        and len({e.patient_id for e in exams}) == 1
    )
    assert all(np.allclose(a.spacing_mm, (2, 2, 6)) for a in arrays) and (arrays[0].array != arrays[1].array).any()


def test_one_exam_per_exam_of_a_cohort(generator, cohort, tmp_path):
    from ccella.exams.cohort import Cohort

    made = ccella(
        "generate",
        "--run",
        generator,
        "--cohort",
        cohort,
        "--split",
        "val",
        "--out",
        tmp_path / "synthetic",
        "--device",
        "cpu",
    )
    assert made.code == 0 and MARKER not in made.out + made.err
    source, exams = Cohort.read(cohort).subset(split="val"), list(Cohort.read(tmp_path / "synthetic"))
    assert [e.extra["source_exam_id"] for e in exams] == source.table.exam_id.tolist()
    for exam in exams:
        real = source[exam.extra["source_exam_id"]]
        assert (
            exam.label == real.label
            and exam.text() == real.text()
            and exam.patient_id != real.patient_id
            and exam.extra["p_generated"] is not None
        )


@pytest.fixture()
def engine(monkeypatch):
    """The engine's place taken by a note of what it was asked for."""
    from ccella.studies import engine

    asked = []
    signature = inspect.signature(engine.execute_run)

    def note(*args, **kwargs):
        request = signature.bind(*args, **kwargs)
        request.apply_defaults()
        asked.append(request.arguments)
        return ["cohort"]

    monkeypatch.setattr(engine, "execute_run", note)
    return asked


def test_a_run_is_asked_for_as_the_options_say(engine, cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ccella("run", "demo", "--device", "cpu").code == 0
    assert (
        engine[-1]["run"].folder == Path("runs/demo")
        and engine[-1]["recipe"].name == "demo"
        and engine[-1]["targets"] is None
        and engine[-1]["show_reports"] is None
    )
    ended = ccella(
        "train",
        "./mine",
        "--recipe",
        "demo",
        "--cohort",
        cohort,
        "--set",
        "sample.steps=7",
        "--set",
        "cohort.seed=5",
        "--from-scratch",
        "--show-reports",
        "--cores",
        1,
    )
    asked = engine[-1]
    assert ended.code == 0 and "mine: cohort, done" in ended.out
    assert (
        asked["run"].folder == Path("mine")
        and asked["targets"] == ["train"]
        and asked["cores"] == 1
        and asked["show_reports"] is True
    )
    assert (
        asked["recipe"].sample.steps == 7
        and asked["recipe"].train.start_from is None
        and asked["parameters"] == {"cohort": {"seed": 5, "source": str(cohort)}}
    )
    assert [ccella(stage, "tiny").code for stage in ("encode", "evaluate", "classify")] == [0, 0, 0] and [
        a["targets"] for a in engine[-3:]
    ] == [["encode"], ["evaluate"], ["classify"]]


def test_a_run_keeps_the_recipe_that_it_began_with(engine, tmp_path, monkeypatch):
    from ccella.recipe import load_recipe

    monkeypatch.chdir(tmp_path)
    load_recipe("tiny", {"sample.steps": 9}).dump(tmp_path / "runs" / "mine" / "recipe.yaml")
    assert ccella("run", "mine").code == 0 and engine[-1]["recipe"].sample.steps == 9
    unknown = ccella("run", "theirs")
    assert (
        unknown.code == 1
        and "start one with --recipe" in unknown.err
        and not (tmp_path / "runs" / "theirs").exists()
        and len(engine) == 1
    )
