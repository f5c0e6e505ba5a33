"""Probes on a finished run: every figure that of a direct call, spreads over seeds, options read as meant."""

import shutil
from itertools import product

import numpy as np
import pytest
import yaml

from edgekd.core.errors import ConfigError, StorageError
from edgekd.data import ArrayImages, DataConfig, Dataset, Split, Task, load_dataset
from edgekd.distill.probes import PROBES
from edgekd.models import load_model
from edgekd.pipeline.comparison import ProbeRequest, Spread, compare, options_by_probe
from edgekd.pipeline.finished import load_finished


@pytest.fixture(scope="module")
def run_folder(finished):
    return load_finished(finished[0])


def _rows(run, *names, **request):
    (found,) = compare(run, ProbeRequest(names=names, **{"splits": ("test",), **request}))
    return {row.name: row for row in found.rows}


def test_fidelity_is_that_of_the_report(run_folder, finished):
    rows = _rows(run_folder, "fidelity")
    for part, role in (("distilled", "distilled"), ("independent", "alone")):
        expected = [row for row in finished[1].fidelity if row.role == role]
        assert getattr(rows["agreement"], part).values == pytest.approx([row.agreement for row in expected])
        assert getattr(rows["kl"], part).values == pytest.approx([row.kl for row in expected])
    assert rows["accuracy"].teacher == pytest.approx(finished[1].scores.teacher.mean)
    assert rows["agreement"].teacher is None


def test_spreads_are_sample_deviations():
    spread = Spread.of([1.0, 2.0, 4.0])
    assert spread.mean == pytest.approx(np.mean([1, 2, 4]))
    assert spread.std == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert Spread.of([3.0]) == Spread((3.0,), 3.0, None)


def test_a_seed_without_a_value_is_left_out_of_the_mean():
    assert Spread.of([float("nan"), 2.0, 4.0]) == Spread((None, 2.0, 4.0), 3.0, pytest.approx(2**0.5))
    assert Spread.of([float("nan")]) == Spread((None,), None, None)


def test_each_distilled_seed_stands_against_every_independent_student(run_folder):
    rows = _rows(run_folder, "localisation", assignments=("layer=2",))
    teacher, alone, distilled = (
        load_model(run_folder.teacher),
        [load_model(model) for model in run_folder.alone],
        [load_model(model) for model in run_folder.distilled],
    )

    def rate(student, other):
        roles = {"teacher": teacher, "student": student, "independent": other}
        return PROBES["localisation"](roles, run_folder.dataset.test, layer=2)["win_rate"]

    expected = [np.mean([rate(student, other) for other in alone]) for student in distilled]
    assert rows["win_rate"].distilled.values == pytest.approx(expected)
    against = [rate(alone[0], alone[1]), rate(alone[1], alone[0])]
    assert rows["win_rate"].independent.values == pytest.approx(against)
    assert rows["win_rate"].independent.mean == pytest.approx(0.5)
    assert rows["win_rate"].chance == 0.5


def test_with_one_student_alone_there_is_no_other_to_stand_against(finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / "one")
    document = yaml.safe_load((copy / "config.yaml").read_text()) | {"seeds": 1}
    (copy / "config.yaml").write_text(yaml.safe_dump(document))
    run = load_finished(copy)
    assert _rows(run, "localisation")["win_rate"].independent is None
    assert _rows(run, "errors")["overlap"].independent.std is None


def test_probes_run_on_their_own_splits_unless_told(run_folder):
    found = compare(run_folder, ProbeRequest(names=("fidelity", "errors")))
    assert [(each.probe, each.split) for each in found] == [
        ("fidelity", "train"),
        ("fidelity", "test"),
        ("errors", "test"),
    ]


def test_the_start_of_each_seed_gives_the_kernel(run_folder):
    rows = _rows(run_folder, "complexity", assignments=("images=20", "outputs=[1]"))
    assert rows["labels"].distilled.values == rows["labels"].independent.values
    assert rows["labels"].distilled.std > 0


def test_a_foreign_network_is_the_teacher_of_another_run(run_folder, finished):
    rows = _rows(run_folder, "adversarial", assignments=("images=100",), foreign=finished[0])
    assert rows["foreign_fooling_rate"].distilled == rows["fooling_rate"].distilled


