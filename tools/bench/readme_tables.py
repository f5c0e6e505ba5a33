"""Writes the tables of README.md and the documents from the result files, or checks that they are what the files say.

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. Each NAME is a function here; each result file under
`tools/bench/results` carries device, versions and commit in its name.

    python tools/bench/readme_tables.py           # rewrite
    python tools/bench/readme_tables.py --check   # exit 1 when a document differs
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from kernel_tables import losses_table, resources_text, steps_table
from kernel_tables import speed_table as kernels_table
from paired import Paired, paired
from precision_tables import PRECISION_HEADER, precision_rows
from reliability_tables import HEADER as RELIABILITY_HEADER
from reliability_tables import reliability_figures, reliability_rows
from search_tables import CPU_HEADER, SEARCH_HEADER, cpu_rows, search_rows, search_verdicts
from training_tables import (
    CACHE_HEADER,
    LOADING_HEADER,
    SCALING_HEADER,
    STEP_HEADER,
    cache_rows,
    loading_rows,
    scaling_rows,
    step_rows,
    step_verdicts,
)

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "docs" / "studies.md",
    ROOT / "docs" / "latency.md",
    ROOT / "docs" / "precision.md",
    ROOT / "docs" / "reliability.md",
    ROOT / "docs" / "training.md",
    ROOT / "docs" / "data.md",
    ROOT / "kernels" / "README.md",
)
_TABLE = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def run_table(pattern: str) -> str:
    """Return scores and latency of one run as Markdown.

    Args:
        pattern: Glob of its report under the results folder; exactly one file must match.
    """
    file = _only(pattern)
    report = json.loads(file.read_text(encoding="utf-8"))
    rows = [_score_row(role, report["scores"][role]) for role in ("teacher", "alone", "distilled")]
    scores = _markdown(("network", "architecture", f"test {report['task']['metric']}", "seeds"), rows)
    latency = _markdown(
        ("target", "precision", "p50 ms", "interval of p50 ms", "p99 ms", "how"),
        [_latency_row(row) for row in report["latency"]],
    )
    return f"{scores}\n\n{latency}\n\nSource: `{file.relative_to(ROOT)}`.\n"


def methods_table(pattern: str, pair: str = "") -> str:
    """Return a study of methods as Markdown, best mean first, those that failed last.

    Args:
        pattern: Glob of its CSV under the results folder; exactly one file must match.
        pair: Which pair of networks.
    """
    file = _only(pattern)
    columns = {"pair": "", "error": "", "ms_per_step": ""}  # a study from before them has none
    rows = [columns | row for row in csv.DictReader(file.open(encoding="utf-8"))]
    rows = [row for row in rows if row["pair"] == pair]
    results = [_result(method, rows) for method in dict.fromkeys(row["method"] for row in rows)]
    by_method = {result.method: result.accuracies for result in results}
    ranked = sorted((result for result in results if result.accuracies), key=lambda result: -result.mean)
    lines = [_method_row(result, by_method) for result in ranked]
    table = _markdown(
        ("method", "test top-1", "seeds", "over `plain`", "over `kd`", "seeds better than `kd`", "ms a step"), lines
    )
    failures = [f"`{result.method}` failed: {error}." for result in results for error in result.errors]
    return "\n\n".join([table, *failures, f"Source: `{file.relative_to(ROOT)}`."]) + "\n"


def bars_table() -> str:
    """Return what was asked of the latency model, and whether each is met, as Markdown."""
    file, found = _latency_evidence()
    rows = [
        (bar["bar"], _figure(bar["limit"]), _figure(bar["worst"]), bar["where"], "yes" if bar["met"] else "**no**")
        for bar in found["bars"]
    ]
    table = _markdown(("bar", "limit", "worst", "where", "met"), rows)
    return f"{table}\n\nSource: `{file.relative_to(ROOT)}`.\n"


def evidence_table(test: str) -> str:
    """Return one test of the latency model as Markdown, one line a case, predictors side by side.

    Args:
        test: Its letter.
    """
    _, found = _latency_evidence()
    own = [row for row in found["rows"] if row["test"] == test]
    if "coverage" in own[0]:
        lines = [
            (row["case"], str(row["groups"]), _percent(row["coverage"]), _percent(row["half_width"])) for row in own
        ]
        return _markdown(("intervals for", "left out in turn", "covered", "half-width"), lines) + "\n"
    predictors = list(dict.fromkeys(row["predictor"] for row in own))
    lines = []
    for case in dict.fromkeys(row["case"] for row in own):
        by_predictor = {row["predictor"]: row for row in own if row["case"] == case}
        best = min(row["mape"] for row in by_predictor.values())
        cells = [_mape(by_predictor[name], best) for name in predictors]
        model = by_predictor["OPS"]
        lines.append((case, str(model["points"]), *cells, _percent(model["hit10"]), f"{model['spearman']:.3f}"))
    header = ("case", "points", *(f"MAPE {name}" for name in predictors), "OPS within 10 %", "OPS Spearman")
    return _markdown(header, lines) + "\n"


def speed_table() -> str:
    """Return how many candidates a second are predicted, as Markdown."""
    file = _only("latency-speed_*.csv")
    rows = [
        tuple(f"{int(value):,}" if value.isdecimal() else f"`{value}`" for value in row.values())
        for row in csv.DictReader(file.open(encoding="utf-8"))
    ]
    header = ("family", "members", "a second, first time", "a second, again", "slowest of five")
    return f"{_markdown(header, rows)}\n\nSource: `{file.relative_to(ROOT)}`.\n"


def search_table(pattern: str) -> str:
    """Return what choosing a student by a search came to, as Markdown."""
    file = _only(pattern)
    table = _markdown(SEARCH_HEADER, search_rows(file))
    verdicts = "\n\n".join(search_verdicts(file.with_suffix(".json")))
    return f"{table}\n\n{verdicts}\n\nSource: `{file.relative_to(ROOT)}`.\n"


def cpu_table() -> str:
    """Return how well a CPU's latencies are predicted after a few measurements, as Markdown."""
    file = _only("cpu-latency-*.json")
    return f"{_markdown(CPU_HEADER, cpu_rows(file))}\n\nSource: `{file.relative_to(ROOT)}`.\n"


