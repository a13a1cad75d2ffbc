"""One thread per process: the tests run several at a time, and threads that fight over cores are slower than one."""

import os
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# stages take two threads each: those that wait for their turn by spinning stop the other test's
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["MPLBACKEND"] = "agg"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing may be fetched by a test
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else a fork warns, and may hang
# each of some 150 processes would compile the whole package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# JupyterLab brings a check of web addresses whose grammar takes a second to build wherever jsonschema is imported: in
# every kernel, and in what starts it; users have it with JupyterLab alone
sys.modules["rfc3987_syntax"] = None
without = str(Path(__file__).with_name("without"))
os.environ["PYTHONPATH"] = os.pathsep.join([without, *filter(None, [os.environ.get("PYTHONPATH")])])

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("ccella", deadline=None, print_blob=True)
settings.load_profile("ccella")

SLOW = {"slow", "browser", "by_hand"}


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="leave out trainings, browsers, and cells under #| slow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from sharing import FilesAndNotebooks

    return FilesAndNotebooks(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: "notebook" in item.keywords)  # the short ones last, so that workers end together
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if SLOW & {mark.name for mark in item.iter_markers()}]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture()
def stages_here(monkeypatch):
    """Stages run in forks of this process, without engine and kernels, which tests/test_stages.py holds to the same."""
    import runs

    from ccella import part_commands, run_commands
    from ccella.studies import engine

    monkeypatch.setattr(engine, "run_engine", runs.run_cells_here)
    for module in (part_commands, run_commands):
        monkeypatch.setattr(module, "execute_notebook", runs.execute_notebook_here)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)
