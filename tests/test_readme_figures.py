"""Every number of README is a record's own: it is written from the record's metrics, and no other is found.

So is what its tables link, and what it says of the parts that a record is of.
"""

import re
from pathlib import Path

import pytest
import yaml
from site_figures import FIGURE, with_figures
from typed import TYPED, prose_of, without

from ccella.studies.records import read_rerun

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = yaml.safe_load((ROOT / "ccella" / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
NO_FIGURES = ("Python 3.11", "Apache-2.0", "Prostate158", "Four phantom exams")  # the last: in the picture's own name
ADDRESS = re.compile(r"\]\(([^)]+)\)")
RECORD = re.compile(r"\]\(nbs/records/(\w+)\.ipynb\)")

# What is said, with the figures of records that stand in it.
PROSE = (
    f"for {DEMO['train']['steps']} steps",
    "On {{demo[cores]:word}} cores that took {{demo[minutes]:.1f}} minutes",
    "on the reported side in {{demo[synthetic.side]}} of the synthetic exams and in all of the real ones",
    "in {{demo[synthetic.side_shuffled]}} of the synthetic when the reports are shuffled "
    "({{demo[synthetic.side.n]:d}} reports with a lesion on one side)",
)
COMPARED = (
    "| question | synthetic exams | real exams | beside them | record |",
    "|---|---|---|---|---|",
    "side that the report names | {{steering[all seeds.side]}} | {{steering[real.side]}} "
    "| {{steering[real.side_shuffled]}}: shuffled reports |",
    "level that the report names | {{steering[all seeds.level]}} | {{steering[real.level]}} "
    "| {{steering[real.level_shuffled]}}: shuffled reports |",
    "larger than reported, by mm | {{steering[all seeds.size_mm_too_large]:.1f}} "
    "| {{steering[real.size_mm_too_large]:.1f}} "
    "| {{steering[after the autoencoder.size_mm_too_large]:.1f}}: real ones after the autoencoder |",
    "falls on the old side and rises on the new one | {{counterfactual[side flipped.generated.lands]}} "
    "| {{counterfactual[side flipped.painted.lands]}}: painted twins "
    "| {{counterfactual[side flipped.reworded.lands]}}: the same findings in other words |",
    "share in these places | {{counterfactual[side flipped.generated.mass]}} "
    "| {{counterfactual[side flipped.painted.mass]}}: painted twins "
    "| {{counterfactual[side flipped.generated.mass_even]}}: change spread evenly |",
    "trained on (AUC) | {{appraisal[generator.membership]}} | – | {{appraisal[copier.membership]}}: a copier |",
    "these alone (AUC) | {{augment[synthetic.AUC]}} | {{augment[real.AUC]}} | {{augment[both.AUC]}}: both together |",
    "next institution (AUC) | {{adapt[bpMRI.synthetic.0%.AUC]}} | {{adapt[bpMRI.real.0%.AUC]}} "
    "| {{adapt[bpMRI.scratch.100%.AUC]}}: all of its own exams alone |",
)
ABLATED = (
    "| trained alike in small, {{ablation[ccella.FID 3D.n]:word}} seeds | FID in 3D |",
    "|---|---|",
    "the class that is read from it | {{ablation[ccella.FID 3D]}} |",
    "report, no class | {{ablation[ella_maisi.FID 3D]}} |",
    "neither | {{ablation[maisi.FID 3D]}} |",
)
SAID = (*PROSE, *COMPARED, *ABLATED)


def records_in(said: str) -> set[str]:
    """The records whose figures stand in what is said."""
    return {found["record"] for found in FIGURE.finditer(said)}


def table_from(head: str) -> list[str]:
    """The lines of README's table that opens with a line."""
    lines = README[README.index(head) :].partition("\n\n")[0]
    return lines.splitlines()


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def leads_somewhere(address: str) -> bool:
    """Say whether a link's file stands in the repository, with its heading where one is named."""
    name, _, anchor = address.partition("#")
    target = ROOT / (name or "README.md")
    if not target.exists() or not anchor:
        return target.exists()
    headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in map(anchor_of, headings)


@pytest.mark.parametrize("said", SAID)
def test_a_figure_is_its_records_own(said):
    words = with_figures(said)
    assert README.count(words) >= 1, f"write: {words}"


@pytest.mark.parametrize("table", [COMPARED, ABLATED])
def test_a_table_holds_its_head_and_its_rows_together(table):
    """Two columns or two rows that changed places would tell another thing with the same figures."""
    expected = [with_figures(said) for said in table]
    lines = table_from(expected[0])
    assert len(lines) == len(expected)
    for line, said in zip(lines, expected, strict=True):
        assert said in line, f"write: {said}"


@pytest.mark.parametrize("said", [said for said in SAID if records_in(said)])
def test_what_is_said_links_its_record(said):
    """The record that its figures come from, and no other, stands in its line or in the paragraph after its table."""
    place = README.index(with_figures(said))
    line = README[README.rindex("\n", 0, place) :].split("\n")[1]
    below = README[place:].split("\n\n")[1]
    linked = set(RECORD.findall(line)) or set(RECORD.findall(below))
    assert linked == records_in(said)


def test_every_link_leads_somewhere():
    addresses = [address for address in ADDRESS.findall(README) if not address.startswith("https://")]
    assert len(addresses) >= 20
    assert not [address for address in addresses if not leads_somewhere(address)]
    assert leads_somewhere("README.md#what-you-get")
    assert not leads_somewhere("README.md#what-you-lack")


def test_no_other_figure_is_written():
    """A number typed by hand would outlive the record that it came from."""
    prose = without(prose_of(README), NO_FIGURES)
    for said in sorted(SAID, key=len, reverse=True):
        prose = prose.replace(with_figures(said), "")
    assert not TYPED.findall(prose)


def test_what_is_said_of_former_parts_agrees_with_the_records():
    """A record that is made anew would leave the sentence behind."""
    (sentence,) = re.findall(r"The rows [^.]* are of what ships\.", README)
    former, _, present = sentence.partition("; ")
    tables = records_in("".join(ABLATED)) if "the second table" in former else set()
    linked = set(RECORD.findall(README))
    stated = {name for name in linked if read_rerun(ROOT / "nbs" / "records" / f"{name}.ipynb").former}
    assert set(re.findall(r"`(\w+)`", former)) | tables == stated
    assert set(re.findall(r"`(\w+)`", present)) == linked - stated
