"""Which other TensorRTs and GPUs a plan may run on, beside the ones it was built with; and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekd.core.errors import ConfigError

Hardware = Literal["none", "ampere+", "same-sm"]

LEVELS: Mapping[Hardware, str] = {"ampere+": "AMPERE_PLUS", "same-sm": "SAME_COMPUTE_CAPABILITY"}
_AMPERE_SM = 80
_NEXT_MAJOR = {8: 10, 10: 11}
_ADVICE: Mapping[Hardware, str] = {
    "none": "",
    "ampere+": "runs on desktop GPUs from Ampere on; shared memory is limited to 48 KiB and some kernels are left "
    "out, so it is slower than one built for its GPU",
    "same-sm": "runs on GPUs of the same compute capability; its kernels were chosen on this one",
}


@dataclass(frozen=True)
class Portability:
    """Where else a plan may run.

    Attributes:
        version: In newer TensorRT too: of the same major version, 8 in 10, and 10 in 11.
        hardware: On other GPUs too.
    """

    version: bool = False
    hardware: Hardware = "none"

    @property
    def advice(self) -> tuple[str, ...]:
        """What comes with it, in words."""
        newer = "runs in newer TensorRT; it carries a lean runtime, is larger and may be slower: measure it"
        return tuple(filter(None, (newer if self.version else "", _ADVICE[self.hardware])))

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"version": self.version, "hardware": self.hardware, "advice": list(self.advice)}


TIED = Portability()
"""Only where it was built, with the TensorRT that built it."""


def hardware_named(name: str) -> Hardware:
    """Return a level by its name; raises `ConfigError` for another word."""
    for level in _ADVICE:
        if level == name:
            return level
    raise ConfigError(f"hardware compatibility {name!r} is none of {', '.join(_ADVICE)}")


def version_numbers(version: str) -> tuple[int, ...]:
    """Return major, minor and patch of a TensorRT version, as far as it names them."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


def loads(built: str, here: str, facts: Mapping[str, Any]) -> bool:
    """Say whether a TensorRT loads a plan of another one.

    Args:
        built: Version it was built with.
        here: Version that is to load it.
        facts: Of the engine; `portability` says whether it is version-compatible.
    """
    if built == here:
        return True
    if not facts.get("portability", {}).get("version"):
        return False
    old, new = version_numbers(built), version_numbers(here)
    return new >= old and (new[0] == old[0] or new[0] == _NEXT_MAJOR.get(old[0]))


def runs_on(target: str, sm: int, facts: Mapping[str, Any]) -> bool:
    """Say whether a GPU runs a plan built for another one.

    Args:
        target: What it was built for (`"sm_87"`).
        sm: Compute capability times ten of the GPU.
        facts: Of the engine; `portability` says what else it runs on.
    """
    is_wide = facts.get("portability", {}).get("hardware") == "ampere+"
    return target == f"sm_{sm}" or (is_wide and sm >= _AMPERE_SM)