def reliability_table() -> str:
    """Return the experiments on reliability as Markdown."""
    files = sorted(RESULTS.glob("reliability_*.json"))
    found = reliability_figures(files)
    table = _markdown(RELIABILITY_HEADER, list(reliability_rows(found)))
    machines = sorted({json.loads(file.read_text(encoding="utf-8"))["machine"] for file in files})
    sources = ", ".join(f"`{file.relative_to(ROOT)}`" for file in files)
    return f"{table}\n\nOn {'; '.join(machines)}. Source: {sources}.\n"


def external_table() -> str:
    """Return what ONNX files from elsewhere were predicted to cost, or why they were refused, as Markdown."""
    file = _only("external-onnx_*.csv")
    lines = []
    for row in csv.DictReader(file.open(encoding="utf-8")):
        interval = f"{float(row['low_ms']):.2f} .. {float(row['high_ms']):.2f}" if row["p50_ms"] else ""
        p50 = f"{float(row['p50_ms']):.2f}" if row["p50_ms"] else ""
        lines.append((f"`{row['file']}`", row["dims"], row["gmacs"], row["kernels"], p50, interval, row["refused"]))
    header = ("file", "sizes given", "GMACs", "kernels", "p50 ms, predicted", "interval", "refused")
    return f"{_markdown(header, lines)}\n\nSource: `{file.relative_to(ROOT)}`.\n"


def _latency_evidence() -> tuple[Path, dict[str, Any]]:
    file = _only("latency-evidence_*.json")
    return file, json.loads(file.read_text(encoding="utf-8"))


