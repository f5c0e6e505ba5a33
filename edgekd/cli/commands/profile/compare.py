"""`edgekd profile compare`: whether a network became slower, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.core.errors import ConfigError, ExitCode

_Document = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="A document of `edgekd profile --json` or `import --json`.")
]


def compare(
    before: _Document,
    after: _Document,
    *,
    allow: Annotated[str, typer.Option(help="How much slower the second may be.")] = "5%",
    metric: Annotated[str, typer.Option(help="What is judged: p50_ms, p90_ms, p99_ms, mean_ms, energy_mj, ...")] = (
        "p50_ms"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
) -> Outcome:
    """Compare two measured profiles: every figure with its interval, and every layer.

    Ends with 3 when the second is slower than allowed and the interval leaves out that nothing changed.

    Example:
      edgekd profile compare before.json after.json --allow 5%
    """
    import dataclasses

    from edgekd.cli.profile_text import comparison_text
    from edgekd.profile import compare_profiles, read_profile

    first, second = read_profile(before), read_profile(after)
    found = compare_profiles(first, second, metric=metric, allowed=_share(allow), seed=seed)
    code = ExitCode.GATE_MISSED if found.verdict == "slower" else ExitCode.DONE
    return Outcome(dataclasses.asdict(found), comparison_text(found, first, second), code)


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise ConfigError(f"--allow {text!r}: write a share, as 5% or 0.05") from error
    if not 0 <= value < float("inf"):
        raise ConfigError(f"--allow {text!r}: a share of 0 or more is needed")
    return value
