"""A training that is killed at random moments ends with the bytes of one that never was."""

import csv
import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest

KILLS = 10
STEPS = 80


def train(folder: Path) -> None:
    """Begin, or go on with, a training of a tiny model."""
    import torch

    from ccella.generators.examset import ExamSet
    from ccella.generators.fit_generator import training
    from ccella.models.latents import LatentExam
    from ccella.models.ldm import LatentDiffusion
    from ccella.recipe import load_recipe

    recipe = load_recipe("tiny", {"train": {"steps": STEPS, "save_every": 3, "eval_every": 1000}})
    channels, *grid = recipe.latent_shape

    def latent(exam_id: str) -> LatentExam:
        mu = torch.randn(channels, *grid, generator=torch.Generator().manual_seed(int(exam_id)))
        spacing_mm = torch.tensor([1.5, 1.5, 4.0])
        return LatentExam(exam_id, mu, torch.full_like(mu, 0.5), spacing_mm, {"gland": mu[0] > 0})

    def states(text: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(text))
        return torch.randn(1 + len(text), recipe.model.text_width, generator=generator)

    exam_ids = [str(number) for number in range(8)]
    exams = ExamSet(exam_ids, torch.arange(8) % 2, ["left", "right side"] * 4, latent, states)
    torch.manual_seed(0)
    for _ in training(LatentDiffusion(recipe.model), exams, recipe, folder):
        pass


def begun(folder: Path) -> multiprocessing.Process:
    """Train in a process of its own, which finds imported what it needs."""
    import ccella.generators.fit_generator  # noqa: F401

    process = multiprocessing.get_context("fork").Process(target=train, args=(folder,))
    process.start()
    return process


def ended(process: multiprocessing.Process) -> int:
    """Wait for a process; give its exit code."""
    process.join()
    return process.exitcode


def rows(folder: Path) -> list[list[str]]:
    """What is logged of each step, without its seconds."""
    log = folder / "metrics.csv"
    if not log.is_file():
        return []
    with log.open() as file:
        return [[cell for name, cell in row.items() if name != "seconds"] for row in csv.DictReader(file)]


def kill_at_a_random_moment(folder: Path, chance: random.Random) -> None:
    """Let a training take some steps more, and kill it with no warning."""
    enough = len(rows(folder)) + chance.randint(1, 7)
    process = begun(folder)
    while len(rows(folder)) < enough:
        assert process.is_alive(), "ended before it could be killed"
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.1))
    process.kill()
    assert ended(process) == -signal.SIGKILL


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert ended(begun(whole)) == 0
    chance = random.Random(0)
    for _ in range(KILLS):
        kill_at_a_random_moment(killed, chance)
    assert 0 < len(rows(killed)) < STEPS
    assert ended(begun(killed)) == 0
    assert rows(killed) == rows(whole)
    assert len(rows(killed)) == STEPS
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
