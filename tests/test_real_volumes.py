"""Real MR volumes go through a cohort folder, preprocessing and the VAE, and come back as NIfTI in their own space.

None is committed: each is read from a package that is installed or can be fetched, else its test is skipped.
"""

import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ccella.exams.check import check_cohort
from ccella.exams.cohort import Cohort
from ccella.exams.prepare import prepare_exam, resample_volume, restore, to_original, to_unit
from ccella.exams.volumes import read_volume, write_volume
from ccella.recipe import load_recipe

MNI = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
WEIGHTS = Path(importlib.util.find_spec("ccella").origin).parent / "weights" / "vae"
RECIPE = {
    "sequences": [{"name": "mr", "rule": "percentile", "low": 0.0, "high": 99.5}],
    "grid": {"shape": (96, 112, 48), "spacing_mm": (2.0, 2.0, 4.0)},
}


def packed(requirement: str, folder: Path, *options: str) -> Path:
    """Fetch a package's file without installing or building it; where that cannot be, skip the test with the reason."""
    folder.mkdir(exist_ok=True)
    if not any(folder.glob("*.*")):
        fetch(requirement, folder, *options)
    return next(folder.glob("*.*"))


def fetch(requirement: str, folder: Path, *options: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *options]
    try:
        done = subprocess.run([*pip, "-d", str(folder), requirement], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{requirement} was not fetched within 120 s")
    if done.returncode or not any(folder.glob("*.*")):
        reasons = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        pytest.skip(f"{requirement} cannot be fetched: {reasons[-1][-200:]}")


def of_nibabel() -> Path:
    path = Path(nib.__file__).parent / "tests" / "data" / "anatomical.nii"
    if not path.is_file():
        pytest.skip("this nibabel came without its test files")
    return path


def of_nilearn(folder: Path) -> Path:
    """The MNI152 template of the installed nilearn, or of its wheel."""
    spec = importlib.util.find_spec("nilearn")
    if spec:
        installed = Path(spec.origin).parents[1] / MNI
        if installed.is_file():
            return installed
    path = folder / Path(MNI).name
    if not path.is_file():
        package = packed("nilearn>=0.10", folder / "nilearn", "--only-binary", ":all:")
        with zipfile.ZipFile(package) as wheel:
            path.write_bytes(wheel.read(MNI))
    return path


def of_pyradiomics(name: str, folder: Path) -> Path:
    path = folder / f"{name}_image.nrrd"
    if not path.is_file():
        package = packed("pyradiomics==3.0.1", folder / "pyradiomics", "--no-binary", ":all:")
        with tarfile.open(package) as source:
            member = source.extractfile(f"pyradiomics-3.0.1/data/{path.name}")
            path.write_bytes(member.read())
    return path


def find(name: str, cache) -> Path:
    """Put a real volume into the tests' cache folder and give its path."""
    folder = Path(cache.mkdir("real_volumes"))
    if name == "nibabel":
        return of_nibabel()
    if name == "mni152":
        return of_nilearn(folder)
    return of_pyradiomics(name, folder)


@pytest.fixture(params=["mni152", "brain1", "brain2", "nibabel"])
def exam(request, tmp_path):
    """A one-exam, one-sequence cohort without gland, report or label, as a user would make it by hand."""
    exam_id = request.param
    source = find(exam_id, request.config.cache)
    suffixes = [suffix for suffix in source.suffixes if suffix in (".nii", ".gz", ".nrrd")]
    file = exam_id + "".join(suffixes)
    shutil.copy(source, tmp_path / file)
    (tmp_path / "cohort.csv").write_text(f"exam_id,patient_id,mr\n{exam_id},{exam_id},{file}\n")
    (tmp_path / "cohort.json").write_text(json.dumps({"label_rule": "pirads", "sequences": ["mr"]}))
    cohort = Cohort.read(tmp_path)
    seen = check_cohort(cohort, sequences=["mr"])
    assert seen["exams"] == 1
    assert seen["reports"] == 0
    assert seen["label_unknown"] == 1
    assert seen["glands"] == 0
    (found,) = cohort
    return found


def geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and RAS affine as the file has them, read by the format's own library."""
    if path.suffix != ".nrrd":
        image = nib.load(path)
        return image.shape, image.affine
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    voxels = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    points_lps = np.array([image.TransformIndexToPhysicalPoint(voxel) for voxel in voxels])
    origin, *ends = points_lps * (-1, -1, 1)
    steps = np.stack(ends, 1) - origin[:, None]
    return image.GetSize(), nib.affines.from_matvec(steps, origin)


def corners(shape, affine) -> np.ndarray:
    """Millimetres of the eight corner voxels, in the file's own order."""
    ends = [(0, size - 1) for size in shape]
    voxels = list(itertools.product(*ends))
    return nib.affines.apply_affine(affine, voxels)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB for values in [0, 1]."""
    squared = (a.astype(np.float64) - b) ** 2
    return float(-10 * np.log10(squared.mean()))


def back_to_file(x: np.ndarray, prepared, path: Path) -> Path:
    """Write volumes on the model's grid as NIfTI, in scanner units, voxel for voxel like the original file."""
    unit = to_original(x, prepared)
    (array,) = restore(unit, prepared.limits, prepared.sequences).values()
    return write_volume(path, array, prepared.original_affine, stored=prepared.stored)


def check_geometry(written: Path, source: Path) -> None:
    """A written file has the voxels of its source, and each where the source has it."""
    shape, affine = geometry(source)
    image = nib.load(written)
    assert image.shape == shape
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(corners(image.shape, image.affine), corners(shape, affine), atol=1e-2)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    return np.corrcoef(a, b)[0, 1]


def test_there_and_back(exam, tmp_path, capsys):
    """A file keeps its place, side and picture on its way to the model's grid and back."""
    prepared = prepare_exam(exam, load_recipe("phantom", RECIPE))
    assert prepared.centred, "no gland: the box stands in the middle, and says so"
    assert prepared.gland is None
    assert prepared.x.shape == (1, *RECIPE["grid"]["shape"])
    assert prepared.spacing_mm == pytest.approx(RECIPE["grid"]["spacing_mm"])
    assert prepared.x.min() == 0
    assert prepared.x.max() == 1
    assert np.isfinite(prepared.x).all()

    written = back_to_file(prepared.x, prepared, tmp_path / "back.nii.gz")
    check_geometry(written, exam.files["mr"])

    original, home = read_volume(exam.files["mr"]), read_volume(written).array
    _, inside = resample_volume(prepared.x[0], prepared.affine, original.array.shape, prepared.original_affine)

    def in_box(array):
        return to_unit(array, prepared.limits["mr"])[inside]

    before, after = in_box(original.array), in_box(home)
    size = "×".join(map(str, original.array.shape))
    with capsys.disabled():
        print(f"\n{exam.exam_id}: {size} stored {original.stored}, {inside.mean():.0%} in the box;")
        print(f"through {RECIPE['grid']['spacing_mm']} mm and back {psnr(before, after):.1f} dB")
    assert psnr(before, after) > 15

    alike = likeness(before, after)
    assert alike > 0.8, "the same picture"
    for axis, shift in itertools.product(range(3), (-1, 1)):
        aside = in_box(np.roll(home, shift, axis))
        assert likeness(before, aside) < alike, "not one voxel aside"
    if exam.exam_id != "mni152":  # the template is symmetric
        mirrored = in_box(home[::-1])
        assert likeness(before, mirrored) < alike - 0.02, "not its mirror image"


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the shipped VAE (ccella/weights/vae) is not there yet")
def test_through_the_vae(exam, tmp_path, capsys):
    """A VAE that saw phantoms only gives back a picture of another organ, in the file's own space."""
    import torch

    from ccella.models.autoencoder import decode_exam, encode_exam, load_vae

    prepared = prepare_exam(exam, load_recipe("phantom", RECIPE))
    vae = load_vae("shipped")
    with torch.no_grad():
        mu, sigma = encode_exam(vae, torch.from_numpy(prepared.x))
        x = decode_exam(vae, mu).float().clamp(0, 1).numpy()
    assert torch.isfinite(mu).all()
    assert (sigma > 0).all()
    assert x.shape == prepared.x.shape
    written = back_to_file(x, prepared, tmp_path / "reconstruction.nii.gz")
    check_geometry(written, exam.files["mr"])
    assert np.isfinite(nib.load(written).get_fdata()).all()
    quality = psnr(x, prepared.x)
    with capsys.disabled():
        print(f"\n{exam.exam_id}: reconstruction by a VAE that saw phantoms only, PSNR {quality:.1f} dB")
    assert quality > 20
