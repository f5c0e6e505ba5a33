import pytest

from edgekd.ship.fleet.result import DeviceResult, exit_code_of


def results(*ends):
    codes = {"offline": 4, "not-started": 1}
    made = []
    for number, end in enumerate(ends):
        outcome, code = end if isinstance(end, tuple) else (end, codes.get(end, 0))
        made.append(DeviceResult(f"d{number}", "g", outcome, exit_code=code))
    return made


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (["installed", "up-to-date", "rolled-back"], 0),
        ([], 0),
        ([("failed", 3)], 3),
        ([("failed", 3), ("reverted", 3), "not-started"], 3),
        ([("refused", 6), ("refused", 6)], 6),
        ([("failed", 5), "up-to-date"], 5),
        ([("failed", 3), ("failed", 5)], 1),
        ([("failed", 3), "installed"], 1),
        (["installed", "offline"], 4),
        (["offline", "offline"], 4),
        (["offline", "not-started"], 1),
        (["offline", ("failed", 3), "installed"], 1),
        ([("locked", 1), "installed"], 1),
    ],
)
def test_exit_codes(ends, code):
    assert exit_code_of(results(*ends)) == code
