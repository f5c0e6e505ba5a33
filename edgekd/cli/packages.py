"""The packages that `edgekd doctor` tries: how to tell that one works, and what to do when it does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """A package and how to try it.

    Attributes:
        name: Name in the table.
        module: What is imported.
        distributions: Names it may be installed under.
        minimum: Lowest version that edgekd declares; empty when any will do.
        purpose: What it is for, in words.
        fix: What to do when it is absent or broken.
        probe: Code that fails unless it works.
        version_of: Expression for its version.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    minimum: str
    purpose: str
    fix: str
    probe: str
    version_of: str


def _plain(name: str, module: str, minimum: str, purpose: str) -> Package:
    fix = f"pip install '{name}>={minimum}'"
    return Package(name, module, (name,), minimum, purpose, fix, f"import {module}", f"{module}.__version__")


REQUIRED = (
    _plain("torch", "torch", "2.11", "training"),
    _plain("accelerate", "accelerate", "1.2", "the training loop"),
    _plain("scikit-learn", "sklearn", "1.4", "the digits data set"),
    _plain("scipy", "scipy", "1.11", "aligning channels (kcd)"),
    _plain("pillow", "PIL", "10", "image folders"),
    _plain("onnx", "onnx", "1.17", "export"),
    _plain("onnxscript", "onnxscript", "0.5", "export"),
    _plain("onnxslim", "onnxslim", "0.1.50", "export"),
)

_JETPACK = "on a Jetson use JetPack's own: python3 -m venv --system-site-packages"
_PAIR = "install the torchvision built for this torch and the same CUDA (or CPU)"

OPTIONAL = (
    Package(
        name="tensorrt",
        module="tensorrt",
        distributions=("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
        minimum="8.5",
        purpose="engines on NVIDIA GPUs and Jetson",
        fix=f"pip install 'edgekd[trt]'; {_JETPACK}",
        probe="import tensorrt\nassert tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))",
        version_of="tensorrt.__version__",
    ),
    Package(
        name="tensorrt_rtx",
        module="tensorrt_rtx",
        distributions=("tensorrt-rtx", "tensorrt_rtx"),
        minimum="1.7",
        purpose="engines for GeForce RTX, built without a GPU too",
        fix="pip install 'edgekd[rtx]'",
        probe="import tensorrt_rtx\nassert tensorrt_rtx.Builder(tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR))",
        version_of="tensorrt_rtx.__version__",
    ),
    Package(
        name="cuda-python",
        module="cuda.bindings",
        distributions=("cuda-python", "cuda-bindings"),
        minimum="12.6",
        purpose="running TensorRT engines",
        fix="pip install 'edgekd[trt]'",
        probe="import cuda.bindings.driver\nfrom importlib.metadata import version",
        version_of="version('cuda-bindings')",
    ),
    Package(
        name="pycuda",
        module="pycuda",
        distributions=("pycuda",),
        minimum="2024.1",
        purpose="another way to run engines",
        fix="pip install 'edgekd[pycuda]'; it needs nvcc to install and the NVIDIA driver to import",
        probe="import pycuda.driver",
        version_of="pycuda.VERSION_TEXT",
    ),
    Package(
        name="triton",
        module="triton",
        distributions=("triton",),
        minimum="3.6",
        purpose="fused losses on GPUs",
        fix="pip install 'edgekd[triton]'; torch for CUDA on Linux brings it along",
        probe="import triton",
        version_of="triton.__version__",
    ),
    Package(
        name="torchvision",
        module="torchvision",
        distributions=("torchvision",),
        minimum="",
        purpose="needed by timm only",
        fix=f"{_PAIR}, or remove it",
        probe="import torchvision",
        version_of="torchvision.__version__",
    ),
    Package(
        name="timm",
        module="timm",
        distributions=("timm",),
        minimum="1.0.9",
        purpose="teachers from timm",
        fix=f"pip install 'edgekd[timm]'; {_PAIR}",
        probe="import timm",
        version_of="timm.__version__",
    ),
    Package(
        name="optuna",
        module="optuna",
        distributions=("optuna",),
        minimum="5",
        purpose="edgekd search",
        fix="pip install 'edgekd[search]'",
        probe="import optuna",
        version_of="optuna.__version__",
    ),
    Package(
        name="torch-pruning",
        module="torch_pruning",
        distributions=("torch-pruning",),
        minimum="1.6",
        purpose="students cut from the teacher",
        fix="pip install 'edgekd[prune]'",
        probe="import torch_pruning\nfrom importlib.metadata import version",
        version_of="version('torch-pruning')",
    ),
    Package(
        name="zstandard",
        module="zstandard",
        distributions=("zstandard",),
        minimum="0.22",
        purpose="the cache of teacher outputs",
        fix="pip install 'edgekd[cache]'",
        probe="import zstandard",
        version_of="zstandard.__version__",
    ),
    Package(
        name="transformers",
        module="transformers",
        distributions=("transformers",),
        minimum="4.45",
        purpose="networks and data sets of text",
        fix="pip install 'edgekd[text]'; a torchvision that cannot be imported breaks it too",
        probe="from transformers import BertModel\nimport tokenizers, transformers",
        version_of="transformers.__version__",
    ),
)

# A model of one node is run by each provider in turn, falling back to the CPU forbidden. Azure's provider is left out:
# it is in every wheel and only forwards to a remote service.
PROVIDERS_PROBE = """
import json
import numpy
import onnx
import onnxruntime
value = onnx.helper.make_tensor_value_info
graph = onnx.helper.make_graph(
    [onnx.helper.make_node("Relu", ["x"], ["y"])], "doctor",
    [value("x", onnx.TensorProto.FLOAT, [1, 4])], [value("y", onnx.TensorProto.FLOAT, [1, 4])])
model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 13)])
refusals = {}
for provider in onnxruntime.get_available_providers():
    if provider == "AzureExecutionProvider":
        continue
    options = onnxruntime.SessionOptions()
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
        used = session.get_providers()[0]
        session.run(None, {"x": numpy.ones((1, 4), numpy.float32)})
        refusals[provider] = "" if used == provider else f"{used} ran instead"
    except Exception as error:
        refusals[provider] = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
print(json.dumps({"version": onnxruntime.__version__, "providers": refusals}))
"""

DRIVER_PROBE = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
code = cuda.cuInit(0)
if code:
    raise SystemExit(f"cuInit failed with code {code}")
version, count = ctypes.c_int(), ctypes.c_int()
cuda.cuDriverGetVersion(ctypes.byref(version))
cuda.cuDeviceGetCount(ctypes.byref(count))
names = []
for index in range(count.value):
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, 128, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    names.append(f"{name.value.decode()} (sm_{major.value}{minor.value})")
print(f"CUDA {version.value // 1000}.{version.value % 1000 // 10}, {', '.join(names) or 'no GPU'}")
"""
