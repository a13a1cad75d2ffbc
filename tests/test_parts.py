"""A part of a generator, made from nothing by its stage notebook: its files, its provenance, and what is refused."""

import json

import pytest

from ccella.core import CcellaError
from ccella.measures.published import load_feature_network
from ccella.models.autoencoder import load_vae
from ccella.models.text import SHIPPED_TEXT, load_text_encoder
from ccella.models.words import MOST_STRANGE, read_known_words, strange_words, word_spans
from ccella.organs.prostate.phantom import write_phantoms
from ccella.organs.prostate.report_course import report_course, report_probe
from ccella.part_commands import fit_part
from ccella.recipe import AUTOENCODER_TRAINING, FEATURE_TRAINING, TEXT_TRAINING, load_recipe

pytestmark = pytest.mark.slow
SEQUENCES = ("axt2", "highb", "adc")
ON_ONE_CORE = {"threads": 1, "device": "cpu"}
TEXT = {**ON_ONE_CORE, "probe": [200, 60, 60], "held_out": 10}
FEATURES = {**ON_ONE_CORE, "held_out": 8}
AUTOENCODER = {**ON_ONE_CORE, "held_out": 8}


def printed(folder, notebook: str) -> str:
    """What the cells of an executed notebook printed."""
    cells = json.loads((folder / notebook).read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join("".join(output.get("text", "")) for output in outputs)


def test_a_text_encoder_from_nothing(tmp_path, request):
    """The same command again takes no step and changes no weight; other settings change nothing of what is there."""
    out, recipe = tmp_path / "text", load_recipe("tiny")
    fit_part("fit_text.ipynb", out, recipe, TEXT_TRAINING, TEXT)
    assert "6 steps taken now" in printed(out, "fit_text.ipynb")
    first = load_text_encoder(out)
    assert first.width == recipe.model.text_width
    request.getfixturevalue("stages_here")  # a kernel of its own was seen to do it once
    fit_part("fit_text.ipynb", out, recipe, TEXT_TRAINING, TEXT)
    assert "0 steps taken now" in printed(out, "fit_text.ipynb")
    assert load_text_encoder(out).sha == first.sha
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(CcellaError, match=r"other settings \(seed\)"):
        fit_part("fit_text.ipynb", out, recipe.changed({"seed": 2}), TEXT_TRAINING, TEXT)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_what_a_text_encoder_says_of_itself(tmp_path, stages_here):
    out, recipe = tmp_path / "text", load_recipe("tiny", {"train_text.steps": 2, "seed": 3})
    fit_part("fit_text.ipynb", out, recipe, TEXT_TRAINING, TEXT)
    about = json.loads((out / "about.json").read_text())["provenance"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert (about["seed"], about["namespace"], about["institutions"], about["steps"]) == (3, "shipped", [1], 2)
    assert about["recipe"] == metrics["recipe"] == recipe.hash(TEXT_TRAINING)
    assert metrics["sha256"] == load_text_encoder(out).sha
    assert metrics["side.stranger"]["n"] <= 60
    known = read_known_words(out)
    assert known.reports == about["texts"]
    assert {"prostate", "lesion"} <= known.words


def test_the_shipped_encoder_keeps_the_words_of_its_reports():
    """Of the first 200 of its reports every word is known and none is shorter; of strangers' reports some words are."""
    shipped, encoder = read_known_words(SHIPPED_TEXT), load_text_encoder()
    course = report_course(200, load_recipe("phantom").seed, "shipped")
    pieces = [len(encoder.tokens(text, 10_000)) for text in course.texts]
    assert min(pieces) >= shipped.shortest > 100
    assert not [text for text in course.texts if strange_words(shipped, text)]
    strangers, _ = report_probe("stranger", 20, 0, "public")
    shares = [len(strange_words(shipped, text)) / len(word_spans(text)) for text in strangers]
    assert 0 < max(shares) < MOST_STRANGE, "another reader's reports are marked, not doubted"


def test_a_feature_network_from_nothing(tmp_path, stages_here):
    out, recipe = tmp_path / "features", load_recipe("tiny")
    fit_part("fit_features.ipynb", out, recipe, FEATURE_TRAINING, FEATURES)
    network = load_feature_network("phantom", out)
    config = json.loads((out / "config.json").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    assert config["provenance"]["institutions"] == [1, 2]
    assert config["provenance"]["recipe"] == recipe.hash(FEATURE_TRAINING)
    assert metrics["sha256"] == network.sha256
    fit_part("fit_features.ipynb", out, recipe, FEATURE_TRAINING, FEATURES)
    assert load_feature_network("phantom", out).sha256 == network.sha256


def test_an_autoencoder_from_nothing(tmp_path, stages_here):
    """It says whose phantoms it saw and what it keeps; the same command again takes no step and changes no weight."""
    out, recipe = tmp_path / "vae", load_recipe("tiny")
    fit_part("fit_autoencoder.ipynb", out, recipe, AUTOENCODER_TRAINING, AUTOENCODER)
    first = load_vae(out).fingerprint()
    about = json.loads((out / "config.json").read_text())["provenance"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert (about["institutions"], about["steps"], about["exams"]) == (["1"], 6, 6)
    assert about["recipe"] == metrics["recipe"] == recipe.hash(AUTOENCODER_TRAINING)
    assert metrics["fingerprint"] == first and metrics["psnr_db_truth.adc"]["n"] == 8
    assert {f"fid.{what}.{name}" for what in ("floor", "reconstructed") for name in SEQUENCES} <= metrics.keys()
    fit_part("fit_autoencoder.ipynb", out, recipe, AUTOENCODER_TRAINING, AUTOENCODER)
    assert "0 steps taken now" in printed(out, "fit_autoencoder.ipynb")
    assert load_vae(out).fingerprint() == first


def test_an_autoencoder_of_ones_own_exams(tmp_path, stages_here):
    """A cohort's part train is learnt from, its part test measured on; a perceptual loss by the shipped network."""
    cohort = write_phantoms(tmp_path / "cohort", 24, shape=(32, 32, 8))
    out, recipe = tmp_path / "vae", load_recipe("tiny", {"train_vae.perceptual": 0.1, "train_vae.steps": 2})
    given = {**ON_ONE_CORE, "cohort": str(cohort.root)}
    fit_part("fit_autoencoder.ipynb", out, recipe, AUTOENCODER_TRAINING, given)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["exams"] == (cohort.table.split == "train").sum()
    assert metrics["held_out"] == (cohort.table.split == "test").sum()
