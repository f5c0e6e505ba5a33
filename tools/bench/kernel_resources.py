"""Compiles every Triton and CUDA kernel for every architecture without a GPU: registers, spills, shared memory, TF32.

    python tools/bench/kernel_resources.py            # all; the most of each into a CSV among the results
    python tools/bench/kernel_resources.py --check    # write nothing; exit 1 when one breaks a rule

The rules: nothing spills, shared memory fits the architecture, float32 products of exact kernels do not go through
TF32, and products of bfloat16 run on tensor cores. Triton brings its compiler and the tools along; CUDA sources need
NVRTC and are left out without it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib import import_module, metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
SHARED_LIMIT_KIB = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 110: 227, 120: 99}
"""Shared memory that one block can have, by architecture (compute capability times ten)."""
ARCHITECTURES = tuple(SHARED_LIMIT_KIB)
_USAGE = re.compile(r"Function (?P<name>\w+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+)")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclass(frozen=True)
class Resources:
    """What one kernel in one configuration needs on one architecture.

    Attributes:
        family: Module of the kernel.
        kernel: Name.
        tensors: Types of the tensors, in order: `"bf16 fp32"`.
        constants: Compile-time arguments and launch options, `NAME=VALUE ...`.
        sm: Architecture.
        registers: Of a thread.
        stack_bytes: Of a thread; spilled registers live there, and what calls of functions need.
        spill_stores_bytes: Of a thread.
        spill_loads_bytes: Of a thread.
        shared_bytes: Of a block.
        has_tf32: Whether a product goes through TF32.
        is_exact: Whether that is forbidden.
        half_products: Products of 16-bit operands in the source.
        tensor_core: Whether there are tensor core instructions.
    """

    family: str
    kernel: str
    tensors: str
    constants: str
    sm: int
    registers: int
    stack_bytes: int
    spill_stores_bytes: int
    spill_loads_bytes: int
    shared_bytes: int
    has_tf32: bool
    is_exact: bool
    half_products: int
    tensor_core: bool

    def problems(self) -> list[str]:
        """Return which rules are broken, in words."""
        limit = 1024 * SHARED_LIMIT_KIB[self.sm]
        rules = {
            f"spills {self.spill_stores_bytes} bytes, loads {self.spill_loads_bytes} back": (
                self.spill_stores_bytes == self.spill_loads_bytes == 0
            ),
            f"{self.shared_bytes} bytes of shared memory, {limit} is the limit": self.shared_bytes <= limit,
            "TF32 in an exact kernel": not (self.is_exact and self.has_tf32),
            "16-bit products without tensor cores": self.tensor_core or not self.half_products,
        }
        where = f"{self.kernel} [{self.tensors}; {self.constants}] on sm_{self.sm}: "
        return [where + what for what, is_kept in rules.items() if not is_kept]


@dataclass(frozen=True)
class Most:
    """The most that any configuration of a kernel needs on an architecture.

    Attributes:
        family: Module of the kernel.
        kernel: Name.
        sm: Architecture.
        configurations: How many were compiled.
        registers: Of a thread.
        stack_bytes: Of a thread.
        spilled_bytes: Of a thread, stores and loads.
        shared_bytes: Of a block.
    """

    family: str
    kernel: str
    sm: int
    configurations: int
    registers: int
    stack_bytes: int
    spilled_bytes: int
    shared_bytes: int


def most_of(found: Sequence[Resources]) -> list[Most]:
    """Return one row for each kernel and architecture, in the order of the first of each.

    Args:
        found: What every configuration needs.
    """
    groups: dict[tuple[str, str, int], list[Resources]] = {}
    for row in found:
        groups.setdefault((row.family, row.kernel, row.sm), []).append(row)
    return [
        Most(
            *group,
            configurations=len(rows),
            registers=max(row.registers for row in rows),
            stack_bytes=max(row.stack_bytes for row in rows),
            spilled_bytes=max(row.spill_stores_bytes + row.spill_loads_bytes for row in rows),
            shared_bytes=max(row.shared_bytes for row in rows),
        )
        for group, rows in groups.items()
    ]


def families() -> list[str]:
    """Return the families that have Triton kernels."""
    import edgekd_kernels._triton as package

    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(import_module(f"{package.__name__}.{name}"), "variants")]


def variants(family: str) -> list[Any]:
    """Return a family's kernels in all configurations."""
    return list(import_module(f"edgekd_kernels._triton.{family}").variants())


