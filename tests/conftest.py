"""One thread per process: the tests run several at a time, and threads that fight over cores are slower than one."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# stages take two threads each: those that wait for their turn by spinning stop the other test's
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["MPLBACKEND"] = "agg"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing may be fetched by a test
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else a fork warns, and may hang

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("ccella", deadline=None, print_blob=True)
settings.load_profile("ccella")

SLOW = {"slow", "browser", "by_hand"}


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="leave out trainings, browsers, and cells under #| slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if SLOW & {mark.name for mark in item.iter_markers()}]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)
