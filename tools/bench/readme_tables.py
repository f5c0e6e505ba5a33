"""Writes the tables of README.md from the result files, or checks that they are what the files say.

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. Each NAME is a function here; each result file under
`tools/bench/results` carries device, versions and commit in its name.

    python tools/bench/readme_tables.py           # rewrite
    python tools/bench/readme_tables.py --check   # exit 1 when README.md differs
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"
README = ROOT / "README.md"
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


def methods_table(pattern: str) -> str:
    """Return the study of every recipe as Markdown, best mean first.

    Args:
        pattern: Glob of its CSV under the results folder; exactly one file must match.
    """
    file = _only(pattern)
    by_method: dict[str, dict[int, float]] = defaultdict(dict)
    for row in csv.DictReader(file.open(encoding="utf-8")):
        by_method[row["method"]][int(row["seed"])] = 100 * float(row["test_accuracy"])
    plain = by_method["plain"]
    ranked = sorted(by_method.items(), key=lambda item: -fmean(item[1].values()))
    rows = [
        (
            f"`{method}`",
            f"{fmean(seeds.values()):.2f} ± {stdev(seeds.values()):.2f} %",
            f"{fmean(seeds[seed] - plain[seed] for seed in plain):+.2f}",
            f"{sum(seeds[seed] > plain[seed] for seed in plain)} of {len(plain)}",
        )
        for method, seeds in ranked
    ]
    table = _markdown(("method", "test top-1", "points over plain", "better with the same seed"), rows)
    return f"{table}\n\nSource: `{file.relative_to(ROOT)}`.\n"


TABLES: dict[str, Callable[[], str]] = {
    "demo": lambda: run_table("digits-jetson-orin_*.json"),
    "methods": lambda: methods_table("methods-digits_*.csv"),
    "cifar10": lambda: run_table("cifar-strips-cpu_*.json"),
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
    """Rewrite README.md, or check it."""
    before = README.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in sys.argv[1:]:
        sys.exit(
            "README.md differs from the result files: python tools/bench/readme_tables.py" if before != after else 0
        )
    README.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
