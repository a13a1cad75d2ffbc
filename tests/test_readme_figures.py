"""Every number of README's prose is a record's own: it is written from the record's metrics, and no other is found."""

import json
import re
from pathlib import Path

import pytest

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
    ("(AUC {:.2f} against {:.2f})", "augment", ("synthetic.AUC", "real.AUC")),
    ("reaches AUC {:.2f} at institution 2", "adapt", ("bpMRI.real.0%.AUC",)),
    ("one pretrained on synthetic exams {:.2f}", "adapt", ("bpMRI.synthetic.0%.AUC",)),
    ("of its own exams alone give {:.2f}", "adapt", ("bpMRI.scratch.100%.AUC",)),
)


def value_of(record: str, name: str) -> float:
    """Read a figure of a record, without its interval."""
    metrics = json.loads((ROOT / "nbs" / "records" / f"{record}.metrics.json").read_text(encoding="utf-8"))
    figure = metrics[name]
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
