"""What the tests of the command line need: a small untrained generator, and `ccella` as in a shell."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

MARKER = "xylophone"  # stands in every report of these tests; report text must be in no output and no error
REPORT = f"MRI prostate. Left mid peripheral zone lesion of 14 mm, PI-RADS 5. The {MARKER} is unremarkable.\n"
EXAM_COMMANDS = ("phantom", "check", "describe", "merge", "card", "generate", "export")
RUN_COMMANDS = ("run", "encode", "train", "evaluate", "classify", "ablate")
PART_COMMANDS = ("fit-autoencoder", "fit-text", "fit-features", "adopt")
COMMANDS = (*EXAM_COMMANDS, *RUN_COMMANDS, *PART_COMMANDS, "recipes", "plan")


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