def sample(family: str, sm: int) -> list[int]:
    """Return which variants of a family a quick check compiles for one architecture.

    Over all architectures each variant has its turn once; on the first and the last the largest of each kernel, with
    half precision and without, come besides: with them registers and shared memory run out first.
    """
    found = variants(family)
    turn = ARCHITECTURES.index(sm)
    chosen = [index for index in range(len(found)) if index % len(ARCHITECTURES) == turn]
    if sm not in (ARCHITECTURES[0], ARCHITECTURES[-1]):
        return chosen
    largest: dict[tuple[str, str], int] = {}
    for index, variant in enumerate(found):
        half = "half" if {"bf16", "fp16"} & set(_tensors(variant)) else "float32"
        key = variant.kernel.__name__, half
        if key not in largest or _size(variant) > _size(found[largest[key]]):
            largest[key] = index
    return sorted({*chosen, *largest.values()})


def compiler(workers: int = 1) -> ProcessPoolExecutor:
    """Return a process that compiles: where kernels are interpreted they cannot be compiled as they are."""
    return ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn"), initializer=_compile_here)


def compiled(family: str, indices: Sequence[int], sm: int) -> list[Resources]:
    """Return what some variants of a family need; to be run in a process of `compiler()`.

    Args:
        family: Module of the kernels.
        indices: Places in its `variants()`.
        sm: Architecture to compile for.
    """
    found = variants(family)
    return [_compiled(family, found[index], sm) for index in indices]


def programs() -> list[Any]:
    """Return the CUDA sources with the macros that launches define."""
    import edgekd_kernels._cuda as package
    from edgekd_kernels._cuda.launch import ELEMENTS, Program

    found: list[Any] = []
    for name in [module.name for module in pkgutil.iter_modules(package.__path__)]:
        for value in vars(import_module(f"{package.__name__}.{name}")).values():
            if getattr(value, "__name__", "") == "_program":
                found += [value(*pair) for pair in itertools.product(ELEMENTS, repeat=2)]
            found += [
                each for each in (value.values() if isinstance(value, dict) else [value]) if isinstance(each, Program)
            ]
    return found


def compiled_program(program: Any, sm: int) -> list[Resources]:
    """Return what the kernels of a CUDA source need.

    Args:
        program: One of `programs()`.
        sm: Architecture to compile for.
    """
    from edgekd_kernels._cuda.compiler import cubin

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernels.cubin")
        file.write_bytes(cubin(program.source, dict(program.definitions), sm))
        usage, code = _tool("cuobjdump", "--dump-resource-usage", str(file)), _tool("cuobjdump", "-sass", str(file))
    bodies = re.split(r"Function : (\w+)", code)
    code_of = dict(zip(bodies[1::2], bodies[2::2], strict=True))
    return [
        Resources(
            family=program.source,
            kernel=match["name"],
            tensors=" ".join(value for _, value in program.definitions),
            constants="",
            sm=sm,
            registers=int(match["registers"]),
            stack_bytes=int(match["stack"]),
            spill_stores_bytes=0,
            spill_loads_bytes=0,
            shared_bytes=int(match["shared"]),
            has_tf32="TF32" in code_of[match["name"]],
            is_exact=True,
            half_products=0,
            tensor_core="MMA" in code_of[match["name"]],
        )
        for match in _USAGE.finditer(usage)
    ]


def has_nvrtc() -> bool:
    """Return whether CUDA sources can be compiled."""
    try:
        import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except (ImportError, RuntimeError):
        return False
    return True


def _compile_here() -> None:
    os.environ["TRITON_INTERPRET"] = "0"


