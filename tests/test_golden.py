"""The full-width cascade against the released code's outputs: 370 M weights, too slow for a notebook."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ccella.models.ldm import Conditioning, LatentDiffusion, count_parameters
from ccella.models.released import from_released
from ccella.recipe import load_recipe

GOLDEN = Path(__file__).parent / "golden"
SHAPES = json.loads((GOLDEN / "state_dict_shapes.json").read_text())
SMALL = {"channels": (32, 64), "attention": (False, True), "head_channels": 32, "res_blocks": 1}


def drawn(name, shape, seed=1):
    rs = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    return torch.from_numpy(rs.standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape))


def weight(name, shape):
    values = drawn(name, shape)
    if len(shape) > 1:
        return values / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values


@pytest.mark.parametrize("variant", ["cascade", "decoupled", "rad_maisi"])
def test_outputs_equal_the_released_code(variant, tmp_path):
    golden = np.load(GOLDEN / "golden_public.npz")
    weights = {n: weight(n, s) for n, s in SHAPES[variant].items()}
    checkpoint = {
        "unet_state_dict": weights,
        "scale_factor": torch.tensor(1.2),
        "epoch": 3,
        "num_train_timesteps": 1000,
    }
    if variant == "rad_maisi":  # one of them by way of a file
        torch.save(checkpoint, tmp_path / "released.pt")
        checkpoint = tmp_path / "released.pt"
    model = from_released(checkpoint, variant=variant, **SMALL)
    cond = Conditioning(
        text=drawn("text", (1, 16, 64)), label=torch.tensor([0]), spacing_mm=torch.tensor([[0.5, 0.5, 0.5625]])
    )
    with torch.no_grad():
        eps, logits = model(drawn("x", (1, 4, 8, 8, 4)), torch.tensor([500]), cond)
    torch.testing.assert_close(eps, torch.from_numpy(golden[f"{variant}/noise"]), atol=1e-4, rtol=0)
    assert (logits is not None) == (variant == "cascade")
    if logits is not None:
        torch.testing.assert_close(logits, torch.from_numpy(golden["cascade/logits"]), atol=1e-4, rtol=0)
    assert model.scale.tolist() == pytest.approx([1.2])


def test_the_papers_sizes():
    """575.5 M weights, as the paper says: 205.0 M of the U-Net, 370.5 M of the adapter, most of them in the heads."""
    with torch.device("meta"):
        sizes = count_parameters(LatentDiffusion(load_recipe("ccella").model))
    assert {k: round(v / 1e6, 1) for k, v in sizes.items()} == {
        "unet": 205.0,
        "adapter": 370.5,
        "heads": 302.0,
        "total": 575.5,
    }


@pytest.mark.parametrize("variant", sorted(SHAPES))
def test_a_recipe_has_its_variants_tensors(variant):
    """The recipe by the paper's name, on the small U-Net of the listed checkpoints, has the same names and shapes."""
    recipe = load_recipe(
        {"cascade": "ccella", "cascade12": "ccellapp"}.get(variant, variant),
        {"model.text_width": 64, "model.unet": SMALL | {"norm_groups": 32}},
    )
    with torch.device("meta"):
        model = LatentDiffusion(recipe.model)
    bare = "" if recipe.model.text else "unet."
    assert {n.removeprefix(bare): list(w.shape) for n, w in model.state_dict().items()} == SHAPES[variant]
