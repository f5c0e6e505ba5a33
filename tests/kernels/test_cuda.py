"""The CUDA kernels: compiled for every GPU where NVRTC is, and run on the processor where a C++ compiler is.

Run on the processor, threads take turns: arithmetic, indices and barriers are tested, races and speed are not.
"""

import ctypes
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from edgekd_kernels import functional as K
from edgekd_kernels._cuda import channelwise, compiler, gram, launch, pooled
from edgekd_kernels._torch import gram as reference

CSRC = Path(compiler.__file__).parents[1] / "csrc"
CAPABILITIES = (80, 86, 87, 89, 90, 110, 120)
RELATIONS = ["similarity_preserving", "linear_cka", "rkd_distance", "rkd_angle"]
PAIRS = [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)]
PROGRAMS = [
    *gram._PROGRAMS.values(), gram._RELATIONS, gram._ANGLES,
    *(make(*pair) for make in (pooled._program, channelwise._program) for pair in PAIRS),
]  # fmt: skip


def _has_nvrtc():
    try:
        from cuda.bindings import nvrtc

        return int(nvrtc.nvrtcVersion()[0]) == 0
    except (ImportError, RuntimeError):
        return False


needs_nvrtc = pytest.mark.skipif(not _has_nvrtc(), reason="NVRTC is not installed")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    return tmp_path / "kernels"


