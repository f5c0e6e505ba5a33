"""What int8 costs: the lines of the table are those of the file, and the study makes every way from one student."""

import csv

import pytest

HEAD = "data,student,seed,way,val_score,test_score,error,commit\n"


def test_a_way_is_compared_with_the_same_weights_in_fp32_seed_by_seed(bench, tmp_path):
    file = tmp_path / "precision.csv"
    file.write_text(
        HEAD
        + "digits,net,0,fp32,0.90,0.80,,c\ndigits,net,1,fp32,0.92,0.90,,c\n"
        + "digits,net,0,int8 min-max,0.89,0.79,,c\ndigits,net,1,int8 min-max,0.93,0.86,,c\n"
        + "digits,net,0,int8-layers,,,no mixture,c\n"
        + "digits,other,0,fp32,0.5,0.5,,c\ndigits,other,0,int8-qat,0.6,0.52,,c\n",
        encoding="utf-8",
    )
    lines = bench("precision_tables").precision_rows(file)
    assert [line[:5] for line in lines] == [
        ("digits", "`net`", "fp32", "2", "85.00 %"),
        ("digits", "`net`", "int8 min-max", "2", "82.50 %"),
        ("digits", "`other`", "fp32", "1", "50.00 %"),
        ("digits", "`other`", "int8-qat", "1", "52.00 %"),
    ]
    mean, _, margin = lines[1][5].split()
    assert mean == "-2.50" and float(margin) == pytest.approx(12.706 * 1.5, abs=0.01)  # t of one degree of freedom
    assert lines[1][6:7] == ("-4.00",) and lines[1][7].startswith("+0.00")
    assert lines[3][5:] == ("+2.00", "+2.00", "+10.00")


@pytest.mark.slow
def test_the_study_scores_every_way_of_one_student_and_goes_on(bench, tmp_path, monkeypatch):
    study, file = bench("precision_study"), tmp_path / "rows.csv"
    monkeypatch.setattr(study, "STUDENTS", {"digits": ("resnet8-w2",)})
    command = ["precision_study.py", "--data", "digits", "--seeds", "1", "--epochs", "1", "--into", str(file)]
    monkeypatch.setattr("sys.argv", command)
    study.main()
    rows = list(csv.DictReader(file.open()))
    ways = [row["way"] for row in rows]
    assert {"fp32", "fp16", "int8 min-max", "int8 entropy", "int8 percentile", "int8-qat", "int8-layers"} == set(ways)
    assert len(ways) == len(set(ways))
    assert all(0 < float(row["test_score"]) <= 1 for row in rows if not row["error"])
    assert {row["way"] for row in rows if row["error"]} <= {"int8-layers"}
    study.main()
    assert len(list(csv.DictReader(file.open()))) == len(rows)
