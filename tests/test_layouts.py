"""A phantom goes out in each layout and comes back by its importer: same voxels and facts, no old name."""

import gzip
import json
import os
import re
import stat
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from runs import ccella
from scipy.ndimage import map_coordinates

from ccella.exams.cohort import Cohort
from ccella.exams.export import SYNTHETIC_MARK, name_exams, names_path, read_out_exam
from ccella.exams.folders import find_by_pattern, find_by_table, join_table, read_exam_table
from ccella.exams.importing import ImportOptions, import_exams, read_map
from ccella.exams.prepare import move_mask
from ccella.exams.volumes import Volume, read_volume, same_grid
from ccella.organs.prostate.layouts import LAYOUT_NAMES, graded_lesions, outlined_tumours, write_layout
from ccella.organs.prostate.phantom import write_phantoms
from ccella.organs.prostate.placing import arrange_exam, draw_placement
from ccella.organs.prostate.public import find_picai, find_prostate158
from ccella.organs.prostate.series import find_dicom

SEED = 7
GRID = (48, 48, 12)
POSITIVE = (0, 0, 0.2, 0.4, 0.4)  # of PI-RADS 1 to 5
READ_BACK = ("picai", "prostate158", "folder", "dicom")
TILTED = ("picai", "folder", "dicom")
PLACED = [(layout, SEED) for layout in READ_BACK]
PLAIN = [(layout, None) for layout in READ_BACK]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    """Four phantoms with lesions; the last is of the third's patient, under a name that could be a person's."""
    root = tmp_path_factory.mktemp("phantoms") / "c"
    made = write_phantoms(root, 4, shape=GRID, label_rule="histology", split=False, seed=3, p_category=POSITIVE)
    table = made.table.assign(patient_id=["Mustermann1", "Mustermann2", "Mustermann3", "Mustermann3"])
    table["split"] = ["train", "val", "test", "test"]
    return replace(made, table=table).write()


def found_in(out: Path, layout: str):
    """Find what a layout holds, by its own importer."""
    if layout == "picai":
        return find_picai(out / "images", out / "labels")
    if layout == "prostate158":
        return find_prostate158(out)
    if layout == "folder":
        return find_by_table(out, out / "table.csv")
    rows, _ = read_exam_table(out / "table.csv")
    return join_table(find_dicom(out), rows, "accession")


@pytest.fixture(scope="module")
def round_trip(cohort, tmp_path_factory):
    """Give a layout's folder, and the cohort that was imported from it with its exams by those they were."""
    done = {}

    def go(layout: str, seed: int | None):
        if (layout, seed) not in done:
            root = tmp_path_factory.mktemp(layout)
            result = write_layout(cohort, root / "out", layout, seed)
            lost = layout == "prostate158"  # it has no second exam of a patient
            assert result.exams == 4 - lost and result.exit_code == 3 * lost
            read = import_exams(found_in(root / "out", layout), root / "in", ImportOptions(label_rule="histology"))
            assert read.exit_code == 0, [str(note) for note in read.notes]
            done[layout, seed] = root / "out", read.cohort, paired(cohort, read.cohort, root / "in", layout, seed)
        return done[layout, seed]

    return go


def paired(cohort: Cohort, imported: Cohort, where: Path, layout: str, seed: int | None) -> list:
    """Pair each imported exam with its phantom as it was sent out, by the names in the paths."""
    names = name_exams(cohort)
    paths = {}
    for row in read_map(where.with_name(f"{where.name}.map.csv")):
        paths.setdefault(row["exam_id"], row["file"])
    pairs = []
    for exam in cohort:
        name = names[exam.exam_id]
        told = {
            "picai": f"{90000 + name.patient_number}_{9000000 + name.exam_number}_",
            "prostate158": f"/{name.patient}/",
            "folder": f"/{name.exam}/",
            "dicom": f"/{name.patient}/study-{name.study_number}/",
        }[layout]
        ids = [exam_id for exam_id, path in paths.items() if told in path]
        if layout == "prostate158" and name.study_number > 1:
            continue  # has no place there
        going = read_out_exam(exam, name, "prostate")
        going = arrange_exam(going, exam, seed, layout != "prostate158", own_grid=False)
        pairs.append((going, imported[ids[0]]))
    return pairs


