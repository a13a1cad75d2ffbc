"""Records: each tells what produced it and how it is run again; two are run again, and an altered figure is found.

`python tests/test_records.py` fills the first cell of every record in from its stored figures.
"""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from runs import ccella

from ccella import record_commands
from ccella.core import CcellaError, packaged, read_json, sha256
from ccella.models.autoencoder import load_vae
from ccella.models.text import load_text_encoder
from ccella.studies import records

ROOT = Path(__file__).resolve().parents[1]
RECORDS = {path.stem: path for path in sorted((ROOT / "nbs" / "records").glob("[!._]*.ipynb"))}
EVERYTHING = ["made", "recipe", "git", "packages", "machine", "seeds", "weights"]
LACKS = {  # what older records do not tell of what produced them; may only shrink
    "ablation": EVERYTHING,
    "adapt": EVERYTHING,
    "augment": EVERYTHING,
    "faithful": ["recipe", "seeds", "weights"],
    "full_size": ["recipe", "seeds", "weights"],
    "import": ["recipe", "seeds", "weights"],
}
TO_MEASURE_AGAIN = {  # what records hold that is not as it is said to be; may only shrink
    "printed": [],  # outputs are of an earlier run than the figures
    "shipped": ["train_vae"],  # its judge is the feature network before the present one
    "loose": [],  # a tolerance over a fifth
}
PRINTED = re.compile(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?) \[(-?\d+(?:\.\d+)?(?:e-?\d+)?), (-?\d+(?:\.\d+)?(?:e-?\d+)?)\]")
MADE_ON_PURPOSE = re.compile(r"runs/(parts|phantom|ablation|adapt|augment)\b")


def head_output(name: str) -> nbformat.NotebookNode:
    """What the first cell of a record shows, made from its stored figures."""
    table = records.record_head(name)
    shown = {"text/markdown": table.data, "text/plain": "<IPython.core.display.Markdown object>"}
    return nbformat.v4.new_output("execute_result", shown, execution_count=None)


def head_of(path: Path) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    """A record's notebook, and its first cell of code."""
    notebook = nbformat.read(path, 4)
    return notebook, next(cell for cell in notebook.cells if cell.cell_type == "code")


def fill_heads() -> None:
    for name, path in RECORDS.items():
        notebook, head = head_of(path)
        head.outputs = [head_output(name)]
        text = nbformat.writes(notebook, indent=1, sort_keys=True, ensure_ascii=False)
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_opens_with_what_produced_it(name):
    """The second cell shows the facts that the stored figures hold; what they lack is said to be not recorded."""
    notebook, head = head_of(RECORDS[name])
    assert notebook.cells[1] is head
    assert head.outputs == [head_output(name)], "run `python tests/test_records.py`"
    lacks = records.lacking(records.stored_figures(RECORDS[name]))
    assert lacks == LACKS.get(name, []), f"{name} lacks {', '.join(lacks) or 'nothing'}"
    assert head.outputs[0].data["text/markdown"].count(records.NOT_RECORDED) == len(lacks)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_states_how_it_is_run_again(name):
    """Its parameters are typed once, its short version uses them, and each decimal figure has a tolerance."""
    path = RECORDS[name]
    stated = records.read_rerun(path)
    (parameters,) = [c.source for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])]
    for parameter in ("out", *stated.quick):
        assert re.search(rf"^{parameter}\b.* = ", parameters, re.MULTILINE), parameter
    for quick in [False, True] if stated.quick else [False]:
        stored = records.stored_figures(path, quick)
        compared = records.compare_figures(stored, stored, stated)
        exact = [one for one in compared if one.tolerance == 0 and isinstance(one.stored, float)]
        assert not [one.key for one in exact if not one.stored.is_integer()], "state a tolerance"
        assert all(one.holds is not False for one in compared)
        assert any(one.holds for one in compared)
    assert bool(stated.quick) == path.with_suffix(".quick.json").is_file()
    assert all(MADE_ON_PURPOSE.search(file) for file in stated.needs)


