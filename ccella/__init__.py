"""Prostate MRI exams from reports: train a generator, make synthetic exams, and find out what they are worth.

`import ccella` takes milliseconds: each name below is brought from its module when it is first used (PEP 562).
"""

from importlib import import_module

__version__ = "0.1.0"

_FACE = (
    "ccella.core.CcellaError",
    "ccella.recipe.load_recipe",
    # exams
    "ccella.exams.cohort.Cohort",
    "ccella.organs.prostate.phantom.phantom_exam",
    "ccella.organs.prostate.phantom.write_phantoms",
    # the papers' models
    "ccella.models.released.from_released",
    "ccella.models.ldm.Conditioning",
    "ccella.models.objective.joint_loss",
    # exams from reports
    "ccella.generators.exam_generator.load_generator",
    "ccella.generators.requests.requests_of",
    # what they are worth
    "ccella.measures.metrics.fid",
    "ccella.measures.metrics.kid",
    "ccella.measures.metrics.precision_recall",
    "ccella.measures.published.load_feature_network",
    "ccella.studies.evaluation.evaluate_cohorts",
    # figures for a notebook
    "ccella.figures.Shown",
    "ccella.figures.montage",
    "ccella.figures.picture",
    "ccella.exams.viewer.view",
    "ccella.generators.explorer.explore",
)
_PLACES = {path.rpartition(".")[2]: path for path in _FACE}

__all__ = sorted(_PLACES)


def __getattr__(name: str):
    """Bring a name from its module, and keep it."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ccella' has no attribute {name!r}")
    module, _, original = _PLACES[name].rpartition(".")
    found = getattr(import_module(module), original)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List what the package offers, and no more."""
    return sorted([*__all__, "__version__"])