def values_at(volume: Volume, points_mm: np.ndarray) -> np.ndarray:
    """Read a volume, linearly, at points of the patient."""
    places = nib.affines.apply_affine(np.linalg.inv(volume.affine), points_mm)
    return map_coordinates(volume.array, places.T, order=1, mode="nearest")


def points_inside(gland: Volume, n: int, seed: int) -> np.ndarray:
    """Draw points of the patient among the gland's voxels, away from its first and last slices."""
    places = np.argwhere(gland.array > 0)
    low, high = places[:, 2].min() + 1, places[:, 2].max() - 1
    places = places[(places[:, 2] >= low) & (places[:, 2] <= high)]
    chosen = np.random.default_rng(seed).choice(len(places), n, replace=False)
    return nib.affines.apply_affine(gland.affine, places[chosen])


def dice(a: Volume, b: Volume) -> float:
    moved = b if same_grid(a, b) else move_mask(b, a)
    one, other = a.array > 0, moved.array > 0
    return float(2 * (one & other).sum() / max(one.sum() + other.sum(), 1))


def centre_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return nib.affines.apply_affine(affine, np.argwhere(mask)).mean(axis=0)


def side_mm(lesions: Volume, gland: Volume) -> float:
    """Say how far to the right of the gland's middle the lesions lie, along the exam's own first axis."""
    right = gland.affine[:3, 0] / np.linalg.norm(gland.affine[:3, 0])
    return float(right @ (centre_mm(lesions.array > 0, lesions.affine) - centre_mm(gland.array > 0, gland.affine)))


@pytest.mark.parametrize(("layout", "seed"), [*PLACED, *PLAIN])
def test_the_same_voxels_at_the_same_place(round_trip, layout, seed):
    """Sixty points in each gland; a step of a whole number and the coarser grid of diffusion are allowed for."""
    _, _, pairs = round_trip(layout, seed)
    assert len(pairs) >= 3
    for number, (sent, exam) in enumerate(pairs):
        points = points_inside(sent.masks["gland"], 60, number)
        for name, volume in sent.volumes.items():
            before = values_at(volume, points)
            after = values_at(read_volume(exam.files[name]), points)
            is_moved = seed is not None and name != "axt2" and layout in TILTED
            spread = float(np.percentile(before, 95) - np.percentile(before, 5))
            off = np.abs(after - before)
            assert np.median(off) <= (0.12 * spread + 0.5 if is_moved else 0.005 * spread + 0.51), (name, exam.exam_id)
            assert np.corrcoef(before, after)[0, 1] > (0.9 if is_moved else 0.99), (name, exam.exam_id)
        mirrored = points_inside(sent.masks["gland"], 60, number)
        middle = centre_mm(sent.masks["gland"].array > 0, sent.masks["gland"].affine)
        right = sent.masks["gland"].affine[:3, 0] / np.linalg.norm(sent.masks["gland"].affine[:3, 0])
        mirrored -= 2 * np.outer((mirrored - middle) @ right, right)
        wrong = np.corrcoef(
            values_at(sent.volumes["axt2"], points), values_at(read_volume(exam.files["axt2"]), mirrored)
        )
        assert wrong[0, 1] < 0.9, "the test would see a mirrored exam"


