"""Loss terms: one number for each sample from a student's trace, a teacher's trace and the batch.

Terms own their adapters (regressors, variances), which train with the student and are absent from what is exported.
Only this package and `edgekd.distill.probes` use `edgekd_kernels`; no loss formula stands here.
"""

from edgekd.distill.step import Step
from edgekd.distill.terms.activations import ActivationBoundary, OverhauledFeatures
from edgekd.distill.terms.aligned import AlignedFeatures
from edgekd.distill.terms.attention import AttentionTransfer, NeuronSelectivity
from edgekd.distill.terms.base import TERMS, Needs, Preparation, Prepared, Term, build_term
from edgekd.distill.terms.channels import ChannelWiseKD
from edgekd.distill.terms.contrastive import ContrastiveRepresentation, InBatchContrast
from edgekd.distill.terms.correlation import MultiLevelKD, RelationalCorrelation
from edgekd.distill.terms.curriculum import CurriculumTemperature
from edgekd.distill.terms.decoupled import DecoupledKD, NormalizedKD
from edgekd.distill.terms.exits import BranchKL, FeatureMSE
from edgekd.distill.terms.extraction import RandomProjection
from edgekd.distill.terms.factors import FactorTransfer, Paraphrasing
from edgekd.distill.terms.features import (
    FitNetHint,
    NormalizedHint,
    PearsonCorrelation,
    PooledPyramid,
    VariationalInformation,
)
from edgekd.distill.terms.flows import SolutionFlow
from edgekd.distill.terms.gaussian import GaussianKL, GaussianNLL
from edgekd.distill.terms.generative import MaskedGeneration
from edgekd.distill.terms.gradients import GradientMatch
from edgekd.distill.terms.logits import CrossEntropy, KnowledgeDistillation, StandardizedKD
from edgekd.distill.terms.modalities import ModalityGram
from edgekd.distill.terms.relations import (
    CorrelationCongruence,
    KernelAlignment,
    ProbabilisticTransfer,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from edgekd.distill.terms.review import KnowledgeReview
from edgekd.distill.terms.selfsupervised import SelfSupervision, SimilarityTransfer, TransformedKD
from edgekd.distill.terms.tokens import ClsHint, HiddenRelation

__all__ = [
    "TERMS",
    "FactorTransfer",
    "Paraphrasing",
    "ActivationBoundary",
    "AlignedFeatures",
    "AttentionTransfer",
    "BranchKL",
    "ChannelWiseKD",
    "ClsHint",
    "ContrastiveRepresentation",
    "CorrelationCongruence",
    "CrossEntropy",
    "CurriculumTemperature",
    "DecoupledKD",
    "FeatureMSE",
    "FitNetHint",
    "GaussianKL",
    "GaussianNLL",
    "GradientMatch",
    "HiddenRelation",
    "InBatchContrast",
    "KernelAlignment",
    "KnowledgeDistillation",
    "KnowledgeReview",
    "MaskedGeneration",
    "ModalityGram",
    "MultiLevelKD",
    "Needs",
    "NeuronSelectivity",
    "NormalizedHint",
    "NormalizedKD",
    "OverhauledFeatures",
    "PearsonCorrelation",
    "PooledPyramid",
    "Preparation",
    "Prepared",
    "ProbabilisticTransfer",
    "RandomProjection",
    "RelationalAngle",
    "RelationalCorrelation",
    "RelationalDistance",
    "SelfSupervision",
    "SimilarityPreserving",
    "SimilarityTransfer",
    "SolutionFlow",
    "StandardizedKD",
    "Step",
    "Term",
    "TransformedKD",
    "VariationalInformation",
    "build_term",
]
