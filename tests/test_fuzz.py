"""Files that nobody meant to write: tables, NIfTI, MetaImage and NRRD headers, DICOM tags.

Each input either comes in or is refused by a CcellaError: no other exception, no hang, no memory that the file does not
account for.
`make test` tries 300 of them; `pytest -m by_hand tests/test_fuzz.py` tries 10,000.
"""

import csv
import gzip
import io
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ccella.core import CcellaError
from ccella.exams.cohort import Cohort
from ccella.exams.dicom import read_dicom
from ccella.exams.dicom_writer import dicom_slices, write_dicom
from ccella.exams.folders import find_by_table
from ccella.exams.formats import MOST_PACKING, read_array
from ccella.exams.importing import import_exams
from ccella.organs.prostate.series import find_dicom

KINDS = ("nifti", "metaimage", "table", "dicom")
FEW, MANY = 75, 2500  # of each kind
TREE = np.random.default_rng(0).gamma(4, 100, (8, 7, 5)).astype(np.int16)
AFFINE = nib.affines.from_matvec(np.diag([-0.7, -0.7, 3.0]), (20, 30, -40))


def nifti() -> bytes:
    image = nib.Nifti1Image(TREE, AFFINE)
    image.set_qform(AFFINE, 1)
    return image.to_bytes()


def itk(folder: Path, suffix: str) -> bytes:
    path = folder / f"base{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(TREE.transpose(2, 1, 0)), str(path), useCompression=True)
    return path.read_bytes()


def settled(read, *arguments) -> None:
    """Call a reader that may refuse by a CcellaError and nothing else."""
    try:
        read(*arguments)
    except CcellaError:
        return


def within_memory(path: Path) -> None:
    """Read a volume; what is taken of memory is bounded by what the file can hold."""
    size = path.stat().st_size
    tracemalloc.start()
    settled(read_array, path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 12 * MOST_PACKING * size + (8 << 20)


# fields of a NIfTI header: offset, bytes
FIELDS = {"dim": (40, 16), "type": (70, 4), "pixdim": (76, 32), "begin": (108, 12), "units": (123, 1)}
FIELDS |= {"codes": (252, 4), "quaternion": (256, 24), "srow": (280, 48), "anything": (0, 352)}
CHANGE = st.tuples(st.sampled_from(list(FIELDS)), st.binary(min_size=1, max_size=8), st.integers(0, 47))
CHANGES = st.lists(CHANGE, max_size=4)


def fuzz_nifti(folder: Path):
    base = nifti()

    @given(CHANGES, st.booleans(), st.integers(0, len(base)))
    def try_one(changes, packed, cut):
        content = bytearray(base)
        for field, value, shift in changes:
            start, size = FIELDS[field]
            place = start + shift % size
            content[place : place + len(value)] = value
        content = bytes(content[:cut] if cut % 7 == 0 else content)
        path = folder / ("a.nii.gz" if packed else "a.nii")
        path.write_bytes(gzip.compress(content) if packed else content)
        within_memory(path)

    return try_one


VALUES = ["0", "-1", "3", "4", "1e9", "nan", "inf", "8 7 5", "8 7 5 1", "0.7 0.7 0", "True", "MET_SHORT", "LOCAL"]
VALUES += ["a b c", "list", "..", "(1,0,0) (0,1,0) (0,0,1)", "none (1,0,0)", "gzip", "raw", "left-posterior-superior"]
VALUES += ["99999999999999"]
LINES = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(VALUES) | st.text(max_size=9)))


def fuzz_metaimage(folder: Path):
    bases = {suffix: itk(folder, suffix) for suffix in (".mha", ".nrrd")}

    @given(st.sampled_from(list(bases)), LINES)
    def try_one(suffix, changes):
        head, mark, rest = bases[suffix].partition(b"LOCAL" if suffix == ".mha" else b"\n\n")
        lines = head.split(b"\n")
        for place, value in changes:
            name, equals, _ = lines[place % len(lines)].partition(b"=" if suffix == ".mha" else b":")
            lines[place % len(lines)] = name + equals + b" " + value.encode("utf-8", "replace")
        path = folder / f"a{suffix}"
        path.write_bytes(b"\n".join(lines) + mark + rest)
        within_memory(path)

    return try_one