@pytest.mark.parametrize(("layout", "seed"), [*PLACED, *PLAIN])
def test_masks_and_sides(round_trip, layout, seed):
    _, _, pairs = round_trip(layout, seed)
    sides = []
    for sent, exam in pairs:
        gland = read_volume(exam.gland)
        assert dice(sent.masks["gland"], gland) > 0.95
        assert dice(sent.masks["zones"], read_volume(exam.masks["zones"])) > 0.9
        peripheral = [
            replace(each, array=each.array == 1) for each in (sent.masks["zones"], read_volume(exam.masks["zones"]))
        ]
        assert dice(*peripheral) > 0.9
        lesions = {"picai": graded_lesions, "prostate158": outlined_tumours}.get(
            layout, lambda each: each.masks["lesions"]
        )(sent)
        if not lesions.array.any():
            continue
        back = read_volume(exam.masks["lesions"])
        assert dice(lesions, back) > 0.8
        before, after = side_mm(lesions, sent.masks["gland"]), side_mm(back, gland)
        assert abs(before - after) < 1.5
        sides.append(before)
    assert sides


@pytest.mark.parametrize(("layout", "seed"), [*PLACED, *PLAIN])
def test_facts_and_patients(round_trip, cohort, layout, seed):
    _, imported, pairs = round_trip(layout, seed)
    by_name = {name.exam: exam_id for exam_id, name in name_exams(cohort).items()}
    known = ("label",) if layout == "prostate158" else ("pirads", "isup", "label")
    patients = {}
    for sent, exam in pairs:
        original = cohort[by_name[sent.name.exam]]
        for fact in known:
            assert getattr(exam, fact) == getattr(original, fact), fact
        if layout != "prostate158":
            assert exam.institution == original.institution
        if layout != "picai":  # its folds have no test part
            assert exam.split == original.split
        patients.setdefault(original.patient_id, set()).add(exam.patient_id)
    assert all(len(each) == 1 for each in patients.values())
    assert len({each.pop() for each in patients.values()}) == 3 == imported.table.patient_id.nunique()


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        path.relative_to(root).as_posix(): gzip.decompress(path.read_bytes())
        if path.suffix == ".gz"
        else path.read_bytes()
        for path in files
    }


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_no_old_name_goes_along_and_all_is_marked(cohort, tmp_path, layout):
    write_layout(cohort, tmp_path / "out", layout, SEED, reports=True)
    found = contents(tmp_path / "out")
    for name, raw in found.items():
        for exam in cohort:
            assert exam.exam_id not in name and exam.exam_id.encode() not in raw, name
        assert "Mustermann" not in name and b"Mustermann" not in raw, name
        assert str(tmp_path).encode() not in raw, name
        if name.endswith((".nii.gz", ".mha", ".dcm")):
            assert SYNTHETIC_MARK.encode() in raw[:4000], name
            assert "SYN" in name or "synthetic" in name or name.startswith("labels/"), name
    names = names_path(tmp_path / "out")
    assert stat.S_IMODE(names.stat().st_mode) == 0o600 and "Mustermann3" in names.read_text()


def test_headers_hold_no_report(cohort, tmp_path):
    """A report goes into a file or a table of its own, and only where it was asked for."""
    report = next(exam.text() for exam in cohort if exam.has_report)
    words = report.splitlines()[-1].encode()[:30]
    for layout in ("folder", "dicom"):
        for asked in (False, True):
            out = tmp_path / f"{layout}{asked}"
            write_layout(cohort, out, layout, None, reports=asked)
            holding = [name for name, raw in contents(out).items() if words in raw]
            assert bool(holding) == asked
            assert all(name.endswith(("report.txt", "table.csv")) for name in holding)


def test_real_exams_are_not_marked_as_synthetic(cohort, tmp_path):
    real = replace(cohort, table=cohort.table.assign(kind="real"))
    for layout in LAYOUT_NAMES:
        write_layout(real, tmp_path / layout, layout)
        for name, raw in contents(tmp_path / layout).items():
            assert "SYN" not in name and b"SYNTHETIC" not in raw, name


def test_a_folder_is_found_by_a_pattern_too(round_trip):
    out, _, _ = round_trip("folder", SEED)
    assert len(find_by_pattern(out, "{id}/{sequence}.nii.gz").exams) == 4