@cache
def _library(folder, source, definitions):
    kernels = re.findall(
        r'^(?:extern "C" __global__ void __launch_bounds__\([^)]*\)|ROW_KERNEL)\s+(\w+)\(',
        (CSRC / source).read_text(),
        re.M,
    )
    entries = "".join(
        f'extern "C" void run_{name}(void** v, unsigned x, unsigned y, unsigned z, unsigned t)'
        f"{{ host::launch({name}, v, x, y, z, t); }}\n"
        for name in kernels
        if name != "gram_tensor" or "MMA" in dict(definitions)
    )
    path = Path(folder) / f"{abs(hash((source, definitions)))}.cpp"
    header = Path(__file__).with_name("cuda_on_host.h")
    path.write_text(f'#include "{header}"\n#include "{CSRC / source}"\n{entries}')
    macros = [f"-D{name}={value}" for name, value in definitions]
    library = path.with_suffix(".so")
    command = ["g++", "-O1", "-std=c++17", "-shared", "-fPIC", "-w", *macros, str(path), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def on_host(monkeypatch, tmp_path_factory):
    folder = str(tmp_path_factory.getbasetemp())

    def run(self, kernel, grid, threads, *arguments, device, shared_bytes=0):
        assert shared_bytes <= 48 * 1024
        values = launch.packed(arguments)
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        getattr(_library(folder, self.source, self.definitions), f"run_{kernel}")(pointers, *(*grid, 1, 1)[:3], threads)

    monkeypatch.setattr(launch.Program, "launch", run)


def _random(*shape, seed=0, dtype=torch.float32, offset=0.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + offset).to(dtype)


def _assert_near(actual, wanted, tolerance):
    assert actual.shape == wanted.shape
    assert (actual.double() - wanted).abs().max() <= tolerance * wanted.abs().max() + 1e-12


def _assert_relations_agree(name, student, teacher, *, tolerance=2e-5, gradient_tolerance=2e-5):
    weights = torch.linspace(-1, 2, len(student))
    values, *saved = getattr(gram, f"{name}_forward")(student, teacher)
    (gradient,) = getattr(gram, f"{name}_backward")(weights, student, *saved)
    wide = student.double()
    expected, *saved = getattr(reference, f"{name}_forward")(wide, teacher.double())
    (expected_gradient,) = getattr(reference, f"{name}_backward")(weights.double(), wide, *saved)
    assert values.dtype == torch.float32 and gradient.dtype == student.dtype
    _assert_near(values, expected, tolerance)
    _assert_near(gradient, expected_gradient, gradient_tolerance)


@needs_compiler
@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("batch, student, teacher", [(3, 2, 1), (5, 70, 300), (37, 9, 16)])
def test_relations_have_the_value_and_gradient_of_float64(on_host, name, batch, student, teacher):
    _assert_relations_agree(name, _random(batch, student), _random(batch, teacher, seed=1))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relations_cross_the_edge_of_a_tile(on_host, dtype):
    student, teacher = _random(66, 3, dtype=dtype), _random(66, 5, seed=1, dtype=dtype)
    _assert_relations_agree("similarity_preserving", student, teacher, gradient_tolerance=1e-2)


@needs_compiler
@pytest.mark.parametrize("name", RELATIONS)
def test_relations_take_bfloat16_and_any_strides(on_host, name):
    student = _random(70, 18, dtype=torch.bfloat16).T
    _assert_relations_agree(name, student, _random(18, 45, seed=1, dtype=torch.bfloat16), gradient_tolerance=1e-2)


@needs_compiler
@pytest.mark.parametrize("batch, width", [(70, 136), (5, 2600)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relations_of_aligned_rows_and_of_many_parts(on_host, batch, width, dtype):
    student, teacher = _random(batch, width, dtype=dtype), _random(batch, 24, seed=1, dtype=dtype)
    _assert_relations_agree("similarity_preserving", student, teacher, gradient_tolerance=1e-2)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_sums_are_sums_of_short_ones(on_host, monkeypatch, dtype):
    monkeypatch.setattr(gram, "gram_parts", lambda batch, columns, tile, step: (1, columns))
    rows = torch.rand(2, 32768, generator=torch.Generator().manual_seed(0)).to(dtype)
    found, _ = gram._gram(rows, centred=False)
    _assert_near(found, rows.double() @ rows.double().T, 1e-6)


@needs_compiler
def test_means_are_exact_to_a_rounding(on_host):
    rows = _random(3000, 3)
    rows[0] = 1000.0
    means, moments = torch.empty(3), torch.empty(1)
    gram._PROGRAMS[torch.float32].launch(
        "sample_mean", (1,), 512, rows, means, moments, *rows.shape, *rows.stride(), device=rows.device
    )
    _assert_near(means, rows.double().mean(dim=0), 2.0**-23)
    _assert_near(moments.sum(), means.double().square().sum(), 1e-6)


@needs_compiler
@pytest.mark.parametrize("name", ["linear_cka", "rkd_distance", "rkd_angle"])
def test_relations_are_about_the_mean(on_host, name):
    student, teacher = _random(9, 40, offset=100.0), _random(9, 20, seed=1, offset=-50.0)
    _assert_relations_agree(name, student, teacher, gradient_tolerance=1e-4)
    values, *saved = getattr(gram, f"{name}_forward")(torch.full((9, 5), 0.1), teacher)
    expected, *_ = getattr(reference, f"{name}_forward")(torch.full((9, 5), 0.1), teacher)
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-5)
    (gradient,) = getattr(gram, f"{name}_backward")(torch.ones(9), torch.full((9, 5), 0.1), *saved)
    assert gradient.abs().max() == 0


@needs_compiler
def test_distances_of_near_duplicates_are_those_of_their_rows(on_host):
    student = _random(7, 70, offset=10.0)
    student[5] = student[0] + 1e-4 * _random(70, seed=2)
    student[6] = student[2]
    _assert_relations_agree("rkd_distance", student, _random(7, 24, seed=1), gradient_tolerance=2e-3)


@needs_compiler
@pytest.mark.parametrize("name", RELATIONS)
def test_nan_reaches_every_value_that_it_touches(on_host, name):
    student = _random(5, 8)
    student[3, 2] = float("nan")
    values, *_ = getattr(gram, f"{name}_forward")(student, _random(5, 4, seed=1))
    assert torch.isnan(values.mean())


def _pooled(student, teacher, levels):
    difference = student - teacher
    shares = [0.5**step for step in range(len(levels) + 1)]
    losses = [difference, *(F.adaptive_avg_pool2d(difference, level) for level in levels)]
    means = [loss.square().mean(dim=(1, 2, 3)) for loss in losses]
    return sum(share * mean for share, mean in zip(shares, means, strict=True)) / sum(shares)


POOLED_LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat([x, x], dim=3)[..., ::2],
    "unaligned": lambda x: torch.cat([x.flatten().new_zeros(1), x.flatten()])[1:].view(x.shape),
}


def _assert_pooled(student, teacher, levels, tolerance=1e-5, gradient_tolerance=1e-5):
    wide = student.double().requires_grad_()
    expected = _pooled(wide, teacher.double(), levels)
    weights = torch.linspace(2, -1, len(student))
    (expected_gradient,) = torch.autograd.grad(expected, wide, weights.double())
    values, means = pooled.pooled_mse_forward(student, teacher, levels=levels)
    (gradient,) = pooled.pooled_mse_backward(weights, student, teacher, means, levels=levels)
    _assert_near(values, expected.detach(), tolerance)
    _assert_near(gradient, expected_gradient, gradient_tolerance)
    assert means.shape == (*student.shape[:2], sum(level**2 for level in levels))
    assert gradient.dtype == student.dtype


@needs_compiler
@pytest.mark.parametrize("levels", [[4, 2, 1], [3], []])
@pytest.mark.parametrize("size", [(14, 5), (7, 9), (8, 8)])
@pytest.mark.parametrize("elements", [4096, 40, 12])
def test_pooled_mse_has_the_value_and_gradient_of_float64(on_host, monkeypatch, levels, size, elements):
    monkeypatch.setattr(pooled, "ELEMENTS_OF_TILE", elements)  # planes whole, in parts by rows, and by columns too
    student = _random(2, 3, *size).to(memory_format=torch.channels_last)
    _assert_pooled(student, _random(2, 3, *size, seed=1), levels)
    _assert_pooled(_random(2, 3, *size), _random(2, 3, *size, seed=1), levels)


@needs_compiler
@pytest.mark.parametrize("student", POOLED_LAYOUTS)
@pytest.mark.parametrize("teacher", POOLED_LAYOUTS)
def test_pooled_mse_takes_any_strides(on_host, student, teacher):
    s, t = _random(2, 5, 6, 6), _random(2, 5, 6, 6, seed=1)
    _assert_pooled(POOLED_LAYOUTS[student](s), POOLED_LAYOUTS[teacher](t), [4, 2, 1])


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 1, 1, 9), (1, 7, 1, 1), (2, 35, 5, 4), (1, 3, 70, 66)])
def test_pooled_mse_takes_maps_of_any_size(on_host, shape):
    levels = [level for level in (4, 2, 1) if level < min(shape[2:])]
    for last in (POOLED_LAYOUTS["contiguous"], POOLED_LAYOUTS["channels_last"]):
        _assert_pooled(last(_random(*shape)), last(_random(*shape, seed=1)), levels)


