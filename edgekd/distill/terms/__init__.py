"""Loss terms: one number for each sample from a student's trace, a teacher's trace and the batch.

Terms own their adapters (regressors, variances), which train with the student and are absent from what is exported.
This is the only package that uses `edgekd_kernels`; it holds no loss formula of its own.
"""

from edgekd.distill.terms.base import TERMS, Needs, Step, Term, build_term, term_schema
from edgekd.distill.terms.features import FitNetHint, VariationalInformation
from edgekd.distill.terms.logits import CrossEntropy, KnowledgeDistillation
from edgekd.distill.terms.relations import SimilarityPreserving

__all__ = [
    "TERMS",
    "CrossEntropy",
    "FitNetHint",
    "KnowledgeDistillation",
    "Needs",
    "SimilarityPreserving",
    "Step",
    "Term",
    "VariationalInformation",
    "build_term",
    "term_schema",
]
