import itertools
import random

import pytest

from edgekd.search import dominates, front, goes_on


def test_dominance_needs_one_better_and_none_worse():
    assert dominates((1, 1), (1, 2)) and not dominates((1, 2), (2, 1))
    assert not dominates((1, 1), (1, 1)) and not dominates((1, 3), (1, 2))


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_brute_force_leaves(seed):
    chance = random.Random(seed)
    losses = [tuple(chance.randrange(6) for _ in range(3)) for _ in range(40)]
    found = {losses[place] for place in front(losses)}
    left = {
        mine
        for mine in losses
        if not any(all(a <= b for a, b in zip(o, mine, strict=True)) and o != mine for o in losses)
    }
    assert found == left
    assert len(front(losses)) == len(found)
    for one, other in itertools.combinations(found, 2):
        assert not dominates(one, other) and not dominates(other, one)


def test_of_nine_by_score_a_third_passes():
    scores = [0.1 * index for index in range(9)]
    passed = [
        score for score in scores if goes_on((-score,), [(-other,) for other in scores if other != score], share=1 / 3)
    ]
    assert passed == pytest.approx([0.6, 0.7, 0.8])


def test_the_first_to_arrive_passes_and_a_small_student_is_not_judged_by_large_ones():
    assert goes_on((-0.1, 5.0), [], share=0.01)
    large = [(-0.9, 10.0), (-0.8, 9.0), (-0.7, 8.0)]
    assert goes_on((-0.2, 1.0), large, share=0.3)
    assert not goes_on((-0.2, 20.0), large, share=0.3)