@needs_compiler
def test_pooled_mse_takes_many_windows_and_half_precision(on_host):
    _assert_pooled(_random(1, 3, 12, 11), _random(1, 3, 12, 11, seed=1), [9, 8, 5, 2])
    half = [_random(2, 6, 7, 7, seed=seed, dtype=torch.bfloat16) for seed in range(2)]
    _assert_pooled(*half, [4, 2, 1], gradient_tolerance=1e-2)
    _assert_pooled(half[0], half[1].float(), [4, 2, 1], gradient_tolerance=1e-2)


def test_a_tile_has_room_for_its_sums_over_windows():
    for channels, height, width in ((64, 32, 32), (256, 8, 8), (512, 7, 7), (3, 128, 128), (1, 5000, 2), (2, 3, 9000)):
        levels = [level for level in (4, 2, 1) if level < min(height, width)]
        tile = pooled._tile(channels, height, width, levels)
        elements, sums = tile.planes * tile.rows * tile.columns, tile.planes * tile.columns * sum(levels)
        assert 0 < elements <= 4096 and sums <= 4096 and tile.rows * len(levels) <= 4096
        assert tile.planes == 1 or (tile.rows, tile.columns) == (height, width)


def test_pooled_mse_refuses_more_levels_than_the_kernel_takes():
    with pytest.raises(ValueError, match="at most 8 levels, got 9"):
        pooled._levels(list(range(9, 0, -1)), 1, 400)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vid_has_the_value_and_gradients_of_float64(on_host, dtype):
    mean, teacher = _random(3, 5, 70, dtype=dtype), _random(3, 5, 70, seed=1, dtype=dtype)
    raw = torch.tensor([-3.0, 0.0, 1.0, 30.0, 100.0])
    wide, wide_raw = mean.double().requires_grad_(), raw.double().requires_grad_()
    variance = (F.softplus(wide_raw) + 1e-5).view(1, -1, 1)
    expected = ((wide - teacher.double()).square() / variance + variance.log()).mean(dim=(1, 2)) / 2
    weights = torch.tensor([2.0, -1.0, 0.5])
    expected_gradients = torch.autograd.grad(expected, (wide, wide_raw), weights.double())
    values, squares = channelwise.vid_forward(mean, teacher, raw, epsilon=1e-5)
    gradients = channelwise.vid_backward(weights, mean, teacher, raw, squares, epsilon=1e-5)
    _assert_near(values, expected.detach(), 1e-5)
    _assert_near(gradients[0], expected_gradients[0], 1e-5 if dtype == torch.float32 else 1e-2)
    _assert_near(gradients[1], expected_gradients[1], 1e-5)


