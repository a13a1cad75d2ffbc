"""The recipe `picai`: from files as PI-CAI publishes them to a generator's card, with parts in their published forms.

Exams are phantoms, since no image of PI-CAI is to be had here; weights are random, under the names and in the files of
MAISI's autoencoder and of a FLAN-T5. `make test` walks with small networks on a coarse grid: autoencoder, U-Net and
adapter are narrower than the recipe's, the T5 has its width and one layer. The recipe's own networks and grid take half
an hour of one core: `pytest -m by_hand tests/test_public_data.py`.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from runs import ccella
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from ccella.core import read_json, write_json
from ccella.exams.cohort import Cohort
from ccella.generators.exam_generator import load_generator
from ccella.measures.stats import estimate_text
from ccella.models.autoencoder import MAISI_FILES, Vae, memory_of
from ccella.models.ldm import LatentDiffusion, count_parameters, save_model
from ccella.models.text import load_text_encoder
from ccella.recipe import VaeConfig, load_recipe
from ccella.studies.run import STAGES

SEQUENCES = ("axt2", "highb", "adc")
AUTOENCODER = "autoencoder_epoch273.pt"
ENCODER = "flan-t5-base"
EXAMS = 28  # for two halves of 12 patients or more, some of whom come twice
COARSE = ["grid.shape=[32,32,32]", "grid.spacing_mm=[3,3,2.25]", "classifier.spacing_mm=[3,3,2.25]"]
SHORT = ["classifier.shape=[32,32,32]", "classifier.epochs=2", "train.steps=2", "sample.steps=2"]
FEW = ["encode.reconstructions=2", "evaluate.untrained=4", "evaluate.draws=5"]
SMALL_VAE = {"channels": (8, 8, 16), "norm_groups": 8}
SMALL = ["vae.channels=[8,8,16]", "vae.norm_groups=8", "model.unet.channels=[8,8,16,16]", "model.unet.norm_groups=8"]
SMALL += ["model.unet.head_channels=8", "model.adapter.blocks=2", "model.adapter.latents=8", "classifier.network=small"]


def test_the_sizes_that_the_recipe_promises():
    """A U-Net of 30 to 60 million weights, exams in a box that holds a gland, a decoder that a small card takes."""
    recipe = load_recipe("picai")
    with torch.device("meta"):
        sizes = count_parameters(LatentDiffusion(recipe.model))
        vae = Vae(recipe.vae)
    assert sizes == {"unet": 51_297_836, "adapter": 26_136_998, "heads": 9_438_374, "total": 77_434_834}
    assert sum(weight.numel() for weight in vae.parameters()) == 20_944_897
    assert recipe.latent_shape == (12, 32, 32, 16)
    box_mm = [n * mm for n, mm in zip(recipe.grid.shape, recipe.grid.spacing_mm)]
    assert box_mm == [96, 96, 72]
    seen_mm = [n * mm for n, mm in zip(recipe.classifier.shape, recipe.classifier.spacing_mm)]
    assert seen_mm == box_mm, "the classifier sees all of the box, and no padding"
    assert memory_of(vae, recipe.latent_shape[1:], torch.device("cpu")) < 2 < recipe.sample.memory_gb
    assert recipe.vae.weights in MAISI_FILES
    assert (recipe.text.encoder, recipe.model.text_width) == ("google/flan-t5-base", 768)


def write_autoencoder(folder: Path, **sizes) -> None:
    """Write random weights under MAISI's names, a PyTorch file of tensors."""
    torch.manual_seed(0)
    torch.save(Vae(VaeConfig(**sizes)).net.state_dict(), folder / AUTOENCODER)


def unigrams(texts: list[str]) -> list[tuple[str, float]]:
    """Learn pieces with their scores, as SentencePiece does."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"]]


def write_t5(folder: Path, texts: list[str], layers: int) -> None:
    """Write a T5 as it is published: encoder and decoder in safetensors, a tokenizer with a hundred further tokens."""
    torch.manual_seed(0)
    tokenizer = T5Tokenizer(vocab=unigrams(texts), extra_ids=100)
    sizes = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": layers, "vocab_size": 512}
    config = T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    T5ForConditionalGeneration(config).save_pretrained(folder / ENCODER)
    tokenizer.save_pretrained(folder / ENCODER)


def succeeds(*words, **options) -> str:
    ended = ccella(*words, **options)
    assert ended.code == 0, ended.err
    return ended.out


class Place(NamedTuple):
    """A user's folder: the imported cohort in it, and the settings with which runs are started from there."""

    folder: Path
    settings: list[str]


