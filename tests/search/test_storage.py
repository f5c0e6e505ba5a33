import pytest

from edgekd.core.errors import ConfigError, StorageError
from edgekd.search import open_storage, records_of, shown, work, worker_name


def test_another_space_or_budget_under_the_same_name_is_refused_with_both_values(toys, begin):
    plan = toys.plan()
    begin(plan, facts={"budget": "p99<1ms", "space": {"resnet": [8]}})
    begin(plan, facts={"budget": "p99<1ms", "space": {"resnet": [8]}})
    with pytest.raises(ConfigError) as error:
        begin(plan, facts={"budget": "p99<2ms", "space": {"resnet": [8, 14]}})
    assert "budget was p99<1ms, now it is p99<2ms" in str(error.value)
    assert "space was {'resnet': [8]}, now it is {'resnet': [8, 14]}" in str(error.value)
    begin(plan, name="another", facts={"budget": "p99<2ms"})


def test_two_workers_share_a_journal(toys, begin):
    plan, students = toys.plan(trials=5), toys.ToyStudents()
    first, second = begin(plan), begin(plan, worker=1)
    work(first, plan, students, worker=worker_name(0))
    work(second, plan, students, worker=worker_name(1))
    assert [record.number for record in records_of(first)] == [record.number for record in records_of(second)]
    assert len(students.trained) == 5


def test_a_database_file_works_like_a_journal(toys, begin, tmp_path):
    plan, students = toys.plan(trials=3), toys.ToyStudents()
    study = begin(plan, where=f"sqlite:///{tmp_path / 'study.db'}")
    work(study, plan, students, worker=worker_name(0))
    assert sum(record.is_counted for record in records_of(study)) == 3


def test_a_database_that_cannot_be_reached_is_named_without_its_password():
    pytest.importorskip("psycopg", reason="extra postgres is not installed")
    with pytest.raises(StorageError) as error:
        open_storage("postgresql://edgekd:secret@127.0.0.1:1/none?connect_timeout=2")
    assert "127.0.0.1:1/none" in str(error.value) and "secret" not in str(error.value)
    assert shown("postgresql://edgekd:secret@host/db") == "postgresql://edgekd:***@host/db"


def test_unknown_kinds_of_storage_are_refused():
    with pytest.raises(ConfigError, match="write a file, postgresql"):
        open_storage("redis://host")


def test_a_file_that_cannot_be_written_or_is_no_journal_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        open_storage(str(tmp_path / "file" / "study.journal"))
    (tmp_path / "other.journal").write_text("no journal\nof a study\n")
    with pytest.raises(StorageError, match="damaged or no journal"):
        open_storage(str(tmp_path / "other.journal"))
