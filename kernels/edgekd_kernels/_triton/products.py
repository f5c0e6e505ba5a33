"""Products of float32 on tensor cores with float32's digits: operands are split into three parts of bfloat16.

Three parts of 8 bits hold the 24 bits of a float32. A product of parts is exact in the accumulator; left out are those
of the order of 2^-24 of the whole, less than a float32 sum rounds by. Tensor cores cut sums off where an addition would
round, so a sum of many terms is to be added up from shorter ones, outside.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split(x, UPCAST: tl.constexpr):
    """Return three parts of bfloat16, the largest first, whose sum is a float32 tensor.

    Args:
        x: float32.
        UPCAST: Whether the parts are to be float32, as Triton's interpreter needs them.
    """
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    if UPCAST:
        high, middle, low = high.to(tl.float32), middle.to(tl.float32), low.to(tl.float32)
    return high, middle, low


@triton.jit
def product_with_flags(x, flags, UPCAST: tl.constexpr):
    """Return `x @ flags` in float32.

    Args:
        x: float32 `[M, K]`.
        flags: Truth values, `[K, N]`.
        UPCAST: As in `split`.
    """
    bits = tl.where(flags, 1.0, 0.0).to(tl.float32 if UPCAST else tl.bfloat16)
    high, middle, low = split(x, UPCAST)
    result = tl.dot(low, bits, input_precision="ieee")
    result = tl.dot(middle, bits, result, input_precision="ieee")
    return tl.dot(high, bits, result, input_precision="ieee")


@triton.jit
def product(a, b, UPCAST: tl.constexpr):
    """Return `a @ b` in float32: of half precision as they are, of float32 by parts, the smallest first.

    Args:
        a: `[M, K]`.
        b: `[K, N]`, of the same dtype.
        UPCAST: As in `split`.
    """
    if a.dtype == tl.float32:
        a0, a1, a2 = split(a, UPCAST)
        b0, b1, b2 = split(b, UPCAST)
        result = tl.dot(a2, b0, input_precision="ieee")
        result = tl.dot(a0, b2, result, input_precision="ieee")
        result = tl.dot(a1, b1, result, input_precision="ieee")
        result = tl.dot(a1, b0, result, input_precision="ieee")
        result = tl.dot(a0, b1, result, input_precision="ieee")
        result = tl.dot(a0, b0, result, input_precision="ieee")
    elif UPCAST:
        result = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        result = tl.dot(a, b)
    return result


@triton.jit
def added(sums, products):
    """Return `sums + products`, in a form that the compiler does not turn into one long sum within `tl.dot`."""
    return tl.fma(products, 1.0, sums)
