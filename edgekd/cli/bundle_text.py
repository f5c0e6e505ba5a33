"""What a bundle contains, in lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.cli.table import format_table


def bundle_text(found: Mapping[str, Any]) -> str:
    """Describe what `edgekd.ship.inspect` found."""
    manifest = found["manifest"]
    build, health, made = manifest["build"], manifest["health"], manifest["provenance"]
    limits = ", ".join(f"{name} < {limit:g} ms" for name, limit in sorted(health["budget_ms"].items())) or "none"
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in sorted(made["metrics"].items())) or "none"
    files = [
        [item["path"], item["role"], f"{item['size_bytes']:,}", item["sha256"][:16]] for item in manifest["artifacts"]
    ]
    lines = [
        f"{manifest['name']} version {manifest['version']}, packed {manifest['created']}",
        f"bundle    {found['manifest_sha256']}",
        f"for       {', '.join(target['title'] for target in manifest['targets'])}",
        f"build     {build['precision']} by {build['backend']} from {build['model']}",
        f"budget    {limits}",
        f"health    {health['metric']} <= {health['tolerance']:g} on {health['golden']}",
        f"metrics   {metrics}",
        f"made by   {made['made_by']}, recipe {_short(made['recipe_sha256'])}, data {_short(made['data_sha256'])}",
        "",
        format_table(["file", "role", "bytes", "sha256"], files),
        "",
    ]
    problems = [f"  {problem['path']}: {problem['message']}" for problem in found["problems"]]
    return "\n".join([*lines, *(["not whole:", *problems] if problems else ["whole: every byte as listed"])])


def _short(sha256: str) -> str:
    return "unknown" if set(sha256) == {"0"} else sha256[:16]
