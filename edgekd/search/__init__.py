"""Choosing the student: a sweep for the largest that keeps the budget, or a search that trains candidates."""

from edgekd.search.costs import Cost, excesses, memory_bytes
from edgekd.search.guesses import queue_guesses, widest_fits
from edgekd.search.pareto import dominates, front, goes_on
from edgekd.search.profile import ProfileRow, SpaceProfile, profile_space, require_reachable
from edgekd.search.space import Dimension, FamilySpace, Point, SearchSpace, parameters_of, values_of
from edgekd.search.storage import open_storage, open_study, shown, storage_errors
from edgekd.search.sweep import Choice, Considered, Sized, Space, candidates, choose_student, not_above
from edgekd.search.trials import TrialRecord, close_lost, queue_lost, records_of, worker_name
from edgekd.search.worker import OBJECTIVES, Plan, Students, sampler_for, trial_event, work

__all__ = [
    "OBJECTIVES",
    "Choice",
    "Considered",
    "Cost",
    "Dimension",
    "FamilySpace",
    "Plan",
    "Point",
    "ProfileRow",
    "SearchSpace",
    "Sized",
    "Space",
    "SpaceProfile",
    "Students",
    "TrialRecord",
    "candidates",
    "choose_student",
    "close_lost",
    "dominates",
    "excesses",
    "front",
    "goes_on",
    "memory_bytes",
    "not_above",
    "open_storage",
    "open_study",
    "parameters_of",
    "profile_space",
    "queue_guesses",
    "queue_lost",
    "records_of",
    "require_reachable",
    "sampler_for",
    "shown",
    "storage_errors",
    "trial_event",
    "values_of",
    "widest_fits",
    "work",
    "worker_name",
]