@needs_nvrtc
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_sources_compile_without_local_memory_and_within_48_kib(capability, tmp_path):
    for program in PROGRAMS:
        compiled = compiler.cubin(program.source, dict(program.definitions), capability)
        assert compiled[:4] == b"\x7fELF"
        for kernel, stack_bytes, shared_bytes in _resources(compiled, tmp_path):
            assert stack_bytes == 0, (program.source, kernel)
            assert shared_bytes <= 48 * 1024


def _resources(compiled, folder):
    triton = pytest.importorskip("triton.backends.nvidia", reason="cuobjdump comes with Triton")
    (folder / "kernels.cubin").write_bytes(compiled)
    command = [Path(triton.__file__).parent / "bin" / "cuobjdump", "--dump-resource-usage", folder / "kernels.cubin"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"Function (\w+):\s+REG:\d+ STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", report)
    assert found
    return [(name, int(stack) + int(local), int(shared)) for name, stack, shared, local in found]


@needs_nvrtc
def test_a_kernel_is_compiled_once_and_again_when_anything_changes(cache_folder, monkeypatch):
    first = compiler.cubin("vid.cu", {"STUDENT": "Float32", "TEACHER": "Float32"}, 90)
    (kept,) = cache_folder.iterdir()
    assert kept.read_bytes() == first
    kept.write_bytes(b"kept")
    assert compiler.cubin("vid.cu", {"TEACHER": "Float32", "STUDENT": "Float32"}, 90) == b"kept"
    compiler.cubin("vid.cu", {"STUDENT": "Float32", "TEACHER": "Float32"}, 80)
    compiler.cubin("vid.cu", {"STUDENT": "Float16", "TEACHER": "Float32"}, 90)
    original = compiler._text
    monkeypatch.setattr(compiler, "_text", lambda name: original(name) + b"\n" * (name == "scalars.cuh"))
    compiler.cubin("vid.cu", {"STUDENT": "Float32", "TEACHER": "Float32"}, 90)
    assert len(list(cache_folder.iterdir())) == 4


@needs_nvrtc
def test_a_source_that_does_not_compile_says_why_and_leaves_nothing(cache_folder):
    with pytest.raises(RuntimeError, match=r"(?s)vid\.cu does not compile.*Nothing"):
        compiler.cubin("vid.cu", {"STUDENT": "Nothing", "TEACHER": "Float32"}, 90)
    assert not cache_folder.exists()


