"""README.md and the documents with tables: they are those of the result files, commands and links exist."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from edgekd.cli.main import app
from edgekd.distill.roles import penultimate_of
from edgekd.models import load_teacher

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


PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_a_run_from_python_is_what_it_says(tmp_path, monkeypatch, capsys):
    (code,) = [block for block in PYTHON if "RunRequest" in block]
    small = ["train.epochs=1", "teacher.epochs=2", "teacher.net=resnet8-w8", "student.max_share=0.9", "also_build=[]"]
    assert '"p99<1ms"' in code and '"seeds=1"' in code
    code = code.replace("p99<1ms", "p99<10s").replace('"seeds=1"', ", ".join(map(repr, ["seeds=1", *small])))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    verdict, score = capsys.readouterr().out.split()[-2:]
    assert verdict == "kept" and 0 < float(score) <= 1
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()


def test_a_teacher_of_ones_own_is_what_it_says(tmp_path, monkeypatch):
    (code,) = [block for block in PYTHON if "def teacher" in block]
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mynets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path("mynets.py")["Net"](5)
    torch.save(made.state_dict(), "best.pt")
    spec, found = load_teacher(
        "mine.py:teacher", in_channels=3, num_classes=5, resolution=8, mean=(0.0,) * 3, std=(1.0,) * 3, weights=None
    )
    pictures = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(found(pictures), made.eval()(pictures))
    assert penultimate_of(spec, found).endswith("fc:input")
    (command,) = [words for words in _commands() if "mine.py:teacher" in words]
    assert {"--student", "pruned", "teacher.mean=[0.485,0.456,0.406]"} <= set(command)


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))
"""


def test_every_method_stands_in_the_readme():
    from edgekd.distill import recipe_names

    assert [name for name in recipe_names() if f"`{name}`" not in README] == []
