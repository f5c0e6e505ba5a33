import ctypes

import pytest

from edgekd.engine.cuda_driver import visible_gpus


class FakeDriver:
    """`libcuda` with GPUs of the given compute capabilities."""

    def __init__(self, sms=(), init=0):
        self.sms, self.init = sms, init

    def cuInit(self, flags):
        return self.init

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.sms)
        return 0

    def cuDeviceGet(self, device, index):
        device._obj.value = 100 + index
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        major, minor = divmod(self.sms[device.value - 100], 10)
        value._obj.value = {75: major, 76: minor}[attribute]
        return 0


def no_library(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("load", "sms", "reason"),
    [
        (no_library, (), "no NVIDIA driver: libcuda.so.1: cannot open"),
        (lambda name: FakeDriver(init=100), (), "cuInit returned 100"),
        (lambda name: FakeDriver(), (), "lists no GPU"),
        (lambda name: FakeDriver((87,)), (87,), ""),
        (lambda name: FakeDriver((90, 120)), (90, 120), ""),
    ],
)
def test_driver_is_asked_for_gpus(load, sms, reason):
    found = visible_gpus(load)
    assert found.sms == sms
    assert reason in found.reason
    assert bool(found.reason) == (not sms)


def test_this_machine_gets_an_answer():
    found = visible_gpus()
    assert bool(found.sms) != bool(found.reason)
    assert isinstance(ctypes.c_int(1), ctypes.c_int)
