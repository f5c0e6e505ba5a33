"""A device in a folder, with a pretended TensorRT: real files and plans, no processes."""

from dataclasses import dataclass, field
from pathlib import Path

import power_loss
import pretended
import pytest
from edgekd_agent import generations, journal, report
from edgekd_agent.device import Settings, Site
from edgekd_agent.engine.shop import Shop
from edgekd_agent.install import recover, steps
from edgekd_agent.layout import Layout
from edgekd_agent.reader import parse_manifest
from models import Bundle, Recipe, bundle


@dataclass
class Bench:
    """A device, and short words for what tests do to it."""

    root: Path
    settings: Settings = field(default_factory=lambda: Settings(reserve_mib=0))
    verdicts: dict[str, str] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        return Site(Layout(self.root), self.settings)

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def release(self, version: int, **changes) -> Bundle:
        return bundle(Recipe(version, backend="tensorrt", **changes))

    def install(self, release: Bundle, *, is_pushed: bool = True) -> steps.Outcome:
        if is_pushed:
            power_loss.put_parts(self.root, release)
        with pretended.tensorrt(verdicts=self.verdicts):
            shop = Shop(self.site)
            recover.recover(self.site, shop)
            manifest = parse_manifest(release.manifest)
            candidate = steps.candidate_of(self.site, release.manifest, release.sha256, manifest, shop)
            return steps.install(self.site, candidate, shop)

    def recover(self) -> str | None:
        with pretended.tensorrt(verdicts=self.verdicts):
            return recover.recover(self.site, Shop(self.site))

    def runs(self) -> str | None:
        return pretended.what_runs(self.root)

    def status(self) -> dict:
        return report.status(self.site)

    def states(self) -> list[str]:
        return [record.state for record in journal.read(self.layout.journal).records]

    def enter(self, state: str, **facts) -> None:
        """Write a record as if a process had died after it."""
        running = generations.linked(self.layout.current)
        known = {"bundle_sha256": "f" * 64, "name": "student", "version": 9, "generation": 9}
        known.update({"from": running.number if running else None, "previous": None})
        journal.append(self.layout, state, {**known, **facts})


@pytest.fixture
def bench(tmp_path) -> Bench:
    root = tmp_path / "device"
    root.mkdir()
    return Bench(root)