def shown_text(output: nbformat.NotebookNode) -> str:
    """What an output shows in words."""
    texts = [output.get("text", ""), *(output.get("data", {}).get(kind, "") for kind in ("text/plain", "text/html"))]
    return "\n".join(texts)


def is_printed_of(text: str, value: float) -> bool:
    """Say whether a printed number is a figure, rounded to as many places."""
    mantissa, _, power = text.partition("e")
    places = len(mantissa.partition(".")[2]) - int(power or 0)
    return abs(float(text) - value) <= 0.501 * 10.0**-places


def not_stored(path: Path) -> list[str]:
    """Give the estimates that a record prints and does not hold."""
    figures = dict(records.single_figures(records.stored_figures(path)))
    names = [key.removesuffix("value") for key in figures if key.endswith("value") and f"{key[:-5]}low" in figures]
    estimates = [[figures[f"{name}{part}"] for part in ("value", "low", "high")] for name in names]
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    printed = {found.groups() for output in outputs for found in PRINTED.finditer(shown_text(output))}
    return [said for said in printed if not any(all(map(is_printed_of, said, one)) for one in estimates)]


def test_what_a_record_prints_stands_in_its_figures():
    """Every estimate in an output, `value [low, high]`, is a stored one, but for records to be measured again."""
    assert [name for name, path in RECORDS.items() if not_stored(path)] == TO_MEASURE_AGAIN["printed"]


def is_loose(path: Path) -> bool:
    """Say whether a record states a tolerance over a fifth."""
    stated = records.read_rerun(path)
    return any(one > 0.2 for one in stated.tolerance.values() if one is not None)


def test_no_tolerance_is_over_a_fifth():
    assert [name for name, path in RECORDS.items() if is_loose(path)] == TO_MEASURE_AGAIN["loose"]


def names_other_weights(path: Path) -> bool:
    """Say whether a record of what ships holds a hash that is not of what ships."""
    if records.read_rerun(path).former:
        return False
    figures = records.stored_figures(path)
    held = dict(figures.get("provenance", {}).get("weights", {}))
    if "judge" in figures:
        held["features"] = figures["judge"]["sha256"]
    shipped = {part: sha256(packaged("weights", part, "model.safetensors")) for part in held if is_shipped(part)}
    return any(held[part] != one for part, one in shipped.items())


def is_shipped(part: str) -> bool:
    return packaged("weights", part, "model.safetensors").is_file()


def test_weights_called_shipped_are_those_that_ship():
    """Hashes of parts among what produced a record, its judge's, and what the records of trainings made."""
    assert [name for name, path in RECORDS.items() if names_other_weights(path)] == TO_MEASURE_AGAIN["shipped"]
    made = {name: records.stored_figures(RECORDS[f"train_{name}"]) for name in ("text", "vae", "features")}
    assert made["features"]["sha256"] == sha256(packaged("weights", "features", "model.safetensors"))
    assert made["text"]["sha256"] == load_text_encoder("shipped").sha
    assert made["vae"]["fingerprint"] == load_vae("shipped").fingerprint()
    for part in ("text", "vae"):
        held = sha256(packaged("weights", part, "model.safetensors"))
        assert records.record_facts(made[part])["weights"] == f"{part} {held}"


def test_a_hand_edited_or_missing_figure_fails():
    """A stored figure removed, and one altered by a tenth of a small value, are found by name."""
    stored = {"kid": 0.026, "auc": 0.9}
    stated = records.Rerun({"*": 0.05})
    apart = [one.key for one in records.compare_figures({"kid": 0.026}, stored, stated) if one.holds is False]
    assert apart == ["auc"]
    apart = [one.key for one in records.compare_figures({**stored, "kid": 0.029}, stored, stated) if not one.holds]
    assert apart == ["kid"]