def import_public(exams: int) -> None:
    """Write phantoms as PI-CAI publishes exams, and bring them in with composed reports, in the working folder."""
    succeeds("phantom", "public", layout="picai", exams=exams, grid=(48, 48, 16), seed=5, label_rule="histology")
    crop = {"crop": True, "margin": 40, "compose": True}
    succeeds("import", "picai", images="public/images", labels="public/labels", out="exams", **crop)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        import_public(EXAMS)
        write_autoencoder(folder, **SMALL_VAE)
        write_t5(folder, [exam.text() for exam in Cohort.read("exams")], 1)
    return Place(folder, [*COARSE, *SHORT, *FEW, *SMALL])


def set_options(settings: list[str]) -> list[str]:
    """Settings as words of a command line; the parts by their relative paths, as a user types them."""
    of_parts = [f"vae.weights={AUTOENCODER}", f"text.encoder={ENCODER}"]
    return [word for setting in (*of_parts, *settings) for word in ("--set", setting)]


def test_a_published_t5_is_read_as_it_lies(place):
    """Its decoder is left aside, and its tokenizer's further tokens are none of the report's."""
    encoder = load_text_encoder(place.folder / ENCODER)
    text = next(iter(Cohort.read(place.folder / "exams"))).text()
    (states,) = encoder.encode([text])
    assert states.shape == (len(encoder.tokens(text)), 768)
    assert encoder.tokens(text)[-1] == encoder.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (f"vae.weights=elsewhere/{AUTOENCODER}", "found no VAE weights"),
        ("text.encoder=elsewhere/flan", "found neither a folder nor such a name"),
        ("model.text_width=1024", "found states 768 wide, expected 1024; set model.text_width to 768"),
    ],
)
def test_parts_are_looked_for_before_anything_is_computed(place, monkeypatch, wrong, words):
    monkeypatch.chdir(place.folder)
    refused = ccella("run", "wrong", *set_options([*place.settings, wrong]), recipe="picai", cohort="exams")
    assert refused.code == 1 and words in refused.err
    assert not Path("runs/wrong").exists()


def check_run(found: dict, exams: Cohort) -> None:
    """Every exam was encoded once, has a report and a label by histology, and an exam that was made from its report."""
    assert set(found) == set(STAGES)
    assert found["encode"]["exams"] == found["generate"]["exams"] == len(exams)
    counts = found["cohort"]["sets"]["cohort"]
    assert counts["reports"] == counts["glands"] == counts["lesion_masks"] == len(exams)
    assert (counts["label_rule"], counts["label_unknown"]) == ("histology", 0)
    assert found["train"]["mirrored exams"] == found["train"]["exams"]
    assert "mean nothing on patients" in found["evaluate"]["notes"][0]


def check_card(page: str, found: dict) -> None:
    """What was used and measured stands on the card; no exam, no words of a report, no path of this machine."""
    exams = Cohort.read("runs/mine/cohort")
    learned = exams.subset(split="train")
    n, patients = len(learned), learned.table.patient_id.nunique()
    agreement = found["evaluate"]["faithfulness"]
    side = [estimate_text(agreement[of]["side"]) for of in ("synthetic", "real")]
    for line in (
        f"| exams | {n} of {patients} patients (parts: train) |",
        f"| reports | {n} (composed: {n}) |",
        f"| masks of lesions | used: a voxel in a lesion's mask counts 30 times in the loss; {n} of {n} exams have",
        "| mirror images | used, with the sides in the report swapped |",
        f"| text encoder | `{ENCODER}`, sha256 `{found['encode']['weights_sha256']['text']}`",
        f"| image and report agree: side | {side[0]} | {side[1]} |",
        f"- {n} of {n} reports were composed from masks and scores",
    ):
        assert line in page
    words = {line for exam in exams for line in exam.text().splitlines() if len(line.split()) > 4}
    assert not [line for line in words if line in page]
    assert not [exam_id for exam_id in exams.table.exam_id if exam_id in page]
    assert str(Path.cwd()) not in page


