"""The tables of kernels/README.md: the fused losses, and their speed from result files of `kernels.py`."""

from __future__ import annotations

import csv
import inspect
import re
from collections import Counter
from pathlib import Path
from statistics import geometric_mean

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"
_OURS = ("auto", "triton", "cuda", "torch")
_REFERENCES = ("eager", "peer", "compile")
_GROUP = ("loss", "shape", "student_dtype", "teacher_dtype")
_STEP = "step:"
_NOT_RUN = "Not yet run.\n"


def resources_text() -> str:
    """Return in words what compiling every kernel for every architecture found."""
    files = sorted(RESULTS.glob("kernel-resources_*.csv"))
    if not files:
        return _NOT_RUN
    rows = list(csv.DictReader(files[-1].open(encoding="utf-8", newline="")))
    configurations = sum(int(row["configurations"]) for row in rows)
    kernels, sms = {row["kernel"] for row in rows}, sorted({int(row["sm"]) for row in rows})
    spilled = sum(int(row["spilled_bytes"]) > 0 for row in rows)
    most = max(rows, key=lambda row: int(row["registers"]))
    return (
        f"{len(kernels)} kernels in all their configurations, {configurations:,} compilations for sm_"
        f"{', sm_'.join(map(str, sms))}: {spilled or 'none'} of them {'spill' if spilled else 'spills'} registers; "
        f"the most a thread has is {most['registers']} (`{most['kernel']}`). "
        f"Source: `{files[-1].relative_to(ROOT)}`.\n"
    )


