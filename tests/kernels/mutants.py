"""One deliberate bug for each kernel and each closed form, which the accuracy check of test_mutations.py must see."""

from dataclasses import dataclass, field

from kernel_cases import Size


@dataclass(frozen=True)
class Mutation:
    """A change of a module's text.

    Attributes:
        module: Under `edgekd_kernels`, `"_triton.rowwise"`.
        old: Text that occurs there once.
        new: What replaces it.
        loss: Public loss whose check must fail.
        size: Of the tensors, where the small table would not do.
        options: Of the loss.
    """

    module: str
    old: str
    new: str
    loss: str
    size: Size | None = None
    options: dict = field(default_factory=dict)


MUTATIONS = [
    Mutation(
        "_triton.rowwise",
        "tl.sum(tl.where(inside, tl.exp(s - largest_s), 0.0), axis=0)",
        "tl.sum(tl.exp(s - largest_s), axis=0)",
        "kd_kl",
    ),
    Mutation("_triton.rowwise", "result = (q - p) * (scale", "result = (p - q) * (scale", "kd_kl"),
    Mutation(
        "_triton.rowwise",
        "return losses.mean(dim=1) * temperature**2, log_q",
        "return losses.mean(dim=1), log_q",
        "kd_kl",
    ),
    Mutation("_torch.rowwise", "return values.mean(dim=1) * temperature**2", "return values.mean(dim=1)", "kd_kl"),
    Mutation(
        "_torch.rowwise",
        "(grad * (temperature / student.shape[1]))",
        "(grad / (temperature * student.shape[1]))",
        "kd_kl",
    ),
]