def test_the_sign_of_x_is_no_guide():
    """The gland is off the scanner's middle by more than half a gland often enough."""
    drawn = [draw_placement(SEED, f"SYN{k:04d}-1").shift_mm[0] for k in range(300)]
    assert np.mean(np.abs(drawn) > 25) > 0.1 and -5 < np.mean(drawn) < 5


def test_a_scanner_export_has_what_readers_stumble_over(round_trip):
    out, _, _ = round_trip("dicom", SEED)
    folders = {path.parent.name.split("-")[1] for path in out.rglob("*.dcm")}
    assert {"t2_localizer", "t2_tse_sag", "t2_tse_tra", "ep2d_diff_tra_DYNDIST_ADC"} <= folders
    adc = next(path for path in out.rglob("*.dcm") if "_ADC-" in path.parent.name)
    made = pydicom.dcmread(adc)
    assert made[0x0019, 0x100C].value == b"800 " and made[0x0019, 0x100C].VR == "OB"
    assert "RescaleSlope" not in made and "DiffusionBValue" not in made and made.SyntheticData == "YES"
    low = next(path.parent for path in out.rglob("*.dcm") if path.parent.name.startswith("5.000000-"))
    values = [pydicom.dcmread(path)[0x0019, 0x100C].value for path in sorted(low.iterdir())]
    assert values == sorted(values, key=lambda value: int(value)) and len(set(values)) == 3
    instances = [str(pydicom.dcmread(path).SOPInstanceUID) for path in out.rglob("*.dcm")]
    assert len(instances) == len(set(instances))


