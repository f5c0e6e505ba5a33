from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.engine import BuildOptions
from edgekd.engine.plan_job import PlanJob, job_for, job_from_arguments, progress_from_line, progress_line
from edgekd.targets import get_target

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00/"), min_size=1, max_size=20)
SIZES = st.integers(1, 4096)


@given(
    job=st.builds(
        PlanJob,
        onnx=NAMES.map(lambda name: Path("/models") / f"m{name}"),
        plan=st.just(Path("/out/-p")),
        report=st.just(Path("r")),
        precision=st.sampled_from(["fp32", "fp16", "int8"]),
        input_name=NAMES,
        input_shape=st.tuples(SIZES, SIZES, SIZES),
        batches=st.one_of(st.just(()), st.tuples(SIZES, SIZES, SIZES)),
        compute_capability=st.sampled_from(["", "SM86"]),
        workspace_mb=st.integers(0, 1 << 20),
        timing_cache=st.one_of(st.none(), st.just(Path("/c/cache"))),
    )
)
def test_a_job_survives_its_argument_list(job):
    assert job_from_arguments(job.arguments()) == job


@pytest.mark.parametrize(
    "change",
    [("--precision=fp32", "--precision=fp9"), ("--input-shape=3,8,8", "--input-shape=3,8"), ("--plan=p", "--q")],
)
def test_wrong_arguments_exit_with_a_usage_line(change, capsys):
    job = PlanJob(Path("o"), Path("p"), Path("r"), "fp32", "x", (3, 8, 8))
    arguments = [argument.replace(*change) for argument in job.arguments()]
    with pytest.raises(SystemExit) as caught:
        job_from_arguments(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_job_for_uses_profiles_only_for_dynamic_batches(onnx_model):
    options = BuildOptions(get_target("rtx-4090"), batch=4, max_batch=16)
    places = {"plan": Path("p"), "report": Path("r"), "compute_capability": "SM89"}
    assert job_for(onnx_model("fp32"), options, **places).batches == (1, 4, 16)
    assert job_for(onnx_model("fp32", batch=4), options, **places).batches == ()
    assert job_for(onnx_model("fp32"), options, **places).plan.is_absolute()


@pytest.mark.parametrize(
    "line", ["", "text", "3", "[]", '{"phase": "x"}', '{"phase": "x", "done": 1, "total": 2, "z": 0}']
)
def test_other_lines_are_no_progress(line):
    assert progress_from_line(line) is None


def test_progress_survives_its_line():
    assert progress_from_line(progress_line('a "phase"', 3, 7)) == ('a "phase"', 3, 7)
