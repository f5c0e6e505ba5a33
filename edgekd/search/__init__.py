"""Choosing the student: the largest member of a family whose latency keeps the budget."""

from edgekd.search.sweep import Choice, Considered, Sized, Space, candidates, choose_student

__all__ = ["Choice", "Considered", "Sized", "Space", "candidates", "choose_student"]