def test_options_reach_the_probes_that_have_them():
    options = options_by_probe(("cka", "boundary"), ("images=7", "boundary.seed=3", "seed=5", "cka.kernel=rbf"))
    assert options["cka"] == {"kernel": "rbf", "bandwidth": 1.0, "images": 7, "seed": 5}
    assert options["boundary"] == {"triplets": 50, "side": 20, "seed": 3}


@pytest.mark.parametrize(
    ("names", "assignments", "says"),
    [
        (("kca",), (), "unknown probe 'kca'; did you mean cka"),
        (("cka", "boundary"), ("image=3",), "unknown option of cka, boundary 'image'; did you mean images"),
        (("cka",), ("images=many",), "images"),
        (("cka",), ("cka.triplets=3",), "triplets: unknown key"),
        (("cka",), ("images",), "key.sub=value"),
        (("cka",), ("boundary.side=3",), "unknown option of cka 'boundary'"),
    ],
)
def test_wrong_names_and_options_are_explained_before_anything_runs(names, assignments, says):
    with pytest.raises(ConfigError, match=says):
        options_by_probe(names, assignments)


def _other(run, pixels, labels, task=None):
    split = Split(ArrayImages(pixels), labels, task or run.dataset.task)
    return Dataset("other", split, split, split, run.dataset.mean, run.dataset.std, "0" * 64)


def test_pictures_of_another_set_take_the_place_of_the_runs_own(run_folder):
    test = run_folder.dataset.test
    other = _other(run_folder, test.inputs.gather(np.arange(50)) // 3, test.labels[:50])
    found = _rows(run_folder, "errors", other_data=other)
    direct = PROBES["errors"](
        {"teacher": load_model(run_folder.teacher), "student": load_model(run_folder.distilled[0])}, other.test
    )
    assert found["error_rate"].distilled.values[0] == direct["error_rate"]


def test_pictures_that_do_not_fit_are_refused(run_folder):
    large = _other(run_folder, np.zeros((4, 9, 9, 1), np.uint8), np.zeros(4, np.int64))
    with pytest.raises(ConfigError, match=r"shape \[1, 8, 8\], those of other \[1, 9, 9\]"):
        compare(run_folder, ProbeRequest(names=("consensus",), other_data=large))
    pixels = run_folder.dataset.test.inputs.gather(np.arange(20))
    renamed = _other(run_folder, pixels, np.zeros(20, np.int64), Task("classification", ("cat", "dog")))
    with pytest.raises(ConfigError, match="'errors' reads labels.*boundary, cka, consensus, invariance"):
        compare(run_folder, ProbeRequest(names=("errors",), other_data=renamed))
    maps = _other(run_folder, pixels, np.zeros((20, 8, 8), np.int64), Task("segmentation", ("cat", "dog")))
    events = []
    with pytest.raises(ConfigError, match="the data are for segmentation"):
        compare(run_folder, ProbeRequest(names=("consensus", "cka"), other_data=maps, listener=events.append))
    assert not events
    assert _rows(run_folder, "consensus", other_data=renamed)["edges"].distilled.mean <= 1


def test_progress_counts_every_network(run_folder):
    events = []
    compare(run_folder, ProbeRequest(names=("errors",), listener=events.append))
    assert [event.kind for event in events] == ["start", *["progress"] * 4, "end"]
    assert [(event.done, event.total) for event in events[1:-1]] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {event.stage for event in events} == {"errors on test"}


def test_altered_weights_are_refused(finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / "altered")
    (copy / "student" / "alone-seed0.safetensors").write_bytes(b"")
    with pytest.raises(StorageError, match="missing or were altered"):
        compare(load_finished(copy), ProbeRequest(names=("errors",)))


def test_every_pair_is_used_once_over_all_seeds(run_folder):
    # 2 distilled x 2 alone, and 2 ordered pairs of alone
    events = []
    compare(run_folder, ProbeRequest(names=("localisation",), listener=events.append))
    assert events[-2].total == len(list(product(range(2), range(2)))) + 2


def test_data_of_the_run_are_loaded_as_configured(run_folder):
    assert run_folder.dataset.digest == load_dataset(DataConfig(name="digits", limit=400)).digest
