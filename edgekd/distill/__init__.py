"""The distillation engine: recipes of stages over traces, terms, sources, weighers and views.

Importing it registers what recipes may name.
"""

from edgekd.distill import branches as branches
from edgekd.distill.evaluation import Evaluation, evaluate, fidelities_of, fidelity_of, outputs_of
from edgekd.distill.loop import Epoch
from edgekd.distill.probes import PROBES, Probe, fidelity
from edgekd.distill.recipe import Recipe, load_recipe, recipe_names
from edgekd.distill.resume import Paused, Resumption
from edgekd.distill.run import Outcome, RunOptions, check_recipe, run_recipe
from edgekd.distill.settings import TrainSettings

__all__ = [
    "PROBES",
    "Epoch",
    "Evaluation",
    "Outcome",
    "Paused",
    "Probe",
    "Recipe",
    "Resumption",
    "RunOptions",
    "TrainSettings",
    "check_recipe",
    "evaluate",
    "fidelity",
    "fidelities_of",
    "fidelity_of",
    "load_recipe",
    "outputs_of",
    "recipe_names",
    "run_recipe",
]