def losses_table() -> str:
    """Return the fused losses with formula, source, implementations and traffic as Markdown."""
    import kernel_cases
    from edgekd_kernels.traffic import bytes_moved

    size = kernel_cases.Size(
        16, classes=4096, channels=32, teacher_channels=48, height=48, width=48, features=4096, teacher_features=6144,
        bank=2048, negatives=1023,
    )  # fmt: skip
    lines = ["| loss | what | paper | kernels | forward | backward |", "| --- | --- | --- | --- | --- | --- |"]
    for loss in kernel_cases.fused_losses():
        case = kernel_cases.Case(loss, size)
        function, arguments = case.function, case.arguments()
        document = inspect.getdoc(function) or ""
        paper = re.search(r"arXiv ([\d.]+\d)", document)
        tensors = kernel_cases.tensors_of(arguments)
        n = sum(each.numel() for each in tensors.values() if each.requires_grad)
        m = sum(each.numel() for each in tensors.values() if not each.requires_grad)
        moved = bytes_moved(function, **arguments)
        cells = (
            f"`{loss}`",
            document.splitlines()[0].rstrip(".").replace("|", "\\|"),
            f"[{paper[1]}](https://arxiv.org/abs/{paper[1]})" if paper else "",
            ", ".join(("torch", *kernel_cases.implementations(loss)[::-1])),
            _in_elements(moved.forward_bytes / 4, n, m),
            _in_elements(moved.backward_bytes / 4, n, m),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def speed_table(pattern: str) -> str:
    """Return how many times faster the losses are than what they replace, as Markdown.

    Args:
        pattern: Glob of files of `kernels.py` under the results folder, which measured different things.
    """
    files, rows = _rows_of(pattern)
    if not files:
        return _NOT_RUN
    groups = _groups([row for row in rows if not row["loss"].startswith(_STEP)])
    if "graph_ms" in {_time_of(group) for group in groups}:  # what a GPU could not capture has no figure here
        groups = [group for group in groups if _time_of(group) == "graph_ms"]
    lines = [
        "| loss | tensors | implementation | ms | of a copy's rate | over eager | over published | over compile |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for group in groups:
        ours = _fastest(group, _time_of(group))
        if ours:
            lines.append("| " + " | ".join(_cells(ours, group)) + " |")
    return "\n".join([*lines, "", *_summaries(groups), _source(files)]) + "\n"


def steps_table(pattern: str) -> str:
    """Return what a loss takes of a whole training step, as Markdown.

    Args:
        pattern: As in `speed_table`.
    """
    files, rows = _rows_of(pattern)
    if not files:
        return _NOT_RUN
    lines = [
        "| loss | student, teacher, pictures | without it, ms | textbook | ours | share, textbook | share, ours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for group in _groups([row for row in rows if row["loss"].startswith(_STEP)]):
        column = _time_of(group)
        times = {row["impl"]: float(row[column]) for row in group if row[column]}
        bare = times["no loss"]
        shares = (f"{100 * (times[impl] - bare) / times[impl]:.1f} %" for impl in ("eager", "auto"))
        loss, networks = group[0]["loss"].removeprefix(_STEP), group[0]["shape"].replace("|", ", ")
        figures = (f"{times[impl]:.3f}" for impl in ("no loss", "eager", "auto"))
        lines.append("| " + " | ".join((f"`{loss}`", networks, *figures, *shares)) + " |")
    return "\n".join([*lines, "", _source(files)]) + "\n"


def _rows_of(pattern: str) -> tuple[list[Path], list[dict[str, str]]]:
    files = sorted(RESULTS.glob(pattern))
    rows = [row for file in files for row in csv.DictReader(file.open(encoding="utf-8")) if not row["error"]]
    keys = [tuple(row[column] for column in (*_GROUP, "impl")) for row in rows]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise SystemExit(f"{pattern}: {twice[0]} is in two files, delete one")
    return files, rows


def _source(files: list[Path]) -> str:
    return f"Source: {', '.join(f'`{file.relative_to(ROOT)}`' for file in files)}."


def _in_elements(count: float, n: int, m: int) -> str:
    """Return a count of elements as whole multiples of two sizes, which are so large that small tensors vanish."""
    pairs = [(a, b) for a in range(7) for b in range(7)]
    a, b = min(
        pairs, key=lambda pair: (round(abs(pair[0] * n + pair[1] * m - count) / count, 2), abs(pair[0] - pair[1]))
    )
    off = abs(a * n + b * m - count)
    if off > 0.05 * count:
        return f"{count / n:.2f} n"
    terms = [f"{times if times > 1 else ''}{name}" for times, name in ((a, "n"), (b, "m")) if times]
    return " + ".join(terms)


def _groups(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in _GROUP), []).append(row)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _cells(ours: dict[str, str], group: list[dict[str, str]]) -> tuple[str, ...]:
    dtypes = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    pair = [dtypes.get(ours[f"{side}_dtype"], "") for side in ("student", "teacher")]
    rate = f"{100 * float(ours['gb_s']) / float(ours['copy_gb_s']):.0f} %" if ours["gb_s"] else ""
    column = _time_of(group)
    ratios = (_ratio(ours, group, reference, column) for reference in _REFERENCES)
    tensors = f"{ours['shape']} {'/'.join(dict.fromkeys(pair))}".replace("|", "\\|")
    times = (f"{ratio:.2f}" if ratio else "" for ratio in ratios)
    return (f"`{ours['loss']}`", tensors, ours["impl"], f"{float(ours[column]):.3f}", rate, *times)


def _time_of(group: list[dict[str, str]]) -> str:
    """Return the column that counts: what the GPU works where one of ours has it, else what one waits."""
    return "graph_ms" if any(row["impl"] in _OURS and row["graph_ms"] for row in group) else "both_ms"


def _fastest(group: list[dict[str, str]], column: str) -> dict[str, str]:
    """Return the fastest of our own implementations by one column; empty when there is none."""
    timed = [row for row in group if row["impl"] in _OURS and row[column]]
    return min(timed, key=lambda row: float(row[column]), default={})


def _ratio(ours: dict[str, str], group: list[dict[str, str]], reference: str, column: str) -> float | None:
    """Return how many times longer a reference takes; None where it was not measured or cannot be captured."""
    found = [float(row[column]) for row in group if row["impl"].startswith(reference) and row[column]]
    return min(found) / float(ours[column]) if found else None


def _summaries(groups: list[list[dict[str, str]]]) -> list[str]:
    if not groups or _time_of(groups[0]) == "both_ms":
        return [_summary("Geometric means", groups, "both_ms"), ""]
    waited = _summary("Called one at a time, launches and Python included", groups, "both_ms")
    return [_summary("Geometric means of the GPU's work", groups, "graph_ms"), "", waited, ""]


def _summary(title: str, groups: list[list[dict[str, str]]], column: str) -> str:
    ratios: dict[str, list[float]] = {name: [] for name in _REFERENCES}
    for group in groups:
        ours = _fastest(group, column)
        for name in _REFERENCES if ours else ():
            ratio = _ratio(ours, group, name, column)
            ratios[name] += [ratio] if ratio else []
    words = {"eager": "the textbook", "peer": "published code", "compile": "torch.compile"}
    parts = [
        f"{geometric_mean(each):.2f} over {words[name]}, slower in {sum(ratio < 1 for ratio in each)} of {len(each)}"
        for name, each in ratios.items()
        if each
    ]
    return f"{title}: {'; '.join(parts)}."