@pytest.mark.slow
def test_from_files_to_a_card(place, monkeypatch, stages_here):
    """All stages from relative paths; the same command again does nothing; the card says what was used and measured."""
    monkeypatch.chdir(place.folder)
    start = ("run", "mine", *set_options(place.settings))
    options = {"recipe": "picai", "cohort": "exams", "cores": 1, "device": "cpu"}
    assert "page, done" in succeeds(*start, **options)
    assert "nothing left to do" in succeeds(*start, **options)
    found = read_json("runs/mine/metrics.json")
    check_run(found, Cohort.read("exams"))
    file = Path("runs/mine/model/README.md")
    assert f"{file}: written" in succeeds("card", "mine", name="PI-CAI in small")
    page = file.read_text(encoding="utf-8")
    assert "\n# PI-CAI in small\n" in page and page.count("Not measured") == 1
    check_card(page, found)


@pytest.mark.slow
def test_copies_of_the_run_come_onto_its_card(place, monkeypatch, stages_here):
    """The evaluation of a run's two cohorts, in its folder `evaluation`, fills the line; answers stay."""
    monkeypatch.chdir(place.folder)
    file = Path("runs/mine/model/README.md")
    file.write_text(file.read_text(encoding="utf-8").replace("✎ of these weights;", "CC BY-NC 4.0;"), encoding="utf-8")
    pair = {"real": "runs/mine/cohort", "synthetic": "runs/mine/synthetic", "out": "runs/mine/evaluation"}
    succeeds("evaluate", **pair, cores=1, device="cpu")
    succeeds("card", "mine")
    page, copies = file.read_text(encoding="utf-8"), read_json("runs/mine/evaluation/evaluation.json")["copies"]
    assert f"| share of synthetic exams that are copies | {estimate_text(copies['rate'])} |" in page
    assert f"| exams that the generator saw, and that were compared | {copies['n_seen']} |" in page
    assert "copies found by it, mean nothing on patients" in page.partition("## Copies of patients")[2]
    assert "| Licence | CC BY-NC 4.0; the exams," in page and "Not measured" not in page


@pytest.mark.slow
def test_the_generator_is_used_from_anywhere(place, tmp_path, monkeypatch):
    """The run's recipe names its parts by absolute paths, though they were given by relative ones."""
    monkeypatch.chdir(tmp_path)
    Path("report.txt").write_text("PI-RADS 5 lesion in the left mid peripheral zone, 20 mm.", encoding="utf-8")
    succeeds("generate", run=place.folder / "runs" / "mine", report="report.txt", out="made", device="cpu")
    assert Cohort.read("made").check()["exams"] == 1


@pytest.mark.slow
@pytest.mark.by_hand
def test_the_walk_with_the_recipes_networks(tmp_path, monkeypatch):
    """MAISI's autoencoder, FLAN-T5 base and the U-Net at their own sizes, on the coarse grid."""
    monkeypatch.chdir(tmp_path)
    import_public(14)
    write_autoencoder(tmp_path)
    write_t5(tmp_path, [exam.text() for exam in Cohort.read("exams")], 12)
    options = {"recipe": "picai", "cohort": "exams", "cores": 1, "device": "cpu"}
    assert "page, done" in succeeds("run", "mine", *set_options([*COARSE, *SHORT, *FEW]), **options)
    succeeds("card", "mine")
    assert "| parameters | 77.43 M: 51.30 M unet, " in Path("runs/mine/model/README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.by_hand
def test_an_exam_of_the_recipes_grid(tmp_path, monkeypatch):
    """One exam of 128 × 128 × 64 voxels from a report, by networks of the recipe's sizes, in one sampling step."""
    monkeypatch.chdir(tmp_path)
    report = "PI-RADS 5 lesion in the left mid peripheral zone, 20 mm."
    write_autoencoder(tmp_path)
    write_t5(tmp_path, [report] * 20, 12)
    recipe = load_recipe("picai", {"vae.weights": AUTOENCODER, "text.encoder": ENCODER, "sample.steps": 1})
    empty = load_text_encoder(ENCODER).encode([""])[0]
    save_model(LatentDiffusion(recipe.model, 1.0, empty), "model", recipe, {})
    write_json("model/limits.json", {"axt2": [9.0, 850.0], "highb": [1.0, 52.0], "adc": [0.0, 3000.0]})
    made = load_generator("model", "cpu").from_report(report)
    assert {name: volume.shape for name, volume in made.volumes.items()} == dict.fromkeys(SEQUENCES, (128, 128, 64))
    assert tuple(made.request.spacing_mm) == recipe.grid.spacing_mm
