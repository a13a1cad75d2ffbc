"""The how-to pages: each command, option, setting, recipe, output and message on them is one that the library has."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from runs import ccella, write_text_encoder
from test_readme import BLOCK

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "howto").glob("*.md"))}
QUOTED = re.compile(r"`([^`\n]+)`")
KEY = re.compile(r"[a-z_]+(\.[a-z_]+)+")
FILES = (".csv", ".def", ".html", ".ipynb", ".json", ".md", ".pt", ".pth", ".yaml")
YAML = re.compile(r"^```yaml\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(
    r"^```sh\n(?P<line>ccella plan [^\n]*)\n```\n\n```text\n(?P<said>.*?)^```", re.MULTILINE | re.DOTALL
)
SAID = re.compile(r"^```text\n(?P<said>.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

SENTENCE = "PI-RADS 5 lesion in the left mid peripheral zone, 20 mm."
SMALL = """
name: released
parent: ccella
grid: {shape: [32, 32, 16], spacing_mm: [3, 3, 4]}
vae: {channels: [8, 8, 16], norm_groups: 4, weights: null}
text: {encoder: text, max_length: 16, precision: fp32}
model:
  text_width: 16
  adapter: {width: 32, blocks: 2, latents: 4, time_channels: 16, time_width: 32, head_hidden: 8}
  unet: {channels: [32, 64], attention: [false, true], res_blocks: 1}
sample: {steps: 2, precision: fp32}
"""


def prose_of(page: str) -> str:
    return CODE.sub("", page)


def blocks(page: str, language: str) -> list[str]:
    return [found["code"] for found in BLOCK.finditer(page) if found["language"] == language]


def command_in(line: str) -> list[str]:
    """The words after ccella's name in a line of a shell; none where it calls something else."""
    words = shlex.split(line, comments=True)
    names = [Path(word).name for word in words]
    for name in ("ccella", "ccella.sif"):
        if name in names and "build" not in words:
            return words[names.index(name) + 1 :]
    return []


def commands_of(page: str) -> list[list[str]]:
    """The commands of ccella in a page's blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := command_in(line))]


def find_command(words: list[str]) -> tuple[object, str, list[str]]:
    """The command that some words call, its name, and the words that are left for it."""
    from ccella.cli import app

    command, name, rest = typer.main.get_command(app), "ccella", words
    while hasattr(command, "resolve_command") and rest:
        context = command.make_context(name, [], resilient_parsing=True)
        name, command, rest = command.resolve_command(context, rest)
    assert command is not None, f"no command: {words}"
    return command, name, rest


def options_of(command) -> set[str]:
    """The options of a command, and of all below it."""
    named = {option for parameter in command.params for option in parameter.opts}
    for below in getattr(command, "commands", {}).values():
        named |= options_of(below)
    return named


def is_setting(key: str) -> bool:
    """Say whether a dotted key is a setting of a recipe or of a stage."""
    from ccella.recipe import load_recipe
    from ccella.studies.run import STAGES

    stage, _, name = key.partition(".")
    if stage in STAGES and name in STAGES[stage].parameters.model_fields:
        return True
    return any(known == key or known.startswith(f"{key}.") for known in load_recipe("ccellapp").flat())


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_known_with_its_options(name):
    """A command line is read as the program reads it: unknown names, options, choices and missing ones are refused."""
    from ccella.recipe import list_recipes
    from ccella.terminal import settings_of

    commands = commands_of(PAGES[name])
    assert len(commands) >= 2
    for words in commands:
        command, called, rest = find_command(words)
        given = command.make_context(called, list(rest)).params
        assert not [key for key in settings_of(given.get("settings")) if not is_setting(key)], words
        recipe = given.get("recipe") or "demo"
        assert recipe.endswith(".yaml") or recipe in list_recipes(), words


@pytest.mark.parametrize("name", PAGES)
def test_what_the_prose_calls_is_there(name):
    """Commands in backticks by name and options, options alone by name, settings by key."""
    every = options_of(find_command([])[0])
    for words in QUOTED.findall(prose_of(PAGES[name])):
        first, *more = words.split()
        if first == "ccella" and more:
            command, _, rest = find_command(more)
            assert {word for word in rest if word.startswith("--")} <= options_of(command), words
        elif first.startswith("--set"):
            assert is_setting(more[0].partition("=")[0]), words
        elif first.startswith("--"):
            assert first in every, words
        elif KEY.fullmatch(words) and not words.endswith(FILES):
            assert is_setting(words), words


@pytest.mark.parametrize("name", PAGES)
def test_a_recipe_on_a_page_can_be_loaded(name, tmp_path):
    from ccella.recipe import load_recipe

    for found in YAML.finditer(PAGES[name]):
        file = tmp_path / "of_the_page.yaml"
        file.write_text(found["code"], encoding="utf-8")
        load_recipe(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if PRINTED.search(page)])
def test_what_a_page_shows_of_a_plan_is_what_is_printed(name, tmp_path, monkeypatch):
    """A figure on a page is the command's own."""
    monkeypatch.chdir(tmp_path)
    for found in PRINTED.finditer(PAGES[name]):
        printed = ccella(*shlex.split(found["line"])[1:]).out
        lines = [line.rstrip() for line in printed.strip().splitlines()]
        assert found["said"].splitlines() == lines, found["line"]