def _compiled(family: str, variant: Any, sm: int) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    _require_complete(variant, names)
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in variant.constants.items()}
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in variant.aligned}
    source = ASTSource(fn=variant.kernel, signature=signature, constexprs=constants, attrs=aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
    return Resources(
        family=family,
        kernel=variant.kernel.__name__,
        tensors=" ".join(_tensors(variant)),
        constants=" ".join(f"{name}={value}" for name, value in {**variant.constants, **options}.items()),
        sm=sm,
        **_usage(binary.asm["cubin"], binary.asm["ptx"], sm),
        shared_bytes=binary.metadata.shared,
        has_tf32="tf32" in binary.asm["ptx"],
        is_exact=variant.is_exact,
        half_products=len(re.findall(r"tt\.dot .*: tensor<\w+x(?:bf16|f16)", binary.asm["ttir"])),
        tensor_core=re.search(r"\b(mma\.sync|wgmma|tcgen05\.mma)", binary.asm["ptx"]) is not None,
    )


def _tensors(variant: Any) -> list[str]:
    """Return the types of the tensors in order; an argument can be a tuple of several."""
    kinds = [each if isinstance(each, tuple) else (each,) for each in variant.signature.values()]
    return [kind[1:] for each in kinds for kind in each if kind.startswith("*")]


def _require_complete(variant: Any, names: Sequence[str]) -> None:
    declared = {*variant.signature, *variant.constants}
    if declared != set(names):
        raise ValueError(f"{variant.kernel.__name__}: variant and arguments differ in {sorted(declared ^ set(names))}")


def _usage(cubin: bytes, ptx: str, sm: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        match = _USAGE.search(_tool("cuobjdump", "--dump-resource-usage", str(file)))
        if match is None:
            raise RuntimeError("cuobjdump names no kernel")
        spilled = _spills(ptx, sm, Path(folder)) if int(match["stack"]) else (0, 0)
    usage = {"registers": int(match["registers"]), "stack_bytes": int(match["stack"])}
    return {**usage, "spill_stores_bytes": spilled[0], "spill_loads_bytes": spilled[1]}


def _spills(ptx: str, sm: int, folder: Path) -> tuple[int, int]:
    """Return bytes of spill stores and loads as the assembler reports them."""
    source = folder / "kernel.ptx"
    source.write_text(ptx, encoding="utf-8")
    target = re.search(r"\.target (\w+)", ptx)
    arguments = ("-v", f"--gpu-name={target[1] if target else f'sm_{sm}'}", str(source), "-o", str(folder / "out"))
    log = _tool("ptxas-blackwell" if sm >= 100 else "ptxas", *arguments)
    counts = [(int(stores), int(loads)) for stores, loads in _SPILLS.findall(log)]
    return sum(stores for stores, _ in counts), sum(loads for _, loads in counts)


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _size(variant: Any) -> int:
    size = 1
    for value in variant.constants.values():
        size *= max(1, int(value)) if isinstance(value, int) else 1
    return size


def rows() -> Iterator[Resources]:
    """Yield what every kernel needs in every configuration on every architecture."""
    with compiler(os.cpu_count() or 1) as processes:
        parts = [
            processes.submit(compiled, family, range(len(variants(family))), sm)
            for family in families()
            for sm in ARCHITECTURES
        ]
        for part in parts:
            yield from part.result()
    for program in programs() if has_nvrtc() else ():
        for sm in ARCHITECTURES:
            yield from compiled_program(program, sm)


def main() -> None:
    """Write the table, or check the rules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    found = list(rows())
    problems = [problem for row in found for problem in row.problems()]
    if not arguments.check:
        print(_write(found))
    print(f"{len(found)} kernels compiled, {len(problems)} problems")
    sys.exit("\n".join(problems) or 0)


def _write(found: Sequence[Resources]) -> Path:
    from keep_result import clean_commit

    versions = f"aot-triton{metadata.version('triton')}_torch{metadata.version('torch').partition('+')[0]}"
    for older in RESULTS.glob("kernel-resources_*.csv"):
        older.unlink()
    path = RESULTS / f"kernel-resources_cpu-{versions}_{clean_commit()}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Most)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in most_of(found))
    return path


if __name__ == "__main__":
    main()
