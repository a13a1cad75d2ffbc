"""What the tests of the command line need: a small untrained generator, and `ccella` as in a shell.

And stages without an engine: in a fork of the test's process, which has imported what a kernel imports in ten seconds.
"""

import contextlib
import io
import multiprocessing
import os
from pathlib import Path
from typing import NamedTuple

MARKER = "xylophone"  # stands in every report of these tests; report text must be in no output and no error
REPORT = f"MRI prostate. Left mid peripheral zone lesion of 14 mm, PI-RADS 5. The {MARKER} is unremarkable.\n"
EXAM_COMMANDS = ("phantom", "check", "describe", "merge", "card", "generate", "explore", "export")
RUN_COMMANDS = ("run", "encode", "train", "evaluate", "classify", "ablate")
PART_COMMANDS = ("fit-autoencoder", "fit-text", "fit-features", "adopt")
COMMANDS = (*EXAM_COMMANDS, *RUN_COMMANDS, *PART_COMMANDS, "recipes", "plan", "rerun")


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def words_of(options: dict) -> list:
    """Options as words of a command line: `per_report=3` is `--per-report 3`, a tuple is several values, True none."""
    words = []
    for name, value in options.items():
        words.append("--" + name.replace("_", "-"))
        if value is True:
            continue
        words += value if isinstance(value, tuple) else (value,)
    return words


def ccella(*arguments, **options) -> Ended:
    """Call the command line in this process; `ccella("phantom", folder, grid=(16, 16, 8))`."""
    from ccella.cli import main

    words = [str(word) for word in (*arguments, *words_of(options))]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def state(folder: Path) -> dict[str, tuple]:
    """Everything in a folder: names, times, contents; what was found by a check or hashed is kept in hidden files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name in (".checked.json", ".content.json"):
            continue
        name = path.relative_to(folder).as_posix()
        found[name] = (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else ()
    return found


def write_text_encoder(folder: Path) -> Path:
    """Write an untrained text encoder of width 16; give its folder."""
    import torch
    from transformers import T5EncoderModel

    from ccella.models.text import save_text_encoder, small_t5_config, train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer([REPORT], 200)
    encoder = T5EncoderModel(small_t5_config(len(tokenizer), 16, 1, 2))
    return save_text_encoder(encoder, tokenizer, folder)


def write_generator(folder: Path, **overrides) -> Path:
    """Write a run whose model was never trained, with a text encoder of its own; give its folder."""
    from ccella.core import write_json
    from ccella.models.ldm import LatentDiffusion, save_model
    from ccella.models.text import load_text_encoder
    from ccella.recipe import load_recipe

    text = write_text_encoder(folder / "text")
    recipe = load_recipe("tiny", {"text.encoder": str(text), "model.text_width": 16} | overrides)
    empty = load_text_encoder(text).encode([""], 512, False)[0]
    model = LatentDiffusion(recipe.model, 1.0, empty)
    save_model(model, folder / "model", recipe, {"spacing_mm": [3.0, 3.0, 8.0]})
    write_json(folder / "model" / "limits.json", {"axt2": [9.0, 850.0], "highb": [1.0, 52.0], "adc": [0.0, 3000.0]})
    return folder


def _execute(notebook: Path, executed: Path, parameters: dict, folder: Path) -> None:
    """Execute a notebook in this process, which ends: with 0 where every cell passed."""
    import nbformat
    from execnb.shell import CaptureShell
    from fastcore.nbio import read_nb, write_nb

    os.chdir(folder)
    content = nbformat.read(notebook, 4)
    (cell,) = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    executed.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, executed)
    shell, content = CaptureShell(), read_nb(executed)
    with contextlib.suppress(Exception):  # what a cell raised stands in its output
        shell.run_all(content, exc_stop=True)
    write_nb(content, executed)
    os._exit(bool(shell.exc))


def execute_here(notebook: Path, executed: Path, parameters: dict, folder: Path) -> bool:
    """Execute a stage's notebook in a fork of this process, and keep it with its outputs; True where all cells passed.

    Paths may be relative to this process's folder, parameters to `folder`.
    """
    import ccella.studies.adaptation
    import ccella.studies.run_measures
    import ccella.studies.stages  # noqa: F401

    given = (notebook.resolve(), executed.resolve(), parameters, folder)
    process = multiprocessing.get_context("fork").Process(target=_execute, args=given)
    process.start()
    process.join()
    return process.exitcode == 0


def _needed(cells: dict, targets) -> set[str]:
    """Name some cells of a plan and all that they need."""
    names = set(targets)
    for name in targets:
        names |= _needed(cells, cells[name]["after"])
    return names


def run_cells_here(folder: Path, plan: dict, targets, cores: int, device: str, *_, **__) -> list[str]:
    """Do what the engine's `run_engine` does, one cell after another; what has its metrics is not done again."""
    import yaml

    from ccella.core import CcellaError
    from ccella.studies.engine import failure_text, write_plan
    from ccella.studies.run import Run
    from ccella.studies.run_page import build_report

    write_plan(folder, plan, device)
    cells, done = plan["cells"], []
    needed = _needed(cells, targets or cells)
    for name, cell in cells.items():  # in a plan, what a cell needs stands before it
        if name not in needed or (folder / "metrics" / f"{name}.json").is_file():
            continue
        parameters = yaml.safe_load((folder / "logs" / f"{name}.yaml").read_text()) | {"threads": cell["threads"]}
        notebook, executed = Path(plan["notebooks"]) / Path(cell["executed"]).name, folder / cell["executed"]
        if not execute_here(notebook, executed, parameters, folder):
            raise CcellaError(f"stage {name} failed: {failure_text(folder, cells, name)}")
        done.append(name)
    if done and not targets:
        build_report(Run(folder))
        done.append("page")
    return done


def execute_notebook_here(notebook: Path, executed: Path, parameters: Path, log: Path, doing: str) -> None:
    """Do what `ccella.run_commands.execute_notebook` does."""
    import yaml

    from ccella.core import CcellaError
    from ccella.studies.engine import error_in

    if not execute_here(notebook, executed, yaml.safe_load(parameters.read_text()), Path.cwd()):
        raise CcellaError(error_in(executed) or f"see {log}")