def test_every_page_is_listed_and_tells_what_can_go_wrong():
    index = (ROOT / "docs" / "howto.md").read_text(encoding="utf-8")
    assert len(PAGES) >= 6
    for name, page in PAGES.items():
        assert f"\n{name.removesuffix('.md')}: " in index
        assert page.count("\n## What can go wrong\n") == 1


def adopt_as_on_the_page() -> None:
    """Run the page's `ccella adopt`, on a checkpoint of their form in small."""
    from ccella.core import write_json
    from ccella.models.ldm import LatentDiffusion
    from ccella.recipe import load_recipe

    write_text_encoder(Path("text"))
    Path("released.yaml").write_text(SMALL, encoding="utf-8")
    Path("report.txt").write_text(SENTENCE, encoding="utf-8")
    Path("weights").mkdir()
    weights = LatentDiffusion(load_recipe("released.yaml").model, 1.0).state_dict()
    torch.save({"unet_state_dict": weights, "scale_factor": 1.0}, "weights/ccella.pt")
    write_json("runs/released/metrics/encode.json", {"limits": {"axt2": [0.0, 900.0]}})
    load_recipe("released.yaml").dump(Path("runs/released/recipe.yaml"))
    (line,) = [words for words in commands_of(PAGES["released_weights.md"]) if words[0] == "adopt"]
    made = ccella(*line)
    assert made.code == 0, made.err


def error_of(work: Callable, *arguments, **named) -> str:
    from ccella.core import CcellaError

    with pytest.raises(CcellaError) as refusal:
        work(*arguments, **named)
    return str(refusal.value)


def errors_of_functions(monkeypatch) -> list[str]:
    """What the stages say of weights, precision and processes that cannot be; a stage is not run for it."""
    from ccella.generators.trainer import refuse_precision
    from ccella.models.autoencoder import load_vae
    from ccella.models.released import from_released
    from ccella.models.text import encoder_folder
    from ccella.processes import device_of, refuse_team
    from ccella.terminal import error_line

    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    without_text = {"unet_state_dict": {"unet.conv_in.conv.weight": torch.zeros(8, 4, 3, 3, 3)}, "scale_factor": 1.0}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    errors = [
        error_of(load_vae, "weights/autoencoder_epoch273.pt"),
        error_of(encoder_folder, "weights/flan-t5-xxl"),
        error_of(from_released, without_text, "cascade"),
        error_of(refuse_precision, "fp16", cpu),
        error_of(refuse_team, 4, cuda),
        error_of(refuse_team, 4, cpu, batch=2),
        "ccella: " + error_line(torch.OutOfMemoryError("CUDA out of memory")),
    ]
    if not torch.cuda.is_available():
        return [*errors, "ccella: " + error_of(device_of, "cuda")]
    return [*errors, "ccella: device: found no 'cuda', expected auto, cpu; choose one"]


BAD = (
    "generate --run released_model --report report.txt --out other --device cpu",
    "generate --report report.txt --out other --device cpu --memory 0.0001",
    "import picai --images images --labels images --out picai",
    "import prostate158 images --out p158",
    "import prostate158 p158_phantoms --out my_files",
    "merge p158_phantoms.truth my_cohort --out public",
    "train runs/mine --recipe tiny --profile my_cluster",
    "plan mine.yaml --exams 4",
)


def errors_of_commands() -> list[str]:
    """What the commands in `BAD` say."""
    Path("images").mkdir()
    Path("my_files").mkdir()
    Path("my_files/letter.txt").touch()
    Path("released_model/limits.json").unlink()
    phantoms = {"grid": (16, 16, 8), "exams": 3, "no_split": True}
    assert ccella("phantom", "p158_phantoms", layout="prostate158", **phantoms).code == 0
    assert ccella("phantom", "my_cohort", grid=(16, 16, 8), exams=24, seed=1).code == 0
    ended = [ccella(*line.split()) for line in BAD]
    assert [one.code for one in ended] == [1] * len(BAD)
    return [one.err for one in ended]


def test_the_first_exam_of_released_weights_and_every_message_on_the_pages(tmp_path, monkeypatch):
    """The page's command makes a model that makes an exam; a message that a page shows is one that is printed."""
    monkeypatch.chdir(tmp_path)
    adopt_as_on_the_page()
    made = ccella("generate", run="released_model", report="report.txt", out="first_exam", seed=7, device="cpu")
    assert made.code == 0, made.err
    assert ccella("check", "first_exam").code == 0

    errors = errors_of_functions(monkeypatch) + errors_of_commands()
    pages = "\n".join(PRINTED.sub("", page) for page in PAGES.values())
    shown = [found["said"].strip() for found in SAID.finditer(pages) if not found["said"].startswith("Bootstrap")]
    assert len(shown) >= 12
    for message in shown:
        assert any(message in error for error in errors), message
