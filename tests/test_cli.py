"""The command line: help that answers at once, exit codes, errors of one line, and from a report to an exam on disk."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import COMMANDS, MARKER, REPORT, ccella, state, write_generator
from typer.testing import CliRunner

WITHOUT_DEFAULTS = ("describe", "merge", "recipes")
ROOT = Path(__file__).resolve().parents[1]
START = "from ccella.cli import main; main()"
HEAVY = ("torch", "pandas", "numpy", "scipy", "monai", "transformers", "diffusers", "ccella.core")
SEQUENCES = ["axt2", "highb", "adc"]


def shell(cwd, *arguments, code=START):
    """Call the command line in a process of its own."""
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
    made = ccella("phantom", folder, exams=24, grid=(16, 16, 8), seed=3)
    assert made.code == 0, made
    for report in folder.rglob("report.txt"):
        text = report.read_text(encoding="utf-8")
        report.write_text(text + MARKER, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return write_generator(tmp_path_factory.mktemp("runs") / "runs" / "mine")


@pytest.fixture()
def report(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text(REPORT, encoding="utf-8")
    return path


def exams_of(folder: Path) -> list:
    from ccella.exams.cohort import Cohort

    return list(Cohort.read(folder))


def arrays_of(folder: Path) -> list[np.ndarray]:
    """The voxels of every volume of a cohort."""
    from ccella.exams.volumes import read_volume

    return [read_volume(path).array for exam in exams_of(folder) for path in exam.files.values()]


def contents(folder: Path) -> dict[str, tuple]:
    """Everything in a folder but the times: names and contents."""
    return {name: found[1:] for name, found in state(folder).items()}


TELL_TIME_AND_MODULES = f"""
import atexit, json, sys, time

@atexit.register
def tell():
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([time.process_time(), heavy]), file=sys.stderr)

{START}"""
QUICK = [(["--help"], 0), (["generate", "--help"], 0), (["--version"], 0), (["phantom", "--exams", "many"], 2)]


def test_help_answers_without_the_heavy_libraries(tmp_path):
    """Seconds of the processor, not of the clock, so that a busy machine does not fail it."""
    for arguments, code in QUICK:
        done = shell(tmp_path, *arguments, code=TELL_TIME_AND_MODULES)
        seconds, heavy = json.loads(done.stderr.splitlines()[-1])
        assert done.returncode == code, arguments
        assert not heavy, arguments
        assert seconds < 1.5, arguments


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command):
    """Every command is in the overview, and its page has an example and says what is taken by default."""
    from ccella.cli import app

    terminal = {"COLUMNS": "120", "TERMINAL_WIDTH": "120"}
    overview = CliRunner().invoke(app, ["--help"], env=terminal).output
    page = CliRunner().invoke(app, [command, "--help"], env=terminal)
    assert f" {command} " in overview
    assert page.exit_code == 0
    _, examples = page.output.split("Examples")
    assert f"ccella {command}" in examples
    if command not in WITHOUT_DEFAULTS:
        assert "default: " in page.output
    callbacks = {known.name or known.callback.__name__: known.callback for known in app.registered_commands}
    assert set(callbacks) == set(COMMANDS)
    assert callbacks[command].__doc__


def test_exit_codes_and_one_line_errors(tmp_path):
    """What a shell sees: 1, one line and nothing else; the whole story only with --debug."""
    wrong_input = shell(tmp_path, "check", "nowhere")
    assert wrong_input.returncode == 1
    assert wrong_input.stdout == ""
    assert wrong_input.stderr.startswith("ccella: nowhere/cohort.csv: found no such folder, expected a cohort")
    assert wrong_input.stderr.count("\n") == 1
    debug = shell(tmp_path, "check", "--debug", "nowhere")
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
    assert "CcellaError" in debug.stderr
    assert not list(tmp_path.iterdir())


WRONG_USES = [
    "nonsense",
    "phantom",
    "phantom x --institution 3",
    "phantom x --grid 32 32",
    "generate --out x",
    "generate --out x --report a --cohort b",
    "generate --out x --report a --split test",
    "generate --out x --report a --per-report 0",
    "run x --set sample.steps",
    "check a b",
]


@pytest.mark.parametrize("line", WRONG_USES)
def test_wrong_use_ends_with_2_and_writes_nothing(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = ccella(*line.split())
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert not list(tmp_path.iterdir())


def test_an_unexpected_error_is_one_line_without_values(tmp_path, monkeypatch):
    """A fault of the program's own names its kind; its message may hold a report and is not shown."""
    from ccella.organs.prostate import phantom

    def broken(*_, **__):
        raise KeyError(f"{MARKER} in the report")

    monkeypatch.setattr(phantom, "write_phantoms", broken)
    ended = ccella("phantom", tmp_path / "x")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "unexpected KeyError" in ended.err
    assert "--debug" in ended.err
    assert MARKER not in ended.err