def test_nnunet(cohort, tmp_path):
    write_layout(cohort, tmp_path / "out", "nnunet", SEED)
    about = json.loads((tmp_path / "out/dataset.json").read_text())
    assert about["channel_names"] == {"0": "axt2", "1": "highb", "2": "CT"}
    assert about["numTraining"] == 2 and about["file_ending"] == ".nii.gz"
    assert about["labels"] == {"background": 0, "lesions": 1}
    images = sorted(path.name for path in (tmp_path / "out/imagesTr").iterdir())
    assert images == [f"SYN000{k}-1_000{channel}.nii.gz" for k in (1, 2) for channel in range(3)]
    assert sorted(path.name for path in (tmp_path / "out/labelsTr").iterdir()) == [
        "SYN0001-1.nii.gz",
        "SYN0002-1.nii.gz",
    ]
    assert len(list((tmp_path / "out/imagesTs").iterdir())) == 6
    assert json.loads((tmp_path / "out/splits_final.json").read_text()) == [
        {"train": ["SYN0001-1"], "val": ["SYN0002-1"]}
    ]
    for label in (tmp_path / "out").glob("labelsT*/*.nii.gz"):
        mask = sitk.ReadImage(str(label))
        first = sitk.ReadImage(
            str(label.parent.parent / f"images{label.parent.name[-2:]}" / f"{label.name[:9]}_0000.nii.gz")
        )
        assert mask.GetSize() == first.GetSize() == GRID
        assert np.allclose(mask.GetDirection(), first.GetDirection()) and np.allclose(
            mask.GetOrigin(), first.GetOrigin()
        )
        assert set(np.unique(sitk.GetArrayFromImage(mask))) <= {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_the_command_writes_each_layout(cohort, tmp_path, layout):
    ended = ccella("export", cohort.root, layout=layout, out=tmp_path / "out")
    assert ended.code == (3 if layout == "prostate158" else 0), ended
    assert "4" in ended.out or "3" in ended.out
    assert any((tmp_path / "out").iterdir())


def test_the_command_refuses_a_used_folder_and_another_layout(cohort, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/note.txt").touch()
    ended = ccella("export", cohort.root, layout="folder", out=tmp_path / "out")
    assert ended.code == 1 and ended.err.count("\n") == 1 and "a folder with files in it" in ended.err
    assert ccella("export", cohort.root, layout="bids", out=tmp_path / "other").code == 2


@pytest.mark.slow
def test_same_bytes_with_one_process_or_two(cohort, tmp_path):
    for workers in (1, 2):
        write_layout(cohort, tmp_path / str(workers) / "out", "picai", SEED, workers=workers)
    assert contents(tmp_path / "1/out") == contents(tmp_path / "2/out")


EXAMS, PHANTOMS = 1500, 60


def numbers_of(copy: int, k: int) -> str:
    return f"{20000 + copy * PHANTOMS + k}_{2000000 + copy * PHANTOMS + k}"


def write_moved(path: Path, target: Path, mm: float) -> None:
    """Write a MetaImage at another place: the same voxels at one place would be one exam twice."""
    head, line, rest = re.split(rb"(Offset = [^\n]*)", path.read_bytes(), maxsplit=1)
    x, y, z = (float(number) for number in line.split(b"=")[1].split())
    target.write_bytes(head + f"Offset = {x + mm} {y} {z}".encode() + rest)


def copy_exams(source: Path, out: Path, copies: int) -> None:
    """Put each exam of a PI-CAI layout under further numbers, each a little aside, and write the sheet anew."""
    own = {f"{90000 + k}_{9000000 + k}": k for k in range(1, PHANTOMS + 1)}
    for path in sorted(source.rglob("*")):
        stem = "_".join(path.name.split("_")[:2]).removesuffix(".nii.gz")
        if not path.is_file() or stem not in own:
            continue
        for copy in range(copies):
            new = numbers_of(copy, own[stem])
            folder = out / path.parent.relative_to(source)
            folder = folder.parent / new.split("_")[0] if path.suffix == ".mha" else folder
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / path.name.replace(stem, new)
            if path.suffix == ".mha":
                write_moved(path, target, 0.2 * copy)
            else:
                os.link(path, target)
    sheet = source / "labels/clinical_information/marksheet.csv"
    header, *rows = sheet.read_text().splitlines()
    lines = [header]
    for copy in range(copies):
        for row in rows:
            patient, study, rest = row.split(",", 2)
            lines.append(",".join([*numbers_of(copy, own[f"{patient}_{study}"]).split("_"), rest]))
    target = out / sheet.relative_to(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes("\r\n".join([*lines, ""]).encode())


@pytest.mark.by_hand
def test_1500_exams_come_in(tmp_path):
    """Times an import of 1,500 small exams in PI-CAI's layout by two processes, and prints the figures."""
    phantoms = write_phantoms(
        tmp_path / "c", PHANTOMS, shape=(96, 96, 12), label_rule="histology", split=False, workers=2
    )
    phantoms = replace(phantoms, table=phantoms.table.assign(patient_id=[f"p{k}" for k in range(PHANTOMS)]))
    write_layout(phantoms, tmp_path / "out", "picai", SEED, workers=2)
    copy_exams(tmp_path / "out", tmp_path / "many", EXAMS // PHANTOMS)
    began = time.monotonic()
    found = find_picai(tmp_path / "many/images", tmp_path / "many/labels")
    found_s = time.monotonic() - began
    assert len(found.exams) == EXAMS
    sources = {path for exam in found.exams for source in exam.volumes.values() for path in source.paths}
    print(
        f"\nfind: {found_s:.1f} s; images {sum(path.stat().st_size for path in sources) / EXAMS / 1e3:.0f} kB an exam"
    )
    for crop in (False, True):
        began = time.monotonic()
        options = ImportOptions(label_rule="histology", crop=crop)
        result = import_exams(found, tmp_path / f"in{crop}", options, workers=2)
        took = time.monotonic() - began
        assert len(result.cohort) == EXAMS
        size = sum(path.stat().st_size for path in (tmp_path / f"in{crop}").rglob("*") if path.is_file())
        print(f"import, crop {crop}: {took:.1f} s, {EXAMS / took:.1f} exams/s, {size / EXAMS / 1e3:.0f} kB an exam")
