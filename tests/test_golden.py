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
RECIPES = {"cascade": "ccella", "cascade12": "ccellapp"}  # where a variant's recipe has another name


def drawn(name, shape, seed=1):
    """Normal numbers that depend on the name alone: those that the released code was given."""
    state = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    values = state.standard_normal(int(np.prod(shape)))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def weight(name, shape):
    """A tensor of the checkpoint, of a size that keeps the outputs in range."""
    values = drawn(name, shape)
    if len(shape) > 1:
        fan_in = np.prod(shape[1:])
        return values / np.sqrt(fan_in)
    if name.endswith("weight"):
        return 1 + 0.1 * values
    return 0.1 * values


@pytest.mark.parametrize("variant", [pytest.param("cascade", marks=pytest.mark.slow), "decoupled", "rad_maisi"])
def test_outputs_equal_the_released_code(variant, tmp_path):
    """The same weights and inputs give the noise and logits that the released code gave."""
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / "golden_public.npz").items()}
    checkpoint = {
        "unet_state_dict": {name: weight(name, shape) for name, shape in SHAPES[variant].items()},
        "scale_factor": torch.tensor(1.2),
        "epoch": 3,
        "num_train_timesteps": 1000,
    }
    if variant == "rad_maisi":  # one of them by way of a file
        torch.save(checkpoint, tmp_path / "released.pt")
        checkpoint = tmp_path / "released.pt"
    model = from_released(checkpoint, variant=variant, **SMALL)
    text, spacing_mm = drawn("text", (1, 16, 64)), torch.tensor([[0.5, 0.5, 0.5625]])
    cond = Conditioning(text=text, label=torch.tensor([0]), spacing_mm=spacing_mm)
    with torch.no_grad():
        noise, logits = model(drawn("x", (1, 4, 8, 8, 4)), torch.tensor([500]), cond)
    torch.testing.assert_close(noise, golden[f"{variant}/noise"], atol=1e-4, rtol=0)
    if variant == "cascade":
        torch.testing.assert_close(logits, golden["cascade/logits"], atol=1e-4, rtol=0)
    else:
        assert logits is None
    assert model.scale.tolist() == pytest.approx([1.2])


def test_the_papers_sizes():
    """575.5 M weights, as the paper says: 205.0 M of the U-Net, 370.5 M of the adapter, most of them in the heads."""
    with torch.device("meta"):
        sizes = count_parameters(LatentDiffusion(load_recipe("ccella").model))
    millions = {part: round(size / 1e6, 1) for part, size in sizes.items()}
    assert millions == {"unet": 205.0, "adapter": 370.5, "heads": 302.0, "total": 575.5}


@pytest.mark.parametrize("variant", sorted(SHAPES))
def test_a_recipe_has_its_variants_tensors(variant):
    """The recipe by the paper's name, on the small U-Net of the listed checkpoints, has the same names and shapes."""
    overrides = {"model.text_width": 64, "model.unet": SMALL | {"norm_groups": 32}}
    recipe = load_recipe(RECIPES.get(variant, variant), overrides)
    with torch.device("meta"):
        model = LatentDiffusion(recipe.model)
    prefix = "" if recipe.model.text else "unet."  # a checkpoint without an adapter is a bare U-Net
    shapes = {name.removeprefix(prefix): list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == SHAPES[variant]
