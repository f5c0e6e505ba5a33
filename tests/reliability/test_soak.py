from soak import judged


def _held(rss_mb, descriptors=6):
    return {"rss_mb": rss_mb, "descriptors": descriptors, "threads": 1, "children": 0}


def test_memory_that_settles_is_flat_and_memory_that_grows_is_a_failure():
    settled = [_held(100 + min(index, 10)) for index in range(100)]
    found = judged(settled)
    assert found["failures"] == 0 and abs(found["growth_kb_per_run"]) < 1e-6
    growing = judged([_held(100 + 0.02 * index) for index in range(100)])
    assert growing["failures"] == 1 and growing["growth_kb_per_run"] == 20.48


def test_a_descriptor_that_stays_open_is_a_failure():
    assert judged([_held(100, 6 + (index > 80)) for index in range(100)])["failures"] == 1
    assert judged([_held(100, 9 - (index > 80)) for index in range(100)])["failures"] == 0
