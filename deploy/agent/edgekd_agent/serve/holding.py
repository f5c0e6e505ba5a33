"""The engine that is served: opened through `current` once and held; replaced by the next one without a gap."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekd_agent import generations
from edgekd_agent.device import Site
from edgekd_agent.engine.running import Engine, Refused, open_engine, run_all
from edgekd_agent.errors import AgentError
from edgekd_agent.generations import Generation
from edgekd_agent.install.recover import candidate_from
from edgekd_agent.reader import digest_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class BadRequest(Exception):
    """Inputs that this engine does not take."""


@dataclass
class Held:
    """An open engine of one generation.

    Attributes:
        generation: The generation.
        engine: Its engine.
        golden: A few golden inputs and the answers expected for them.
        lock: One thread runs the engine at a time.
    """

    generation: Generation
    engine: Engine
    golden: tuple[NDArray[Any], NDArray[Any]]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def infer(self, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return all outputs for inputs `[N, ...]`, N at least 1.

        Raises:
            BadRequest: The inputs do not fit; they are NaN or infinite as the engine takes them, and so is its answer;
                or they are tokens on which it fails while it answers its golden inputs.
            Refused: The engine failed, or its answer is NaN or infinite.
        """
        try:
            return self._answer(inputs)
        except Refused as error:
            if inputs.dtype.kind in "iu" and not self.self_test():
                raise BadRequest(f"the engine does not take these tokens: {error}") from error
            raise

    def _answer(self, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        import numpy as np

        shapes = self.generation.manifest.build.opt_profile
        _require_fit(inputs, shapes.min, shapes.max, self.engine.input_dtype)
        with self.lock:
            outputs = run_all(self.engine, inputs, (shapes.min[0], shapes.max[0]))
        if not all(np.isfinite(value).all() for value in outputs.values() if value.dtype.kind == "f"):
            with np.errstate(over="ignore"):
                taken = inputs.astype(self.engine.input_dtype)
            if not np.isfinite(taken).all():
                raise BadRequest(f"inputs are NaN or infinite as {self.engine.input_dtype}, and so is the answer")
            raise Refused("health", "the engine's answer is NaN or infinite")
        return outputs

    def self_test(self) -> str:
        """Run the golden inputs; return what is wrong, or an empty string."""
        from edgekd_agent.engine.checking import metric_value

        inputs, expected = self.golden
        health = self.generation.manifest.health
        try:
            logits = next(iter(self._answer(inputs).values()))
        except (Refused, BadRequest) as error:
            return str(error)
        if logits.shape != expected.shape:
            return f"outputs have shape {logits.shape}, not {expected.shape}"
        value = metric_value(health.metric, logits, expected)
        return "" if value <= health.tolerance else f"{health.metric} is {value:g}, allowed is {health.tolerance:g}"


def open_current(site: Site) -> Held | None:
    """Open the generation that `current` leads to; None when there is none.

    Every byte that is loaded is compared with what was signed, or with what was written down when it was built here.

    Raises:
        AgentError: It is damaged.
        Refused: It cannot be loaded, or does not answer as it should.
    """
    from edgekd_agent.engine import golden

    generation = generations.linked(site.layout.current)
    if generation is None:
        return None
    candidate = candidate_from(site, generation)
    for artifact in candidate.artifacts:
        path = site.layout.blob(artifact.sha256)
        if not path.is_file() or digest_of(path, artifact.size_bytes) != artifact.sha256:
            raise AgentError("damaged", f"{artifact.path} of generation {generation.number} has changed on this disk")
    manifest = generation.manifest
    engine = open_engine(site.layout.build(generation.engine_key), candidate.file(manifest.build.model))
    inputs, expected = golden.read(candidate.file(manifest.health.golden))
    held = Held(generation, engine, (inputs, expected))
    if problem := held.self_test():
        raise Refused("health", f"generation {generation.number} does not answer as it should: {problem}")
    return held


def _require_fit(inputs: NDArray[Any], smallest: tuple[int, ...], largest: tuple[int, ...], dtype: Any) -> None:
    fits = inputs.ndim == len(smallest) and all(
        low <= size <= high for low, size, high in zip(smallest[1:], inputs.shape[1:], largest[1:], strict=True)
    )
    if not fits or not len(inputs):
        raise BadRequest(f"inputs of shape {inputs.shape}; [N, ...] from {smallest} to {largest} are taken")
    if inputs.dtype.kind != dtype.kind:
        raise BadRequest(f"inputs are {inputs.dtype}; {dtype} is taken")
