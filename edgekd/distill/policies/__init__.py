"""Weights that are learned from reward instead of from gradients of the loss: which knowledge, which teacher.

A policy keeps all its chance in generators of its own, derived from its seed and from how far it is, and all it knows
in plain tensors, so that a run can go on from its state.
"""

from edgekd.distill.policies.base import POLICIES, Feedback, Policy, PolicyWeight
from edgekd.distill.policies.knowledge_selection import KnowledgeSelection
from edgekd.distill.policies.teacher_selection import TeacherSelection

__all__ = [
    "POLICIES",
    "Feedback",
    "KnowledgeSelection",
    "Policy",
    "PolicyWeight",
    "TeacherSelection",
]