def test_phantoms_are_the_same_bytes_and_another_cohort_is_kept(tmp_path):
    """A seed makes the same files in any folder; another seed does not write over them."""
    first, second = tmp_path / "a", tmp_path / "b"
    phantoms = {"exams": 24, "grid": (16, 16, 8), "institution": 2}
    assert ccella("phantom", first, seed=3, **phantoms).code == 0
    before = state(first)
    ended = ccella("phantom", first, seed=4, **phantoms)
    assert ended.code == 1
    assert "another cohort" in ended.err
    assert ended.err.count("\n") == 1
    assert state(first) == before
    assert ccella("phantom", second, seed=3, **phantoms).code == 0
    assert contents(second) == contents(first)


def test_check_and_describe(cohort, tmp_path):
    """`check` finds nothing wrong in a sound cohort; `describe` gives the means that its volumes have."""
    import pandas as pd

    from ccella.exams.cohort import Cohort
    from ccella.exams.volumes import read_volume

    checked = ccella("check", cohort, recipe="demo")
    assert checked.code == 0
    assert checked.err == ""
    assert "16×16×8: 24" in checked.out
    assert "nothing wrong" in checked.out

    described = ccella("describe", cohort, cohort, csv=tmp_path / "table.csv")
    assert described.code == 0
    assert described.out.count("9.4 / 281 / 853") == 6
    assert MARKER not in checked.out + described.out

    train = Cohort.read(cohort).subset(split="train")
    arrays = [read_volume(exam.files["adc"]).array for exam in train]
    mean = np.mean([array.mean() for array in arrays])
    high = np.mean([np.percentile(array, 99.5) for array in arrays])
    table = pd.read_csv(tmp_path / "table.csv")
    row = table.query("sequence == 'adc' and split == 'train'").iloc[0]
    assert row.exams == len(train)
    assert np.isclose(row["mean"], mean, rtol=1e-4)
    assert np.isclose(row["p99.5"], high, rtol=1e-4)
    assert row["paper_mean"] == 542


def test_recipes_are_listed_and_written_out(tmp_path):
    """The list names each recipe; a recipe that was written out loads as the same recipe."""
    from ccella.recipe import load_recipe

    listed = ccella("recipes").out
    for words in ("ccellapp", "demo", "tiny", "cohort", "fresh=80"):
        assert words in listed
    full = tmp_path / "full.yaml"
    full.write_text(ccella("recipes", "tiny").out, encoding="utf-8")
    assert load_recipe(full).differences(load_recipe("tiny")) == {}


def test_a_plan_tells_every_stage_and_where_its_times_come_from():
    """What was not measured is not told; what cannot be is refused."""
    planned = ccella("plan", "tiny", exams=10, device="cpu").out
    for words in ("encode", "train", "generate", "classify", "not measured", "by the record 'full_size'"):
        assert words in planned
    refused = ccella("plan", "tiny", exams=0)
    assert refused.code == 2
    assert "--exams" in refused.err


def test_one_exam_from_one_report(generator, report, monkeypatch):
    """A report becomes an exam of a cohort, as large as the recipe says and in its limits."""
    from ccella.exams.volumes import read_volume

    monkeypatch.chdir(generator.parents[1])  # runs/mine from here
    out = report.parent / "exam"
    made = ccella("generate", run="mine", report=report, device="cpu", out=out, seed=7)
    assert made.code == 0
    assert made.err == ""
    assert "1 synthetic exam in" in made.out
    assert MARKER not in made.out
    (exam,) = exams_of(out)
    assert exam.kind == "synthetic"
    assert exam.text() == REPORT.strip()
    assert exam.extra["source_exam_id"] == "report"
    assert list(exam.files) == SEQUENCES
    volumes = {sequence: read_volume(path) for sequence, path in exam.files.items()}
    for volume in volumes.values():
        assert volume.array.shape == (32, 32, 8)
        assert np.allclose(volume.spacing_mm, (3, 3, 8))
        assert volume.stored == "RAS"
        assert volume.array.std() > 0
    assert volumes["highb"].array.max() <= 52.1


@pytest.mark.parametrize(("text", "doubted"), [("cat\n", True), (None, False)], ids=["cat", "a whole report"])
def test_a_report_of_which_little_is_known_is_told(tmp_path, text, doubted):
    """The shipped generator warns of it in one line, which quotes none of it; of a whole report it says nothing."""
    from ccella.organs.prostate.phantom import phantom_report

    report = tmp_path / "asked.txt"
    report.write_text(text or phantom_report(0, 0)[2], encoding="utf-8")
    made = ccella("generate", report=report, device="cpu", out=tmp_path / "out", steps=1)
    assert made.code == 0, made.err
    told = [line for line in made.out.splitlines() if line.startswith("little is known of report 'asked': ")]
    assert len(told) == doubted
    assert "cat" not in made.out.replace("replicate", "")