def test_the_page_names_the_records_of_former_parts():
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"^Outputs and numbers.*", page, re.MULTILINE)
    former = {name for name, path in RECORDS.items() if records.read_rerun(path).former}
    assert set(re.findall(r"`(\w+)`", said)) == former


def altered(record: Path, folder: Path, key: str, value: float) -> Path:
    """Copy a record with one stored figure of its short version changed; give the folder of the records."""
    place = folder / "nbs" / "records"
    place.mkdir(parents=True)
    shutil.copy(record, place)
    figures = records.stored_figures(record, quick=True)
    stored = figures[key]
    figures[key] = stored | {"value": value} if isinstance(stored, dict) else value
    (place / record.name).with_suffix(".quick.json").write_text(json.dumps(figures), encoding="utf-8")
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key", "value"), [("head", "pirads.seed 0", 0.9), ("faithful", "mirrored.side", 0.9)])
def test_a_record_comes_out_again_and_an_altered_figure_is_found(name, key, value, tmp_path, monkeypatch):
    """The short version of a record holds; with a stored figure changed the command ends with 1 and names it."""
    ended = ccella("rerun", name, quick=True, out=tmp_path / "again")
    assert ended.code == 0, ended
    assert " 0 do not hold\n" in ended.out
    assert re.search(r"^\d+ of \d+ figures compared: ", ended.out, re.MULTILINE)
    assert (tmp_path / "again" / f"{name}.ipynb").is_file()

    place = altered(RECORDS[name], tmp_path / "copy", key, value)
    again = read_json(tmp_path / "again" / "made" / "metrics.json")
    monkeypatch.setattr(records, "records_folder", lambda: place)
    monkeypatch.setattr(record_commands, "_run_again", lambda *_: again)  # the same notebook would give the same
    ended = ccella("rerun", name, quick=True, out=tmp_path / "again")
    assert ended.code == 1, ended
    assert re.search(rf" 1 do not hold: {re.escape(key)}(\.value)?\n", ended.out)


def test_where_nothing_is_compared_the_command_ends_with_1(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "read_rerun", lambda _: records.Rerun({"*": None}, {"reports": 2}))
    monkeypatch.setattr(record_commands, "_run_again", lambda *_: records.stored_figures(RECORDS["head"], quick=True))
    ended = ccella("rerun", "head", quick=True, out=tmp_path / "again")
    assert ended.code == 1
    assert "Nothing was compared" in ended.out


def test_what_is_missing_is_said_before_anything_starts(tmp_path, monkeypatch):
    """An unknown record, no short version, no training, a folder of something else: 1, one line, nothing written."""
    (tmp_path / "letter").mkdir()
    (tmp_path / "letter" / "letter.txt").touch()
    place = tmp_path / "nbs" / "records"
    place.mkdir(parents=True)
    for name in ("train_text", "head"):
        shutil.copy(RECORDS[name], place)
        shutil.copy(RECORDS[name].with_suffix(".metrics.json"), place)
    monkeypatch.setattr(records, "records_folder", lambda: place)
    for words, said in (
        ("heads", "record: found no 'heads', expected one of head, train_text"),
        ("train_text --quick", "record train_text: found no short version stated in it; run it without --quick"),
        ("train_text", "found no runs/parts/text/metrics.json, expected what a long training makes; run `ccella fit-"),
        (
            f"head --quick --out {tmp_path / 'letter'}",
            "letter: found a folder with other files (letter.txt), expected an empty one",
        ),
    ):
        ended = ccella("rerun", *words.split())
        assert ended.code == 1, words
        assert said in ended.err
        assert ended.err.count("\n") == 1
    assert (tmp_path / "letter" / "letter.txt").is_file()


def test_an_installed_package_has_no_records(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "packaged", lambda: tmp_path / "ccella")
    with pytest.raises(CcellaError, match=r"found no records, expected a checkout"):
        records.records_folder()
    assert ccella("rerun", "head").err.startswith("ccella: ")


if __name__ == "__main__":
    fill_heads()
