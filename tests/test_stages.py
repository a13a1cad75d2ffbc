"""All six stages of a run, through the engine: once, again, changed, broken, killed in the middle of training.

Other recipes and cohorts walk the same notebooks without the engine (`stages_here`).
"""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import papermill
import pytest
import torch
from papermill import inspect_notebook
from safetensors.torch import load_file
from transformers import T5EncoderModel

from ccella.core import CcellaError
from ccella.exams.cohort import Cohort
from ccella.models.text import save_text_encoder, small_t5_config, train_tokenizer
from ccella.organs.prostate.phantom import write_phantoms
from ccella.recipe import load_recipe
from ccella.studies.engine import execute_run, find_notebooks
from ccella.studies.run import COMMON_PARAMETERS, STAGES, Run

pytestmark = pytest.mark.slow  # one run, in this order: a file stays in one process
SEQUENCES = ["axt2", "highb", "adc"]
SMALL = {
    "cohort": {"exams": 24, "fresh": 12, "other": 10},
    "encode": {"reconstructions": 2},
    "evaluate": {"reference": 12, "untrained": 6, "reports": 30, "draws": 5},
    "classify": {"test": 24},
}
WORDS = "left right midline apex mid base peripheral transition zone PI-RADS lesion of 12 mm"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A text encoder that knows a few words, so that no shipped one is needed."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = train_tokenizer([WORDS] * 3, 200)
    torch.manual_seed(0)
    model = T5EncoderModel(small_t5_config(len(tokenizer), 128, 1))
    return str(save_text_encoder(model, tokenizer, folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("runs") / "trial")


def start(run, encoder, parameters=SMALL, targets=None, **overrides):
    """Bring a run of the tiny recipe up to date; give the names of what had to run."""
    recipe = load_recipe("tiny", {"text.encoder": encoder} | overrides)
    return execute_run(run, recipe, targets, parameters, cores=2)


def errors(notebook: Path) -> list[str]:
    """The kinds of the errors in an executed notebook."""
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                found.append(output["ename"])
    return found


def made(run) -> dict:
    """When each file of the run was written, but for what the engine says and locks."""
    times = {}
    for path in run.folder.rglob("*"):
        within = path.relative_to(run.folder)
        is_the_engines = bool({"logs", ".snakemake"} & set(within.parts))
        if path.is_file() and not is_the_engines:
            times[within.as_posix()] = path.stat().st_mtime_ns
    return times


@pytest.mark.parametrize("stage", STAGES)
def test_a_notebook_takes_the_parameters_that_its_stage_knows(stage):
    """A parameter that only one of the two knows would be lost, and two defaults would differ unseen."""
    told = inspect_notebook(str(find_notebooks() / STAGES[stage].notebook))
    fields = STAGES[stage].parameters.model_fields
    assert set(told) == {*COMMON_PARAMETERS, *fields}
    for name, field in fields.items():
        default = told[name]["default"].strip("\"'")
        assert default == str(field.default), name
        kind = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
        assert told[name]["inferred_type_name"] == kind.replace(" ", ""), name


@pytest.mark.parametrize("stage", STAGES)
def test_help_on_a_notebook_tells_types_and_meanings(stage):
    """What `papermill --help-notebook` prints."""
    for name, told in inspect_notebook(str(find_notebooks() / STAGES[stage].notebook)).items():
        assert told["inferred_type_name"] != "None", name
        assert len(told["help"]) > 8, name


def test_six_stages(run, encoder):
    """All stages run once; the results of each are in the metrics, and the page stands alone."""
    began = time.perf_counter()
    assert set(STAGES) < set(start(run, encoder))
    print(f"six stages in {time.perf_counter() - began:.0f} s")
    found = json.loads((run.folder / "metrics.json").read_text())
    assert set(found) == set(STAGES)
    assert set(run.results()) == set(STAGES)
    for stage in STAGES:
        assert errors(run.executed(stage)) == []
    assert found["train"]["notes"] == []
    check_synthetic_exams(run, found)
    check_measures(found)
    check_page(run)


def check_synthetic_exams(run, found):
    synthetic = Cohort.read(run.synthetic)
    assert len(synthetic) == 36
    assert found["generate"]["exams"] == 36
    assert synthetic.check()["sequences"] == dict.fromkeys(SEQUENCES, 36)


def check_measures(found):
    compared = ["floor", "other institution", "reconstruction", "synthetic", "untrained"]
    for sequence in SEQUENCES:
        assert sorted(found["evaluate"]["fid"][sequence]) == compared
    assert found["evaluate"]["head"]["auc"]["n"] == 30
    assert found["classify"]["test_exams"] == {"institution 1": 24, "institution 2": 24}


def check_page(run):
    """The page says that this was a training from nothing, and holds its pictures itself."""
    page = run.page.read_text(encoding="utf-8")
    assert "trained from random weights" in page
    assert page.count("data:image/png;base64") == 4
    assert 'src="http' not in page


def test_again_nothing_is_done(run, encoder):
    """A run that is done stays as it is, to the times of its files."""
    before = made(run)
    assert start(run, encoder) == []
    assert made(run) == before


def by_hand(stage: str, folder: Path, **parameters) -> None:
    """Execute a stage's notebook as `papermill` does, with no engine."""
    notebook = STAGES[stage].notebook
    parameters = {"run": str(folder / "trial"), "threads": 2} | SMALL.get(stage, {}) | parameters  # as the engine's
    papermill.execute_notebook(str(find_notebooks() / notebook), str(folder / notebook), parameters, progress_bar=False)


NOT_RESULTS = {"provenance.json", "metrics.csv", "recipe.yaml", "scale.json"}  # times, stamps, and a recipe's parent


def content_of(path: Path) -> bytes | dict[str, bytes]:
    """A file's bytes; of tensors alone where they lie beside the times of the files that they were made from."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def contents(folder: Path) -> dict[str, bytes | dict[str, bytes]]:
    """What a stage left in its folder, but for locks, states and what tells times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_result = path.is_file() and not path.name.startswith((".", "events.")) and path.name not in NOT_RESULTS
        if is_result and "state" not in path.parts:
            found[path.relative_to(folder).as_posix()] = content_of(path)
    return found


def figures(run: Run, stage: str) -> dict:
    """A stage's metrics but for times and machine."""
    told = run.results()[stage]
    return {name: value for name, value in told.items() if name not in ("seconds", "train_seconds", "provenance")}


def test_papermill_alone_gives_what_the_engine_gives(run, encoder, tmp_path):
    """Four notebooks one after the other on a new folder; what is wrong is told by each in its own words."""
    recipe = load_recipe("tiny", {"text.encoder": encoder}).dump(tmp_path / "tiny.yaml")
    with pytest.raises(papermill.PapermillExecutionError, match=r"stage encode: .* run 01_cohort.ipynb before"):
        by_hand("encode", tmp_path, recipe=str(recipe))
    by_hand("cohort", tmp_path, recipe=str(recipe))
    with pytest.raises(papermill.PapermillExecutionError, match=r"'batches', expected one of run, recipe, .*, batch,"):
        by_hand("generate", tmp_path, batches=2)
    for stage in ("encode", "train", "generate"):
        by_hand(stage, tmp_path)
    alone = Run(tmp_path / "trial")
    for folder in ("cohort", "fresh", "other", "cache", "model", "synthetic"):
        there, here = contents(run.folder / folder), contents(alone.folder / folder)
        assert there.keys() == here.keys() != set(), folder
        assert [name for name in there if there[name] != here[name]] == [], folder
    for stage in ("cohort", "encode", "train", "generate"):
        assert figures(alone, stage) == figures(run, stage)
    assert start(alone, encoder, targets=["generate"]) == [], "the engine goes on from there"


def test_changed_parameters_touch_what_depends_on_them(run, encoder):
    """Another seed of the last stage runs that stage and the page again, and writes no other file."""
    before = made(run)
    changed_seed = SMALL | {"classify": {"test": 24, "seed": 1}}
    done = start(run, encoder, changed_seed)
    assert set(done) - {"everything"} == {"classify", "page"}
    results = {"06_classify.ipynb", "metrics/classify.json", "metrics.json", "report.html"}
    requests = {"study.json", "recipe.yaml"}
    touched = {name for name, when in made(run).items() if before.get(name) != when}
    assert touched <= results | requests


def test_one_sequence(tmp_path, encoder, stages_here):
    """A recipe of one sequence walks the same road; the lesion detector, which needs three, is left out."""
    run = Run(tmp_path / "axt2")
    first = load_recipe("tiny").sequences[0].model_dump()
    assert set(STAGES) < set(start(run, encoder, sequences=[first]))
    found = json.loads((run.folder / "metrics.json").read_text())
    assert list(found["evaluate"]["fid"]) == ["axt2"]
    assert found["evaluate"]["faithfulness"] is None
    synthetic = Cohort.read(run.synthetic)
    assert synthetic.check()["sequences"] == {"axt2": 36}
    assert not list(run.synthetic.rglob("adc*"))


def test_exams_without_lesion_masks_are_told(encoder, tmp_path, stages_here):
    """The recipe weighs lesions: the training says how many exams it learns without that weight, and learns them."""
    cohort = write_phantoms(tmp_path / "cohort", 24, shape=(32, 32, 8))
    replace(cohort, table=cohort.table.assign(truth="")).write()
    run = Run(tmp_path / "unmasked")
    start(run, encoder, SMALL | {"cohort": {"source": str(cohort.root)}}, ["train"])
    (note,) = json.loads(run.metrics("train").read_text())["notes"]
    learnt = int((cohort.table.split == "train").sum())
    assert f"{learnt} of {learnt} exams to learn from have none" in note
    assert note in run.executed("train").read_text(encoding="utf-8")


def test_mirrored_and_reworded_exams(tmp_path, encoder, stages_here):
    """Every exam of the training part is shown in four ways; the model says so, and of which parts it is."""
    run = Run(tmp_path / "views")
    start(run, encoder, targets=["train"], **{"train.mirror": True, "train.rewrites": 1})
    train = Cohort.read(run.cohort).subset(split="train")
    metrics = json.loads(run.metrics("train").read_text())
    reported = sum(exam.has_report for exam in train)
    assert metrics["exams"] == metrics["mirrored exams"] == len(train)
    assert metrics["views"] == 2 * (len(train) + reported)
    card = json.loads((run.model / "provenance.json").read_text())
    assert card["shown"]["views"] == card["exams"] == metrics["views"]
    assert set(card["parts"]) == {"autoencoder", "text_encoder"}
    card["parts"]["autoencoder"] = "0" * 16
    (run.model / "provenance.json").write_text(json.dumps(card))
    with pytest.raises(CcellaError, match="trained with the autoencoder 0000000000000000"):
        start(run, encoder, targets=["generate"], **{"train.mirror": True, "train.rewrites": 1})


def test_a_run_of_another_recipe_is_refused(run):
    """Another recipe in the same folder would mix two studies."""
    before = made(run)
    with pytest.raises(CcellaError, match="found a run of recipe 'tiny', expected 'phantom'"):
        execute_run(run, "phantom")
    assert made(run) == before


def test_a_failed_stage_keeps_its_notebook(tmp_path, encoder):
    """The notebook that failed shows its error; nothing of the stage counts as done."""
    run = Run(tmp_path / "broken")
    nowhere = {"cohort": {"source": str(tmp_path / "nowhere")}}
    with pytest.raises(CcellaError, match=f"stage cohort failed: .*{tmp_path.name}.nowhere"):
        start(run, encoder, nowhere)
    assert errors(run.executed("cohort")) == ["CcellaError"]
    assert not run.metrics("cohort").exists()
    assert not run.cohort.exists()


STEPS = 400
SAVED_EVERY = 3  # steps


def training_in_a_process(run, encoder) -> subprocess.Popen:
    """Ask for a longer training in a process that can be killed."""
    call = f"""
from ccella.recipe import load_recipe
from ccella.studies.engine import execute_run

recipe = load_recipe("tiny", {{"text.encoder": {encoder!r}, "train.steps": {STEPS}}})
execute_run({str(run.folder)!r}, recipe, ["train"], cores=2)
"""
    return subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_in_the_middle_of_training(run, encoder):
    """SIGKILL to the engine's caller; the same call then goes on from the last state and loses no step."""
    log, model = run.model / "metrics.csv", run.model / "of.json"
    former = model.read_text()

    def rows():
        """What is logged of the new model's training, a line a step."""
        try:
            if model.read_text() == former:
                return []
            return log.read_text().splitlines()[1:]
        except FileNotFoundError:  # the former model was set aside this moment, or no step is done
            return []

    process = training_in_a_process(run, encoder)
    while len(rows()) < 12:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    kill(process)
    time.sleep(3)  # the notebook's own process sees that the engine is gone
    before = rows()
    assert 12 <= len(before) < STEPS
    assert not run.metrics("train").is_file()
    time.sleep(2)
    assert rows() == before, "training went on unseen"

    assert start(run, encoder, {}, ["train"], **{"train.steps": STEPS}) == ["train"]
    after = rows()
    steps = [int(row.split(",")[0]) for row in after]
    assert steps == list(range(1, STEPS + 1))
    kept = len(before) - SAVED_EVERY  # up to the last state, the times of the steps are those of the first try
    assert after[:kept] == before[:kept]
    assert len(list((run.folder / "models").iterdir())) == 1, "the former model waits"
