"""Every number of README's prose is a record's own: it is written from the record's metrics, and no other is found."""

import re
from pathlib import Path

import pytest
from site_figures import figures_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\([^)]*\)")
DECIMAL = re.compile(r"\d+\.\d+")
NO_FIGURES = ("Python 3.11", "Apache-2.0")

# What is said, and which figures of which record stand in it, in their order.
SAID = (
    ("that took {:.1f} minutes", "demo", ("minutes",)),
    ("on the reported side in {:.2f} of the synthetic exams", "demo", ("synthetic.side",)),
    ("in {:.2f} of the synthetic when the reports are shuffled", "demo", ("synthetic.side_shuffled",)),
    (
        "side that the report names | {:.2f} | {:.2f} | {:.2f}: shuffled reports |",
        "steering",
        ("all seeds.side", "real.side", "real.side_shuffled"),
    ),
    (
        "level that the report names | {:.2f} | {:.2f} | {:.2f}: shuffled reports |",
        "steering",
        ("all seeds.level", "real.level", "real.level_shuffled"),
    ),
    (
        "changes most where it should | {:.2f} | {:.2f}: painted twins | {:.2f}: the same findings",
        "counterfactual",
        ("side flipped.generated.lands", "side flipped.painted.lands", "side flipped.reworded.lands"),
    ),
    (
        "share in these places | {:.2f} | {:.2f}: painted twins | {:.2f}: change spread evenly",
        "counterfactual",
        ("side flipped.generated.mass", "side flipped.painted.mass", "side flipped.generated.mass_even"),
    ),
    ("trained on (AUC) | {:.2f} | –", "appraisal", ("generator.membership",)),
    ("{:.2f}: a copier", "appraisal", ("copier.membership",)),
    (
        "these alone (AUC) | {:.2f} | {:.2f} | {:.2f}: both together |",
        "augment",
        ("synthetic.AUC", "real.AUC", "both.AUC"),
    ),
    (
        "next institution (AUC) | {:.2f} | {:.2f} | {:.2f}: all of its own exams alone |",
        "adapt",
        ("bpMRI.synthetic.0%.AUC", "bpMRI.real.0%.AUC", "bpMRI.scratch.100%.AUC"),
    ),
    ("the class that is read from it | {:.2f} |", "ablation", ("ccella.FID 3D",)),
    ("report, no class | {:.2f} |", "ablation", ("ella_maisi.FID 3D",)),
    ("neither | {:.2f} |", "ablation", ("maisi.FID 3D",)),
)


def value_of(record: str, name: str) -> float:
    """Read a figure of a record, without its interval."""
    figure = figures_of(record)[name]
    return figure["value"] if isinstance(figure, dict) else figure


@pytest.mark.parametrize(("said", "record", "names"), SAID)
def test_a_figure_is_its_records_own(said, record, names):
    words = said.format(*(value_of(record, name) for name in names))
    assert words in README, f"write: {words}"


def test_no_other_figure_is_written():
    """A number typed by hand would outlive the record that it came from."""
    prose = LINK.sub("]", CODE.sub("", README))
    for words in NO_FIGURES:
        prose = prose.replace(words, "")
    for said, record, names in SAID:
        prose = prose.replace(said.format(*(value_of(record, name) for name in names)), "")
    assert not DECIMAL.findall(prose)