def test_an_exam_is_made_again_only_as_it_was(generator, report):
    """The same call changes nothing, another batch size gives the same voxels, another request is refused."""
    out, again = report.parent / "exam", report.parent / "again"
    request = {"run": generator, "report": report, "device": "cpu"}
    assert ccella("generate", **request, out=out, seed=7).code == 0
    before = state(out)
    assert ccella("generate", **request, out=out, seed=7).code == 0
    assert state(out) == before

    assert ccella("generate", **request, out=again, seed=7, batch=1).code == 0
    for array, same in zip(arrays_of(out), arrays_of(again), strict=True):
        np.testing.assert_array_equal(array, same)

    other = ccella("generate", **request, out=out, seed=8)
    assert other.code == 1
    assert "another seed" in other.err

    fewer = ccella("generate", **request, out=out, seed=7, steps=2)
    assert fewer.code == 1
    assert "another sample" in fewer.err

    report.write_text(REPORT.replace("Left", "Right"), encoding="utf-8")
    changed = ccella("generate", **request, out=out, seed=7)
    assert changed.code == 1
    assert "another report" in changed.err
    assert changed.err.count("\n") == 1
    assert MARKER not in changed.err
    assert state(out) == before


def test_several_per_report_and_a_spacing_of_ones_own(generator, report):
    """Replicates are exams of one patient that differ, and lie on the spacing asked for."""
    from ccella.exams.volumes import read_volume

    out, model = report.parent / "three", generator / "model"
    made = ccella("generate", run=model, report=report, per_report=3, spacing=(2, 2, 6), out=out, device="cpu")
    assert made.code == 0, made
    exams = exams_of(out)
    assert [exam.extra["replicate"] for exam in exams] == [0, 1, 2]
    assert len({exam.exam_id for exam in exams}) == 3
    assert len({exam.patient_id for exam in exams}) == 1
    volumes = [read_volume(exam.files["axt2"]) for exam in exams]
    for volume in volumes:
        assert np.allclose(volume.spacing_mm, (2, 2, 6))
    assert (volumes[0].array != volumes[1].array).any()


def test_one_exam_per_exam_of_a_cohort(generator, cohort, tmp_path):
    """Each synthetic exam keeps label and report of the exam it was made for, and is another patient's."""
    from ccella.exams.cohort import Cohort

    out = tmp_path / "synthetic"
    made = ccella("generate", run=generator, cohort=cohort, split="val", out=out, device="cpu")
    assert made.code == 0
    assert MARKER not in made.out + made.err
    source = Cohort.read(cohort).subset(split="val")
    exams = exams_of(out)
    assert [exam.extra["source_exam_id"] for exam in exams] == source.table.exam_id.tolist()
    for exam in exams:
        real = source[exam.extra["source_exam_id"]]
        assert exam.label == real.label
        assert exam.text() == real.text()
        assert exam.patient_id != real.patient_id
        assert exam.extra["p_generated"] is not None


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
    """A bare name is a run of the recipe of that name; each option reaches the engine; a stage is its own target."""
    monkeypatch.chdir(tmp_path)
    assert ccella("run", "demo", "--device", "cpu").code == 0
    asked = engine[-1]
    assert asked["run"].folder == Path("runs/demo")
    assert asked["recipe"].name == "demo"
    assert asked["targets"] is None
    assert asked["show_reports"] is None

    sets = ("--set", "sample.steps=7", "--set", "cohort.seed=5")
    flags = ("--from-scratch", "--show-reports")
    ended = ccella("train", "./mine", *sets, *flags, recipe="demo", cohort=cohort, cores=1)
    assert ended.code == 0
    assert "mine: cohort, done" in ended.out
    asked = engine[-1]
    assert asked["run"].folder == Path("mine")
    assert asked["targets"] == ["train"]
    assert asked["cores"] == 1
    assert asked["show_reports"] is True
    assert asked["recipe"].sample.steps == 7
    assert asked["recipe"].train.start_from is None
    assert asked["parameters"] == {"cohort": {"seed": 5, "source": str(cohort)}}

    for stage in ("encode", "evaluate", "classify"):
        assert ccella(stage, "tiny").code == 0
        assert engine[-1]["targets"] == [stage]
    assert len(engine) == 5, "each command asks once"


def test_a_run_keeps_the_recipe_that_it_began_with(engine, tmp_path, monkeypatch):
    """A run that was begun needs no --recipe; a name that is neither run nor recipe starts nothing."""
    from ccella.recipe import load_recipe

    monkeypatch.chdir(tmp_path)
    load_recipe("tiny", {"sample.steps": 9}).dump(tmp_path / "runs" / "mine" / "recipe.yaml")
    assert ccella("run", "mine").code == 0
    assert engine[-1]["recipe"].sample.steps == 9
    unknown = ccella("run", "theirs")
    assert unknown.code == 1
    assert "start it with --recipe" in unknown.err
    assert not (tmp_path / "runs" / "theirs").exists()
    assert len(engine) == 1
