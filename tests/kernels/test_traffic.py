"""Bytes that losses move: declared ones against the floor by hand, and against what the kernels load and store.

The kernels run in Triton's interpreter, whose loads and stores are counted lane by lane, masked ones left out. That
counts what programs ask for: what a cache saves on a GPU is not seen, nor are the sums over partials in torch.
"""

import pytest
import torch
from edgekd_kernels import functional as K
from edgekd_kernels.traffic import Traffic, bytes_moved
from kernel_cases import Case, Size, fused_losses, kind_of, tensors_of, values_and_gradients
from textbook_losses import kd_kl as textbook_kd_kl

SIZE = {
    "logits": Size(8, classes=700),
    "map": Size(4, channels=16, teacher_channels=24, height=12, width=12),
    "features": Size(16, features=512, teacher_features=768),
    "bank": Size(4, features=64, bank=256, negatives=96),
}
_GRAM = "features read for their mean and on both sides of each tile of the Gram matrix, and matrices `[B, B]`"
TIMES = {
    "attention_transfer": (1.3, "maps `[B, P]` between its kernels, of which 16 channels make much"),
    "bank_similarity": (2.0, "each sample's rows of the bank, some of them the same"),
    "cka_dissimilarity": (2.65, _GRAM),
    "info_nce": (2.7, "rows again for each tile of the similarities, and for their lengths"),
    "linear_cka": (2.65, _GRAM),
    "pooled_mse": (1.3, "shares of the means, of every tile of positions"),
    "projected_mse": (1.45, "the residual for both gradients, and parts of the weight's"),
    "rkd_angle": (3.5, _GRAM + ", of which each sample has its own"),
    "rkd_distance": (2.85, _GRAM),
    "similarity_preserving": (1.7, _GRAM),
}
"""By loss, how many times over its kernels ask for the declared bytes, and for what; a cache serves the repeats."""
BESIDE = {"cka_dissimilarity": 1}
"""Operators on `[B]` beside the fused one: 1 less an alignment."""


def _declared(name):
    arguments = Case(name, SIZE[kind_of(name)]).arguments()
    return bytes_moved(getattr(K, name), **arguments)


RECOMPUTING = {  # forward reads both, backward reads both and writes the student's gradient
    "kd_kl", "dkd", "nkd", "standardized_kl", "cwd", "hint_mse", "hint_l2", "pkd", "vid", "pooled_mse", "curriculum_kl",
    "hint_mse_grouped", "mgd", "kd_ce",
}  # fmt: skip
TEACHER_FREED = {  # backward reads the student and a coefficient matrix or map, and writes the student's gradient
    "attention_transfer", "similarity_preserving", "rkd_distance", "rkd_angle", "cka_dissimilarity", "linear_cka",
    "correlation_congruence", "pkt",
}  # fmt: skip
SMALL_BESIDE = 0.12


@pytest.mark.parametrize("name", fused_losses())
def test_declared_bytes_are_those_of_the_floor(name):
    arguments = Case(name, SIZE[kind_of(name)]).arguments()
    tensors = tensors_of(arguments)
    first = sum(tensor.numel() * 4 for name, tensor in tensors.items() if not name.startswith("teacher_"))
    second = sum(tensor.numel() * 4 for name, tensor in tensors.items() if name.startswith("teacher_"))
    declared = _declared(name)
    if name in RECOMPUTING:
        floor = (first + second, first + second + first)
    elif name in TEACHER_FREED:
        floor = (first + second, 2 * first)
    elif name == "info_nce":
        floor = (first + second, 2 * (first + second))
    elif name == "projected_mse":  # the residual is written once and read for both gradients
        floor = (first + 2 * second, second + 2 * first)
    else:
        pytest.skip("no floor was worked out")
    for moved, least in zip((declared.forward_bytes, declared.backward_bytes), floor, strict=True):
        assert least <= moved <= (1 + SMALL_BESIDE) * least


@pytest.mark.parametrize("name", fused_losses())
def test_a_fused_loss_is_one_operator_each_way(name):
    declared = _declared(name)
    beside = BESIDE.get(name, 0)
    assert (declared.forward_operators, declared.backward_operators) == (1 + beside, 1 + beside)


@pytest.fixture
def counted(monkeypatch):
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder, total = interpreter.InterpreterBuilder, [0]

    def counting(method, place):
        def wrapper(self, pointers, *rest):
            mask = rest[place].data
            total[0] += int(mask.sum()) * (pointers.get_element_ty().primitive_bitwidth // 8)
            return method(self, pointers, *rest)

        return wrapper

    for name, place in (("create_masked_load", 0), ("create_masked_store", 1)):
        monkeypatch.setattr(builder, name, counting(getattr(builder, name), place))
    return total


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU, not in the interpreter")
@pytest.mark.parametrize("name", fused_losses())
def test_kernels_load_and_store_what_is_declared(counted, name):
    case = Case(name, SIZE[kind_of(name)])
    values_and_gradients(case.function, case.arguments(), impl="triton")
    declared = _declared(name).bytes
    times = TIMES.get(name, (1 + SMALL_BESIDE,))[0]
    assert (1 - SMALL_BESIDE) * declared <= counted[0] <= times * declared


def test_the_counter_sees_masks_and_types(counted):
    triton = pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels run on the GPU, not in the interpreter")
    import triton.language as tl

    @triton.jit
    def copy(source, target, count, BLOCK: tl.constexpr):
        place = tl.arange(0, BLOCK)
        tl.store(target + place, tl.load(source + place, mask=place < count).to(tl.float32), mask=place < count)

    copy[(1,)](torch.ones(5, dtype=torch.float16), torch.zeros(5), 5, BLOCK=8)
    assert counted == [5 * 2 + 5 * 4]


def test_operators_are_counted_by_their_extents():
    def twice(x):
        return (x * 2).sum(dim=1)

    x = torch.zeros(3, 8, requires_grad=True)
    assert bytes_moved(twice, x) == Traffic((96 + 96) + (96 + 12), 12 + 96, 2, 1)  # the sum's gradient is expanded
    expanded = torch.zeros(1, 8).expand(3, 8)
    assert bytes_moved(torch.neg, expanded) == Traffic(32 + 96, 0, 1, 0)
    assert bytes_moved(lambda a, *, b: a + b, x.detach(), b=torch.zeros(8, dtype=torch.float64)).backward_bytes == 0


def test_the_textbook_moves_nine_times_the_floor():
    student, teacher = torch.empty(256, 1000, requires_grad=True), torch.empty(256, 1000)
    eager = bytes_moved(textbook_kd_kl, student, teacher)
    assert 7 < eager.bytes / (3 * 256 * 1000 * 4) < 10
