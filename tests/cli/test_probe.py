"""A probe survives whatever the probed code does."""

import pytest

from edgekd.cli.probe import Probe, probe


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('noise'); print('1.2.3')", Probe(True, "1.2.3")),
        ("pass", Probe(True, "")),
        ("import no_such_package", Probe(False, "ModuleNotFoundError: No module named 'no_such_package'")),
        ("raise SystemExit('no driver')", Probe(False, "no driver")),
        ("raise SystemExit(3)", Probe(False, "")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Probe(False, "killed by signal 11")),
    ],
)
def test_probe_reports_what_happened(code, expected):
    assert probe(code) == expected


def test_probe_that_hangs_is_stopped():
    assert probe("import time; time.sleep(60)", timeout_s=0.3) == Probe(False, "no answer within 0.3 s")