CELLS = ["", "1", "1.0", "NA", "a/b.nii.gz", "../x", "3,5", "PI-RADS 4", "2021-05-30", "\0", "=1+1", "E1", '"']
CELLS += ["x" * 300]
HEADERS = ["patient_id", "exam_id", "axt2", "T2", "highb", "adc", "ADC", "pirads", "isup", "label", "split", "report"]
HEADERS += ["", "Befund"]
TABLES = st.tuples(
    st.lists(st.sampled_from(HEADERS) | st.text(max_size=6), min_size=1, max_size=8),
    st.lists(st.lists(st.sampled_from(CELLS) | st.text(max_size=8), max_size=9), max_size=4),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
)


def fuzz_table(folder: Path):
    @given(TABLES | st.binary(max_size=300))
    def try_one(table):
        content = table
        if isinstance(table, tuple):
            header, rows, separator, letters = table
            text = io.StringIO()
            csv.writer(text, delimiter=separator).writerows([header, *rows])
            content = text.getvalue().encode(letters, "replace")
        for name in ("cohort.csv", "t.csv"):
            (folder / name).write_bytes(content)
        settled(Cohort.read, folder)
        settled(lambda: import_exams(find_by_table(folder, folder / "t.csv"), folder / "C"))

    return try_one


TAGS = ["ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated"]
TAGS += ["ImageType", "RescaleSlope", "RescaleIntercept", "DiffusionBValue", "SeriesNumber", "NumberOfFrames"]
TAGS += ["PhotometricInterpretation", "PixelRepresentation", "StudyInstanceUID", "SeriesDescription", "SequenceName"]
TAGS += ["SamplesPerPixel"]
ODD = [b"", b"0", b"1\\0\\0\\0\\1\\0", b"nan\\1\\2", b"-5", b"99999999", b"MOSAIC", b"\xff\xfe", b"ADC"]
WILD = st.sampled_from(ODD) | st.binary(max_size=12)


def fuzz_dicom(folder: Path):
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    small = np.abs(TREE[:4, :4, :3]).astype(float)

    @given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(TAGS), WILD), max_size=5), st.integers(0, 2000))
    def try_one(changes, cut):
        for old in folder.glob("*.dcm"):
            old.unlink()
        slices = dicom_slices(small, AFFINE, "X", 1, "t2_tse_tra")
        for place, keyword, value in changes:
            tag = Tag(tag_for_keyword(keyword))
            raw = RawDataElement(tag, dictionary_VR(tag), len(value), value + b" " * (len(value) % 2), 0, False, True)
            slices[place]._dict[tag] = raw
        for n, made in enumerate(slices):
            try:
                write_dicom(folder / f"{n}.dcm", made)
            except Exception:  # the writer's own limits are not what is tried here
                return
        if cut % 5 == 0:
            path = folder / "1.dcm"
            path.write_bytes(path.read_bytes()[:cut])
        settled(find_dicom, folder)
        settled(lambda: [stack.read() for study in read_dicom(folder).studies for stack in study.stacks])

    return try_one


FUZZERS = {"nifti": fuzz_nifti, "metaimage": fuzz_metaimage, "table": fuzz_table, "dicom": fuzz_dicom}


def fuzz(kind: str, folder: Path, count: int) -> None:
    """Try `count` inputs of a kind; the same ones each time."""
    how = settings(
        max_examples=count,
        deadline=20_000,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    seed(0)(how(FUZZERS[kind](folder)))()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_hundred_files_come_in_or_are_refused(kind, tmp_path):
    fuzz(kind, tmp_path, FEW)


@pytest.mark.by_hand
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_files_come_in_or_are_refused(kind, tmp_path):
    fuzz(kind, tmp_path, MANY)
