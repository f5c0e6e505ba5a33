"""`edgekd methods`: needs, cost and evidence for people who choose, and schemas for people who write."""

import json

import pytest

from edgekd.distill import load_recipe, recipe_names
from edgekd.distill.evidence import evidence_of


def _json(edgekd, *words):
    done = edgekd("methods", *words, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    return document


def test_the_list_says_what_each_method_needs_and_costs(edgekd):
    methods = {method["name"]: method for method in _json(edgekd, "list")["methods"]}
    assert set(methods) == set(recipe_names())
    assert methods["plain"]["needs"] == ["labels"] and methods["plain"]["cost"] == "nothing"
    assert methods["sskd"]["needs"] == ["a teacher", "labels", "square pictures"]
    assert methods["mas"]["takes_a_base"] and not methods["kd"]["takes_a_base"]
    lines = edgekd("methods", "list").stdout.splitlines()
    (row,) = [line for line in lines if line.startswith("takd ")]
    assert "training of assistant1, assistant2" in row and load_recipe("takd").cost in row


def test_a_method_is_shown_with_what_it_came_to(edgekd):
    document, text = _json(edgekd, "show", "kd"), edgekd("methods", "show", "kd").stdout
    assert document["method"]["name"] == "kd" and document["needs"] == ["a teacher", "labels"]
    (first, *_) = evidence_of("kd")
    assert document["evidence"][0]["top1_mean"] == first.top1_mean
    for part in (f"{first.top1_mean:.2f}", f"{first.over_plain:+.2f}", first.result_file, "needs: a teacher, labels"):
        assert part in text
    for fact in ("paper", "formula"):
        assert f"{fact}: {getattr(load_recipe('kd'), fact)}" in text


def test_what_was_never_studied_says_so(edgekd):
    assert _json(edgekd, "show", "mas+sp")["evidence"] == []
    assert "evidence: none" in edgekd("methods", "show", "mas+sp").stdout


def test_schemas_cover_recipes_and_every_kind_of_part(edgekd):
    document = _json(edgekd, "schema")
    assert set(document) == {
        "schema_version", "recipe", "terms", "sources", "weighers", "views", "attachments", "policies",
    }  # fmt: skip
    assert "stages" in document["recipe"]["properties"]
    assert document["weighers"]["balanced"]["properties"]["memory"]["default"] == 0.99


@pytest.mark.parametrize(
    "name, kind, fragments",
    [
        ("kd", "terms", ["temperature", "4.0"]),
        ("live", "sources", ["roles", "required"]),
        ("identity", "views", ["-"]),
        ("recipe", "recipe", ["stages", "required"]),
    ],
)
def test_one_part_is_shown_with_its_options(edgekd, name, kind, fragments):
    assert set(_json(edgekd, "schema", name)) == {"schema_version", kind}
    done = edgekd("methods", "schema", name)
    assert all(fragment in done.stdout for fragment in (kind, *fragments))


def test_an_unknown_part_is_a_usage_error(edgekd):
    done = edgekd("methods", "schema", "kdd")
    assert done.exit_code == 2
    assert "did you mean kd" in done.stderr
