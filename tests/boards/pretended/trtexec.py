# Options and JSON keys by hand from NVIDIA's published lists; a plan is only a mark and the digest of its ONNX file.
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

board = Path(BOARD)
how = json.loads((board / "behaviour.json").read_text())
LINES = {
    "8.5": ("v8502", ["fp16", "int8", "best", "calib", "buildOnly", "memPoolSize", "useCudaGraph", "useSpinWait"]),
    "8.4": ("v8401", ["fp16", "int8", "best", "calib", "buildOnly", "workspace", "useCudaGraph", "useSpinWait"]),
    "8.6": ("v8602", ["fp16", "int8", "best", "calib", "skipInference", "memPoolSize", "useCudaGraph", "useSpinWait"]),
    "10.3": (
        "v100300",
        ["fp16", "bf16", "int8", "fp8", "best", "stronglyTyped", "skipInference", "memPoolSize", "useCudaGraph"],
    ),
    "11.4": ("v110401", ["skipInference", "memPoolSize", "builderOptimizationLevel"]),
}
COMMON = ["onnx", "saveEngine", "loadEngine", "minShapes", "optShapes", "maxShapes", "shapes", "warmUp", "duration"]
COMMON += ["iterations", "avgRuns", "exportTimes", "exportProfile", "exportLayerInfo", "profilingVerbosity", "help"]
COMMON += ["useDLACore", "allowGPUFallback"]
COMMON += ["timingCacheFile"] + ([] if how["line"] == "11.4" else ["noDataTransfers"])
banner, own = LINES[how["line"]]
own = [*own, "useSpinWait"] if how["line"] == "10.3" else own
if how["line"] == "11.4":
    own = [*own, "noDataTransfers"]
words = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
print(f"&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec", flush=True)
if "help" in words:
    print(
        "=== Model Options ===\n" + "\n".join(f"  --{name}=<value>   Words (default = none)" for name in COMMON + own)
    )
    sys.exit(0)
with open(board / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\n")
for name in words:
    if name not in COMMON + own:
        print(f"[E] Unknown option: --{name}\n&&&& FAILED TensorRT.trtexec", flush=True)
        sys.exit(1)


def layers():
    kind = how.get("layer_type", "FP32")
    tensor = {"Name": "x", "Dimensions": [1, 3, 8, 8]}
    if how["line"] == "11.4":
        tensor.update({"Format": "Row major linear", "Datatype": kind})
        names = {"I/O Tensors": [{"Name": "x", "IOMode": "INPUT", "DataType": kind, "Dimensions": [1, 3, 8, 8]}]}
    else:
        tensor["Format/Datatype"] = f"Row major linear {kind} format"
        names = {"Bindings": ["x", "y"]}
    layer = {"Name": "Conv_0", "LayerType": "CaskConvolution", "ParameterType": "Convolution", "Inputs": [tensor]}
    layer = {**layer, "Outputs": [{**tensor, "Name": "y"}]}
    return {"Layers": [{**layer, "Name": name} for name in how.get("layer_names", ["Conv_0"])], **names}


def write(name, document):
    if name in words:
        Path(words[name]).write_text(json.dumps(document))


def go_wrong(step):
    what = how.get(step)
    while what == "hang":
        time.sleep(0.1)
    if what == "fork":
        if os.fork() == 0:  # one that does not listen
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(300)", str(board)])
        time.sleep(300)
    if what == "crash":
        print("[E] Error[10]: Could not find any implementation for node Conv_0.", flush=True)
        os.abort()
    if what == "refuse":
        print("[E] Error[4]: In node 0 (parse Graph): UNSUPPORTED_NODE\n&&&& FAILED TensorRT.trtexec", flush=True)
        sys.exit(1)
    if what == "out_of_memory":
        print("[E] Error[1]: [defaultAllocator.cpp::allocate] Error Code 1: Cuda Runtime (out of memory)", flush=True)
        sys.exit(1)
    if what == "killed":
        os.kill(os.getpid(), 9)
    if what == "full":
        print("[E] Saving engine to file failed: No space left on device", flush=True)
        sys.exit(1)
    if isinstance(what, (int, float)):
        print(f"[I] {step} goes on", flush=True)
        time.sleep(what)


if "onnx" in words:
    print("[I] Start parsing network model", flush=True)
    if "useDLACore" in words:
        print(how.get("dla_log", ""), flush=True)
    go_wrong("build")
    cache = Path(words["timingCacheFile"])
    known = cache.read_bytes() if cache.is_file() else b""
    cache.write_bytes(known + b"timing;")
    digest = hashlib.sha256(Path(words["onnx"]).read_bytes()).hexdigest()
    Path(words["saveEngine"]).write_bytes(b"ptrt" + digest.encode() + b"\0" * how.get("plan_bytes", 1000))
    if "exportLayerInfo" in words and not how.get("no_layers") and not how.get("no_layers_of_build"):
        write("exportLayerInfo", layers())
else:
    Path(words["loadEngine"]).read_bytes()
    go_wrong("profile" if "exportProfile" in words else "times")
    time.sleep(0.4 if "exportTimes" in words else 0)
    stamps = {"Enq": (0.0, 0.1), "H2d": (0.1, 0.1), "Compute": (0.1, 1.2), "D2h": (1.2, 1.2)}
    durations = {"h2dMs": 0.0, "computeMs": 1.1, "d2hMs": 0.0, "latencyMs": 1.1}
    rows = []
    for start in range(3000, 3100, 2):
        rows.append(dict(durations))
        for name, (begin, end) in stamps.items():
            rows[-1].update({f"start{name}Ms": start + begin, f"end{name}Ms": start + end})
    write("exportTimes", rows)
    write("exportProfile", [{"count": 50}, {"name": "Conv_0", "timeMs": 55.0, "averageMs": 1.1, "percentage": 100.0}])
    if not how.get("no_layers"):
        write("exportLayerInfo", layers())
print("&&&& PASSED TensorRT.trtexec", flush=True)