def test_arguments_are_packed_as_pointers_and_64_bit_integers():
    tensor = torch.ones(3)
    values = launch.packed([tensor, None, 7, ctypes.c_float(0.5), pooled.Strides(1, 2, 3, 4)])
    assert [type(value) for value in values[:4]] == [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_float]
    assert values[0].value == tensor.data_ptr() and values[1].value is None and values[2].value == 7
    assert ctypes.sizeof(values[4]) == 32 and ctypes.sizeof(pooled.Levels) == 72


def test_cuda_on_cpu_tensors_says_why_it_cannot_run():
    for name in RELATIONS:
        with pytest.raises(RuntimeError, match=f'{name}: impl="cuda" cannot run, tensors are on cpu'):
            getattr(K, name)(torch.ones(3, 2), torch.ones(3, 2), impl="cuda")


@pytest.mark.parametrize("missing", ["cuda.bindings.nvrtc", "cuda.bindings.driver"])
def test_the_obstacle_names_the_package_that_is_missing(monkeypatch, missing):
    real = compiler.import_module

    def fails(name):
        if name == missing:
            raise ImportError(f"No module named {name!r}")
        return real(name) if name != "cuda.bindings.nvrtc" else _FakeModule

    monkeypatch.setattr(compiler, "import_module", fails)
    compiler.obstacle.cache_clear()
    assert compiler.obstacle() == f"cuda-bindings is not installed (No module named {missing!r})"
    compiler.obstacle.cache_clear()


@pytest.mark.skipif(os.path.exists("/proc/driver/nvidia"), reason="there is a driver")
@needs_nvrtc
def test_the_obstacle_names_a_driver_that_is_missing():
    compiler.obstacle.cache_clear()
    assert compiler.obstacle().startswith("the NVIDIA driver cannot be loaded")


class _FakeModule:
    __name__ = "fake"

    @staticmethod
    def nvrtcVersion():
        return 0, 13, 0


class _FakeDriver:
    """Records launches; statuses are 0."""

    __name__ = "driver"

    def __init__(self):
        self.current, self.launched, self.loaded = 0, [], 0

    def cuCtxGetCurrent(self):
        return 0, self.current

    def cuDeviceGet(self, index):
        return 0, index

    def cuDevicePrimaryCtxRetain(self, device):
        return 0, 77

    def cuCtxSetCurrent(self, context):
        self.current = context
        return (0,)

    def cuModuleLoadData(self, data):
        self.loaded += 1
        return 0, "module"

    def cuModuleGetFunction(self, module, name):
        return (0, name) if name != b"absent" else (500, None)

    def cuLaunchKernel(self, function, *arguments):
        self.launched.append((function, arguments[:8]))
        return (0,)


def test_a_launch_loads_a_module_once_and_runs_on_the_current_stream(monkeypatch):
    driver = _FakeDriver()
    for cached in (launch._context, launch._function, launch._module):
        cached.cache_clear()
    monkeypatch.setattr(launch, "import_module", lambda name: driver)
    monkeypatch.setattr(launch, "cubin", lambda *arguments: b"cubin")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: type("Stream", (), {"cuda_stream": 5}))
    monkeypatch.setattr(torch.cuda, "device", lambda device: __import__("contextlib").nullcontext())
    program = launch.Program("vid.cu", {"STUDENT": "Float32"})
    for _ in range(2):
        program.launch("kernel", (4, 2), 128, torch.ones(2), 3, device=torch.device("cuda", 0), shared_bytes=16)
    assert driver.loaded == 1 and driver.current == 77
    assert driver.launched == [(b"kernel", (4, 2, 1, 128, 1, 1, 16, 5))] * 2
    with pytest.raises(RuntimeError, match="driver reports 500"):
        program.launch("absent", (1,), 32, device=torch.device("cuda", 0))
    for cached in (launch._context, launch._function, launch._module):
        cached.cache_clear()
