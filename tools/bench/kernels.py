"""Times every fused loss against eager torch, torch.compile and published code; writes what `impl="auto"` follows.

    python tools/bench/kernels.py --into FILE.csv --device cuda --minutes 9    # again, to go on where it stopped
    python tools/bench/kernels.py --device cpu                                 # named and put among the results
    python tools/bench/kernels.py --choices FILE.csv                           # from GPUs' files into choices.json

A row is one loss on tensors of one size in one implementation. `eager` is the textbook formula, `peer` the one of
published code, `compile` and `compile-max` are torch.compile of the textbook; all from raw tensors to gradients,
float32 without TF32. A row `step:LOSS` is a whole step of training, with what torch does by default.
Implementations take turns within one process. On a GPU `both_ms` is what one waits for both directions called alone,
Python and launches included; `graph_ms` is both replayed from a CUDA graph, the work of the GPU, which is what counts
in training that keeps it busy (empty where code cannot be captured). `gb_s` is what the loss has to move
(`edgekd_kernels.traffic`) over `graph_ms`, on a CPU over `both_ms`; `copy_gb_s` a copy of as many bytes.
Until all rows are there they lie in FILE.csv.part.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import kernel_cases
import kernel_steps
import peer_losses
import textbook_losses
import torch
import torch._functorch.config
from edgekd_kernels.traffic import bytes_moved
from kernel_cases import Arguments, Case
from kernel_choices import FUSED, choices
from kernel_timing import Clock, Step, forward_of, launches, peak_mib, replayed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"
CHOICES = ROOT / "kernels" / "edgekd_kernels" / "choices.json"
DTYPES = {
    "cuda": ((torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)),
    "cpu": ((torch.float32,) * 2,),
}
Function = Callable[..., torch.Tensor]
Columns = dict[str, str]
REPEATS = {"cuda": 50, "cpu": 15}


@dataclass(frozen=True)
class Row:
    """One line of a result file; an empty text is what was not measured."""

    loss: str
    shape: str
    student_dtype: str
    teacher_dtype: str
    impl: str
    forward_ms: str = ""
    forward_p20_ms: str = ""
    forward_p80_ms: str = ""
    backward_ms: str = ""
    backward_p20_ms: str = ""
    backward_p80_ms: str = ""
    both_ms: str = ""
    both_p20_ms: str = ""
    both_p80_ms: str = ""
    graph_ms: str = ""
    gb_s: str = ""
    copy_gb_s: str = ""
    input_bytes: str = ""
    moved_bytes: str = ""
    peak_mib: str = ""
    launches: str = ""
    compile_s: str = ""
    error: str = ""
    uncaptured: str = ""
    device: str = ""
    capability: str = ""
    python: str = ""
    torch: str = ""
    triton: str = ""
    cuda: str = ""
    commit: str = ""


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        device: `"cuda"` or `"cpu"`.
        table: Sizes, a key of `kernel_cases.SIZES`.
        losses: Names.
        repeats: Turns of each measurement.
        compile: `"max"` for torch.compile by default and with max-autotune, `"default"`, or `"no"`.
        compile_at: Which of a loss's sizes torch.compile is measured at, by number; all of them if None.
        stop_at: `time.monotonic()` at which nothing new is begun.
        facts: Device, versions and commit of every row.
    """

    device: str
    table: str
    losses: tuple[str, ...]
    repeats: int
    compile: str
    compile_at: int | None
    stop_at: float
    facts: Mapping[str, str]


