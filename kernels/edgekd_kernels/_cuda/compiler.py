"""Compiles the CUDA sources with NVRTC and keeps the results on disk, by what they were made from."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

LEAST_CAPABILITY = 80
"""Compute capability that bfloat16 on tensor cores needs."""
_HEADERS = ("scalars.cuh",)


def cubin(source: str, definitions: Mapping[str, str], capability: int) -> bytes:
    """Return a source file compiled for one compute capability, from the cache if it is there.

    The name in the cache is a digest of everything that the result depends on, and files appear in it whole.

    Args:
        source: File name in `csrc`, as `"gram.cu"`.
        definitions: Preprocessor macros.
        capability: `90` for 9.0.

    Raises:
        RuntimeError: The source does not compile; the message has the compiler's log.
    """
    nvrtc = import_module("cuda.bindings.nvrtc")
    options = compile_options(definitions, capability)
    texts = {name: _text(name) for name in (source, *_HEADERS)}
    version = checked(nvrtc, nvrtc.nvrtcVersion())
    kept = cache_folder() / f"{_digest(texts, options, version)}.cubin"
    if kept.is_file():
        return kept.read_bytes()
    compiled = _compile(nvrtc, source, texts, options)
    _keep(kept, compiled)
    return compiled


def compile_options(definitions: Mapping[str, str], capability: int) -> list[str]:
    """Return the compiler's options."""
    macros = [f"-D{name}={value}" for name, value in sorted(definitions.items())]
    return [f"--gpu-architecture=sm_{capability}", "--std=c++17", *macros]


def cache_folder() -> Path:
    """Return the folder for compiled kernels: in `EDGEKD_CACHE`, else the user's cache."""
    if folder := os.environ.get("EDGEKD_CACHE"):
        return Path(folder) / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekd" / "kernels"


@cache
def obstacle() -> str:
    """Return why CUDA kernels cannot be compiled or loaded here; empty if they can."""
    for package, distribution in (("nvrtc", "nvidia-cuda-nvrtc"), ("driver", "the NVIDIA driver")):
        try:
            module = import_module(f"cuda.bindings.{package}")
        except ImportError as error:
            return f"cuda-bindings is not installed ({error})"
        try:
            if package == "nvrtc":
                checked(module, module.nvrtcVersion())
            else:
                checked(module, module.cuInit(0))
        except (RuntimeError, OSError) as error:
            return f"{distribution} cannot be loaded: {str(error).splitlines()[0]}"
    return ""


def checked(module: Any, returned: tuple[Any, ...]) -> Any:
    """Return what a call of CUDA returned besides its status: nothing, a value or a tuple.

    Raises:
        RuntimeError: The status is an error.
    """
    status, *values = returned
    if int(status) != 0:
        raise RuntimeError(f"{module.__name__} reports {getattr(status, 'name', status)}")
    return values[0] if len(values) == 1 else tuple(values)


def _text(name: str) -> bytes:
    return resources.files("edgekd_kernels").joinpath("csrc", name).read_bytes()


def _digest(texts: Mapping[str, bytes], options: list[str], version: tuple[int, ...]) -> str:
    parts = [part for name, text in sorted(texts.items()) for part in (name.encode(), text)]
    digest = hashlib.sha256()
    for part in (*parts, *(option.encode() for option in options), repr(version).encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _compile(nvrtc: Any, source: str, texts: Mapping[str, bytes], options: list[str]) -> bytes:
    headers = [texts[name] for name in _HEADERS]
    names = [name.encode() for name in _HEADERS]
    program = checked(nvrtc, nvrtc.nvrtcCreateProgram(texts[source], source.encode(), len(headers), headers, names))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if int(status) != 0:
            log = bytearray(checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
            checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"{source} does not compile with {options}:\n{log.rstrip(bytes(1)).decode()}")
        compiled = bytearray(checked(nvrtc, nvrtc.nvrtcGetCUBINSize(program)))
        checked(nvrtc, nvrtc.nvrtcGetCUBIN(program, compiled))
        return bytes(compiled)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _keep(path: Path, content: bytes) -> None:
    """Put a file in place whole: other processes may compile the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
