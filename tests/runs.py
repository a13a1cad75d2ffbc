"""What the tests of the command line need: a small untrained generator, and `ccella` as in a shell."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

MARKER = "xylophone"  # stands in every report of these tests; report text must be in no output and no error
REPORT = f"MRI prostate. Left mid peripheral zone lesion of 14 mm, PI-RADS 5. The {MARKER} is unremarkable.\n"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def ccella(*arguments) -> Ended:
    """Call the command line in this process."""
    from ccella.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def state(folder: Path) -> dict[str, tuple]:
    """Everything in a folder: names, contents, times."""
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.read_bytes()) if p.is_file() else ()
        for p in sorted(folder.rglob("*"))
    }


def write_generator(folder: Path, **overrides) -> Path:
    """Write a run whose model was never trained, with a text encoder of its own; give its folder."""
    import torch
    from transformers import T5EncoderModel

    from ccella.core import write_json
    from ccella.models.ldm import LatentDiffusion, save_model
    from ccella.models.text import load_text_encoder, save_text_encoder, small_t5_config, train_tokenizer
    from ccella.recipe import load_recipe

    torch.manual_seed(0)
    tokenizer = train_tokenizer([REPORT], 200)
    save_text_encoder(T5EncoderModel(small_t5_config(len(tokenizer), 16, 1, 2)), tokenizer, folder / "text")
    recipe = load_recipe("tiny", {"text.encoder": str(folder / "text"), "model.text_width": 16} | overrides)
    empty = load_text_encoder(folder / "text").encode([""], 512, False)[0]
    model = LatentDiffusion(recipe.model, 1.0, empty)
    save_model(model, folder / "model", recipe, {"spacing_mm": [3.0, 3.0, 8.0]})
    write_json(folder / "model" / "limits.json", {"axt2": [9.0, 850.0], "highb": [1.0, 52.0], "adc": [0.0, 3000.0]})
    return folder