def _mape(row: dict[str, Any], best: float) -> str:
    return f"**{_percent(row['mape'])}**" if row["mape"] == best else _percent(row["mape"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _figure(value: float) -> str:
    return f"{value:.3f}" if value > 0.98 else _percent(value)


@dataclass(frozen=True)
class _Result:
    method: str
    accuracies: dict[int, float]
    ms_per_step: float | None
    errors: tuple[str, ...]

    @property
    def mean(self) -> float:
        return fmean(self.accuracies.values())


def _result(method: str, rows: list[dict[str, str]]) -> _Result:
    own = [row for row in rows if row["method"] == method]
    good = [row for row in own if not row["error"]]
    times = [float(row["ms_per_step"]) for row in good if row["ms_per_step"]]
    errors = tuple(dict.fromkeys(row["error"] for row in own if row["error"]))
    accuracies = {int(row["seed"]): 100 * float(row["test_accuracy"]) for row in good}
    return _Result(method, accuracies, median(times) if times else None, errors)


def _method_row(result: _Result, by_method: dict[str, dict[int, float]]) -> tuple[str, ...]:
    over = {name: paired(result.accuracies, by_method.get(name, {})) for name in ("plain", "kd")}
    over = {name: None if name == result.method else found for name, found in over.items()}
    spread = f" ± {stdev(result.accuracies.values()):.2f}" if len(result.accuracies) > 1 else ""
    if result.method == "teacher":
        over = dict.fromkeys(over)
    better = over["kd"]
    return (
        f"`{result.method}`",
        f"{result.mean:.2f}{spread} %",
        str(len(result.accuracies)),
        *(_difference(found) for found in over.values()),
        "" if better is None else f"{better.better} of {better.seeds} (p = {better.wilcoxon_p:.3f})",
        "" if result.ms_per_step is None else f"{result.ms_per_step:.1f}",
    )


def _difference(found: Paired | None) -> str:
    if found is None:
        return ""
    text = f"{found.mean:+.2f}" + (f" ± {found.margin:.2f}" if math.isfinite(found.margin) else "")
    return f"**{text}**" if found.verdict == "better" else text


def precision_table() -> str:
    """Return what int8 costs and wins back as Markdown."""
    file = _only("precision_*.csv")
    return f"{_markdown(PRECISION_HEADER, precision_rows(file))}\n\nSource: `{file.relative_to(ROOT)}`.\n"


def rtx_table() -> str:
    """Return what TensorRT-RTX made of networks, as Markdown."""
    file = _only("rtx-builds_*.csv")
    columns = ("model", "dims", "precision", "layers", "kernels", "computes_in", "mib", "refused")
    header = ("model", "sizes given", "precision", "layers", "of these generated", "computes in", "MiB", "refused")
    with file.open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    rows = [tuple(row[column].replace("|", "\\|") for column in columns) for row in found]
    versions = ", ".join(sorted({row["version"] for row in found if row["version"]}))
    target = ", ".join(sorted({row["target"] for row in found if row["version"]}))
    return f"{_markdown(header, rows)}\n\nTensorRT-RTX {versions} for {target}. Source: `{file.relative_to(ROOT)}`.\n"


def int8_speed_table() -> str:
    """Return how much faster int8 is on a CPU as Markdown."""
    file = _only("int8-speed_*.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    header = ("network", "processor", "fp32 p50 ms", "int8 p50 ms", "times faster")
    rows = [
        (f"ResNet-18-sized, {each['resolution']} px", found["cpu"], f"{each['fp32_p50_ms']:.2f}",
         f"{each['int8_p50_ms']:.2f}", f"{each['ratio']:.2f}")
        for each in found["sizes"]
    ]  # fmt: skip
    return f"{_markdown(header, rows)}\n\nSource: `{file.relative_to(ROOT)}`.\n"


def step_tables() -> str:
    """Return what a training step takes beside published code as Markdown, a table for each processor."""
    return "\n".join(_step_table(file) for file in sorted(RESULTS.glob("train-step_cpu-*.json")))


def _step_table(file: Path) -> str:
    found = json.loads(file.read_text(encoding="utf-8"))
    peers = ", ".join(f"{name} {commit}" for name, commit in found["peers"].items())
    rounds = len({run["round"] for run in found["runs"]})
    what = (
        f"{found['pair']} on pictures of 32 x 32, batches of {found['batch']}, {found['threads']} threads; "
        f"milliseconds, medians of {found['steps']} steps in {rounds} round(s); {peers}."
    )
    processor = file.name.split("_")[1].removeprefix("cpu-").replace("-", " ")
    table, verdicts = _markdown(STEP_HEADER, step_rows(file)), "\n".join(f"- {line}" for line in step_verdicts(file))
    return f"{processor}:\n\n{table}\n\n{verdicts}\n\n{what} Source: `{file.relative_to(ROOT)}`.\n"


def scaling_table() -> str:
    """Return what training in two processes costs as Markdown."""
    file = _only("scaling_cpu-*.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    what = f"{' to '.join(found['pair'])}, batches of {found['batch']} in all."
    return _sourced(SCALING_HEADER, scaling_rows(file), what, file)


def cache_table() -> str:
    """Return what epochs with the teacher cache cost as Markdown."""
    file = _only("teacher-cache_*.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    what = f"{found['teacher']} to {found['student']}; {found['data']}; {found['threads']} thread(s)."
    return _sourced(CACHE_HEADER, cache_rows(file), what, file)


def loading_table() -> str:
    """Return how fast pictures are read as Markdown."""
    file = _only("data-loading_*.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    machine = f"{found['machine']['cores']} cores at a load of {found['machine']['load_average']:.1f}."
    return _sourced(LOADING_HEADER, loading_rows(file), machine, file)


def _sourced(header: tuple[str, ...], rows: list[tuple[str, ...]], what: str, file: Path) -> str:
    return f"{_markdown(header, rows)}\n\n{what} Source: `{file.relative_to(ROOT)}`.\n"


TABLES: dict[str, Callable[[], str]] = {
    "demo": lambda: run_table("digits-jetson-orin_*.json"),
    "methods": lambda: methods_table("methods-digits_*.csv"),
    "methods-fashion": lambda: methods_table("methods-fashion-mnist_*.csv"),
    "cifar10": lambda: run_table("cifar-strips-cpu_*.json"),
    "kernels-losses": losses_table,
    "kernels-resources": resources_text,
    "kernels-cpu": lambda: kernels_table("kernels_cpu-*.csv"),
    "kernels-gpu": lambda: kernels_table("kernels_gpu-*.csv"),
    "kernels-gpu-steps": lambda: steps_table("kernels_gpu-*.csv"),
    "latency-bars": bars_table,
    **{f"latency-{test}": partial(evidence_table, test) for test in "ABCDEFG"},
    "latency-speed": speed_table,
    "latency-cpu": cpu_table,
    "latency-external": external_table,
    "search": partial(search_table, "search_cpu-*.csv"),
    "search-cifar10": partial(search_table, "search-cifar10_cpu-*.csv"),
    "precision": precision_table,
    "rtx-builds": rtx_table,
    "int8-speed": int8_speed_table,
    "reliability": reliability_table,
    "train-step": step_tables,
    "scaling": scaling_table,
    "teacher-cache": cache_table,
    "data-loading": loading_table,
}


def rendered(text: str) -> str:
    """Return a document with every table made again."""
    return _TABLE.sub(lambda match: match[1] + TABLES[match["name"]]() + match[3], text)


def _only(pattern: str) -> Path:
    files = sorted(RESULTS.glob(pattern))
    if len(files) != 1:
        raise SystemExit(f"{RESULTS / pattern}: {len(files)} files match, exactly one is needed")
    return files[0]


def _score_row(role: str, summary: dict[str, Any] | None) -> tuple[str, ...]:
    if summary is None:
        return (role, "-", "-", "-")
    spread = "" if summary["std"] is None else f" ± {100 * summary['std']:.2f}"
    return (role, summary["net"], f"{100 * summary['mean']:.2f}{spread} %", str(len(summary["seeds"])))


def _latency_row(row: dict[str, Any]) -> tuple[str, ...]:
    how = "measured" if row["kind"] == "measured" else "predicted, not measured"
    interval = f"{row['low_ms']:.4f} .. {row['high_ms']:.4f}"
    return (row["target"], row["precision"], f"{row['p50_ms']:.4f}", interval, f"{row['p99_ms']:.4f}", how)


def _markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Rewrite the documents, or check them."""
    after = {document: rendered(document.read_text(encoding="utf-8")) for document in DOCUMENTS}
    changed = [document for document, text in after.items() if document.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        names = ", ".join(document.name for document in changed)
        sys.exit(f"{names}: not what the result files say; python tools/bench/readme_tables.py" if changed else 0)
    for document in changed:
        document.write_text(after[document], encoding="utf-8")


if __name__ == "__main__":
    main()
