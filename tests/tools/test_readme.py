"""README.md and the documents with tables: they are those of the result files, commands and links exist."""

import re
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgekd.cli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOOL = runpy.run_path(str(ROOT / "tools" / "bench" / "readme_tables.py"))


@pytest.mark.parametrize("document", TOOL["DOCUMENTS"], ids=lambda path: path.name)
def test_tables_are_those_of_the_result_files(document):
    text = document.read_text(encoding="utf-8")
    assert TOOL["rendered"](text) == text


@pytest.mark.parametrize("name", sorted(TOOL["TABLES"]))
def test_every_table_stands_in_a_document(name):
    texts = [document.read_text(encoding="utf-8") for document in TOOL["DOCUMENTS"]]
    assert any(f"<!-- table:{name} -->" in text for text in texts)


def test_result_files_name_device_versions_and_commit_or_the_data_that_they_rest_on():
    made = r"(cpu|gpu)-[\w.-]+|data-[0-9a-f]{8}"
    for file in (ROOT / "tools" / "bench" / "results").iterdir():
        assert re.fullmatch(rf"[\w.-]+_({made})_[0-9a-f]{{7,}}\.(json|csv)", file.name), file.name


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_make_targets_that_it_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^ *edgekd ([a-z]+)", README, re.MULTILINE))))
def test_commands_that_it_names_exist(command):
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def _commands():
    joined = README.replace("\\\n", " ")
    return [line.split("#")[0].split() for line in joined.splitlines() if re.match(r"^ *edgekd [a-z]+ ", line)]


@pytest.mark.parametrize("words", _commands(), ids=lambda words: " ".join(words[1:3]))
def test_options_that_it_names_exist(words):
    group = words[1:3] if words[1] in ("latency", "targets", "methods", "report") else words[1:2]
    text = CliRunner().invoke(app, [*group, "--help"]).stdout
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(^|[\s,]){re.escape(option)}\b", text, re.MULTILINE), f"{group} has no {option}"


def test_every_method_stands_in_the_readme():
    from edgekd.distill import recipe_names

    assert [name for name in recipe_names() if f"`{name}`" not in README] == []