def main() -> None:
    """Measure, or write the choices."""
    arguments = _parser().parse_args()
    if arguments.choices:
        rows = [row for file in arguments.choices for row in read(file)]
        wanted = set(arguments.losses.split(",")) if arguments.losses else {row.loss for row in rows}
        CHOICES.write_text(choices([row for row in rows if row.loss in wanted]), encoding="utf-8")
        return
    facts = _facts(arguments.device, arguments.commit)
    plan = Plan(
        device=arguments.device,
        table=arguments.table or arguments.device,
        losses=tuple(arguments.losses.split(",")) if arguments.losses else tuple(kernel_cases.fused_losses()),
        repeats=arguments.repeats or REPEATS[arguments.device],
        compile=arguments.compile,
        compile_at=arguments.compile_at,
        stop_at=time.monotonic() + 60 * arguments.minutes,
        facts=facts,
    )
    torch.set_num_threads(1 if plan.device == "cpu" else torch.get_num_threads())
    if arguments.compile_share:
        compile_share(plan, *map(int, arguments.compile_share.split("/")))
        return
    sys.exit(measure(plan, arguments.into or _named(facts)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--into", type=Path, help="result file; one under tools/bench/results, named by device and commit"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=1e6, help="length of this slice")
    parser.add_argument("--losses", help="comma-separated; all")
    parser.add_argument("--table", choices=tuple(kernel_cases.SIZES), help="sizes; those of the device")
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--compile", choices=("max", "default", "no"), default="max", help="modes of torch.compile, of float32"
    )
    parser.add_argument("--compile-at", type=int, help="number of the only size that torch.compile is measured at")
    parser.add_argument("--compile-share", help="N/M: compile one of M shares into the caches, measure nothing")
    parser.add_argument("--commit", help="short hash of the code; asks git")
    parser.add_argument("--choices", type=Path, nargs="+", help="write choices.json from result files, measure nothing")
    return parser


def measure(plan: Plan, path: Path) -> int:
    """Measure what a file lacks.

    Args:
        plan: What is run.
        path: Result file, which appears when it is complete.

    Returns:
        Exit status, 0 for a pause too.
    """
    part = path.with_name(path.name + ".part")
    done = (
        {(row.loss, row.shape, row.student_dtype, row.teacher_dtype) for row in read(part)} if part.exists() else set()
    )
    clock = Clock(plan.device)
    groups = [*kernel_steps.pairs(plan.device, plan.table), *_cases(plan)]
    for group in groups:
        if _key(group) in done:
            continue
        if time.monotonic() > plan.stop_at:
            print(f"paused; {part} holds what there is")
            return 0
        _append(part, list(_rows(group, plan, clock)))
    part.replace(path)
    print(path)
    return 0


def compile_share(plan: Plan, number: int, shares: int) -> None:
    """Compile what one of several processes compiles, so that the measuring one finds it in the caches on disk.

    Args:
        plan: What is run.
        number: Which process, from 0.
        shares: How many there are.
    """
    for case in _cases(plan)[number::shares]:
        _running(case, case.arguments(), plan)


def _cases(plan: Plan) -> list[Case]:
    """Return the cases, first the largest of each loss, so that a file cut short says something of every one."""
    found = []
    for number, (student, teacher) in enumerate(DTYPES[plan.device]):
        for loss in plan.losses:
            dtypes = {"student_dtype": student, "teacher_dtype": teacher}
            cases = kernel_cases.cases(loss, plan.table, device=plan.device, **dtypes)
            cases = cases if student == teacher else cases[:1]  # mixed ones at the smallest size alone
            found += [(place, number, case) for place, case in enumerate(reversed(cases))]
    return [case for *_, case in sorted(found, key=lambda each: each[:2])]


def _key(group: Case | kernel_steps.Pair) -> tuple[str, str, str, str]:
    return group.loss, group.shape, _name(group.student_dtype), _name(group.teacher_dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rows(group: Case | kernel_steps.Pair, plan: Plan, clock: Clock) -> Iterator[Row]:
    """Yield the rows of one loss on tensors of one size."""
    key = _key(group)
    if isinstance(group, kernel_steps.Pair):
        steps = group.steps()
        times = clock.compare(steps, repeats=plan.repeats)
        for impl, found in times.items():
            graph = _from_graph(lambda step=steps[impl]: step, clock, plan) if clock.is_gpu else {}
            yield Row(*key, impl=impl, **_columns("both", found), **graph, **plan.facts)
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    arguments = group.arguments()
    size = {
        "input_bytes": sum(each.numel() * each.element_size() for each in kernel_cases.tensors_of(arguments).values())
    }
    moved = bytes_moved(group.function, **arguments).bytes
    base = Row(*key, impl="", **plan.facts, moved_bytes=str(moved), **{name: str(size[name]) for name in size})
    running, failures = _running(group, arguments, plan)
    yield from (replace(base, impl=impl, error=error) for impl, error in failures.items())
    forwards = {impl: forward_of(function, arguments) for impl, (function, _) in running.items()}
    backwards = {impl: _backward(call, arguments) for impl, call in forwards.items()}
    both = {impl: _both(call, arguments) for impl, call in forwards.items()}
    found = {
        way: clock.compare(steps, repeats=plan.repeats)
        for way, steps in (("forward", forwards), ("backward", backwards), ("both", both))
    }
    for impl, (function, compile_s) in running.items():
        times = {way: found[way][impl] for way in found}
        columns: Columns = {}
        for way, each in times.items():
            columns |= _columns(way, each)
        columns["compile_s"] = f"{compile_s:.1f}" if compile_s else ""
        if clock.is_gpu:
            columns |= _on_gpu(function, arguments, clock, plan, counts_launches=_is_first(group, plan))
        columns["gb_s"] = f"{moved / float(columns.get('graph_ms') or times['both'].median_ms) / 1e6:.2f}"
        columns["copy_gb_s"] = f"{clock.copy_gb_s(moved):.2f}"
        yield replace(base, impl=impl, **columns)


def _is_first(case: Case, plan: Plan) -> bool:
    """Return whether a case is the first of its loss, whose launches are counted: other sizes take as many."""
    is_smallest = case.size == kernel_cases.SIZES[plan.table][kernel_cases.kind_of(case.loss)][0]
    return is_smallest and case.student_dtype == torch.float32


def _columns(way: str, found: Any) -> Columns:
    values = {"": found.median_ms, "_p20": found.p20_ms, "_p80": found.p80_ms}
    return {f"{way}{suffix}_ms": f"{value:.5f}" for suffix, value in values.items()}


def _on_gpu(function: Function, arguments: Arguments, clock: Clock, plan: Plan, *, counts_launches: bool) -> Columns:
    step = _both(forward_of(function, arguments), arguments)
    columns = {"peak_mib": f"{peak_mib(step):.1f}"} | ({"launches": str(launches(step))} if counts_launches else {})

    def on_leaves_of_its_own() -> Step:
        own = kernel_cases.copied(arguments)
        return _both(forward_of(function, own), own)

    return columns | _from_graph(on_leaves_of_its_own, clock, plan)


def _from_graph(make: Callable[[], Step], clock: Clock, plan: Plan) -> Columns:
    try:
        graph = replayed(make)
    except RuntimeError as error:  # what cannot be captured has no figure: a synchronisation in published code, say
        return {"uncaptured": str(error).splitlines()[0][:200]}
    return {"graph_ms": f"{clock.compare({'graph': graph}, repeats=plan.repeats)['graph'].median_ms:.5f}"}


def _backward(forward: Callable[[], torch.Tensor], arguments: Arguments) -> Step:
    loss, taught = forward(), _taught(arguments)
    return lambda: torch.autograd.grad(loss, taught, retain_graph=True)


def _both(forward: Callable[[], torch.Tensor], arguments: Arguments) -> Step:
    taught = _taught(arguments)
    return lambda: torch.autograd.grad(forward(), taught)


def _taught(arguments: Arguments) -> list[torch.Tensor]:
    return [each for each in kernel_cases.tensors_of(arguments).values() if each.requires_grad]


def _running(case: Case, arguments: Arguments, plan: Plan) -> tuple[dict[str, tuple[Function, float]], Columns]:
    """Return each implementation that runs with the seconds of its first call, and of the other ones why not."""
    running: dict[str, tuple[Function, float]] = {}
    failures: Columns = {}
    for impl, function in _functions(case, plan).items():
        started = time.perf_counter()
        try:
            _both(forward_of(function, arguments), arguments)()
        except (RuntimeError, ValueError, TypeError, ImportError) as error:
            failures[impl] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        is_compiled = impl.startswith("compile") or impl in ("triton", "cuda")
        running[impl] = function, time.perf_counter() - started if is_compiled else 0.0
    return running, failures


def _functions(case: Case, plan: Plan) -> dict[str, Function]:
    functions: dict[str, Function] = {}
    textbook, peer = (getattr(module, case.loss, None) for module in (textbook_losses, peer_losses))
    if textbook is not None:
        functions["eager"] = textbook
    if peer is not None:
        functions["peer"] = peer
    sizes = kernel_cases.SIZES[plan.table][kernel_cases.kind_of(case.loss)]
    is_compiled = plan.compile_at is None or sizes.index(case.size) == min(plan.compile_at, len(sizes) - 1)
    if plan.compile != "no" and textbook is not None and is_compiled and case.student_dtype == torch.float32:
        torch.compiler.reset()
        torch._functorch.config.donated_buffer = False  # the backward is called again and again on one forward's graph
        functions["compile"] = torch.compile(textbook)
        if plan.compile == "max":
            functions["compile-max"] = torch.compile(textbook, mode="max-autotune-no-cudagraphs")
    if case.loss == "kd_kl" and plan.device == "cuda" and util.find_spec("liger_kernel"):
        functions["liger"] = _liger
    offered = kernel_cases.implementations(case.loss)
    for impl in FUSED:
        if impl == "torch" or (plan.device == "cuda" and impl in offered):
            functions[impl] = _with_impl(case.function, impl)
    return functions


def _with_impl(function: Function, impl: str) -> Function:
    def fused(**arguments: Any) -> torch.Tensor:
        return function(**arguments, impl=impl)

    return fused


def _liger(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Liger's KL takes log-probabilities, so the softmaxes and the temperature are ours here."""
    from liger_kernel.ops.kl_div import LigerKLDivLossFunction

    log_q = torch.log_softmax(student_logits.float() / 4.0, dim=1)
    p = torch.softmax(teacher_logits.float() / 4.0, dim=1)
    return LigerKLDivLossFunction.apply(log_q, p, "batchmean") * 16.0


def read(path: Path) -> list[Row]:
    """Return the rows of a result file.

    Args:
        path: Complete or not.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def _append(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Row)]
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in rows)


def _facts(device: str, commit: str | None) -> dict[str, str]:
    from keep_result import clean_commit, cpu_name

    is_gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_gpu else cpu_name(),
        "capability": "sm_{}{}".format(*torch.cuda.get_device_capability()) if is_gpu else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": metadata.version("triton") if util.find_spec("triton") else "",
        "cuda": torch.version.cuda or "",
        "commit": commit or clean_commit(),
    }


def _named(facts: Mapping[str, str]) -> Path:
    kind = "gpu" if facts["capability"] else "cpu"
    device = facts["device"].replace(" ", "-")
    return RESULTS / f"kernels_{kind}-{device}_torch{facts['torch'].partition('+')[0]}_{facts['commit']}.csv"


if __name__ == "__main__":
    main()
