import pytest

from edgekd.core.errors import ConfigError
from edgekd.distill.recipe import Recipe, compose, load_recipe, recipe_names


def test_the_built_in_recipes_are_those_of_the_readme():
    assert {"plain", "kd", "fitnet", "sp", "vid", "mag", "mas"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_built_in_recipe_loads_under_its_own_name_with_a_title_and_formula(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.formula
    assert recipe.needs_teacher == (name not in ("plain", "byot", "self-distillation", "tl"))


def test_an_unknown_method_lists_near_names():
    with pytest.raises(ConfigError, match="unknown method 'magg'; did you mean mag"):
        load_recipe("magg")


def test_a_wrapper_takes_the_papers_weights_over_a_base():
    terms = load_recipe("mag+sp").stages[-1].terms
    weights = {(t.type, t.options.get("part", "logits")): t.weight for t in terms}
    assert weights == {
        ("cross-entropy", "logits"): 1.0,
        ("kd", "logits"): 1.0,
        ("kd", "aux:abstract.code"): 1.0,
        ("kd", "aux:detailed.code"): 1.0,
        ("similarity-preserving", "logits"): 3000.0,
    }


def test_a_composition_is_the_base_feature_term_plus_the_two_codes():
    base, wrapped = load_recipe("sp").stages[-1].terms, load_recipe("mas+sp").stages[-1].terms
    added = [t for t in wrapped if t not in base]
    assert [t.options["part"] for t in added if "part" in t.options] == ["aux:abstract.code", "aux:detailed.code"]


@pytest.mark.parametrize(
    "name, fragment", [("kd+sp", "takes no base"), ("mag+kd", "adds no term"), ("mag+nothing", "unknown method")]
)
def test_a_composition_that_makes_no_sense_is_refused(name, fragment):
    with pytest.raises(ConfigError, match=fragment):
        load_recipe(name)


@pytest.mark.parametrize(
    "base, key",
    [
        ("sskd", "views"),
        ("byot", "source"),
        ("ekd", "source, beside"),
        ("kcd-trained", "start"),
        ("knowledge-selection", "start"),
        ("multi-granularity", "source"),
    ],
)
def test_a_base_whose_stage_is_more_than_its_terms_is_refused_where_terms_alone_are_added(base, key):
    with pytest.raises(ConfigError, match=f"last stage has {key} of its own"):
        load_recipe(f"mag+{base}")


@pytest.mark.parametrize("name, others", [("mas+sp", ["mas", "sp"]), ("sftn+rl-kd", ["sftn", "rl-kd"])])
def test_a_composition_cites_and_says_what_both_recipes_do(name, others):
    composed = load_recipe(name)
    for recipe in map(load_recipe, others):
        assert recipe.paper in composed.paper
        assert recipe.formula in composed.formula
        assert recipe.deviations in composed.deviations
    weights = {term.type: term.weight for term in composed.stages[-1].terms if "part" not in term.options}
    if name == "mas+sp":
        assert f"cross-entropy {weights['cross-entropy']:g}, kd {weights['kd']:g}" in composed.formula


@pytest.mark.parametrize("key, name", [("roles", "a"), ("policies", "p")])
def test_a_composition_of_two_meanings_of_one_name_is_refused(key, name):
    specs = {"roles": [{"like": "student"}, {"like": "teacher"}], "policies": [{"type": "x"}, {"type": "y"}]}[key]
    one, other = (load_recipe(recipe).model_dump() for recipe in ("sftn", "sp"))
    wrapper, base = (Recipe(**{**document, key: {name: s}}) for document, s in zip((one, other), specs, strict=True))
    with pytest.raises(ConfigError, match=f"{name}' and mean different things"):
        compose(wrapper, base)
    same = compose(wrapper, base.model_copy(update={key: getattr(wrapper, key)}))
    assert getattr(same, key) == getattr(wrapper, key)


def test_attachments_of_one_name_must_be_the_same():
    mag = load_recipe("mag")
    narrow = mag.model_copy(update={"attach": {"teacher": {"abstract": mag.attach["teacher"]["detailed"]}}})
    with pytest.raises(ConfigError, match="attachment 'abstract' and mean different things"):
        compose(mag, narrow.model_copy(update={"stages": load_recipe("sp").stages}))


def _write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_a_users_own_recipe_loads_from_its_file(tmp_path):
    path = _write(
        tmp_path,
        "name: mine\ntitle: Mine\nstages:\n  - name: student\n"
        "    terms:\n      - {type: kd, temperature: 2, weight: {over: 0.5}}\n",
    )
    recipe = load_recipe(path)
    assert recipe.stages[0].terms[0].options == {"temperature": 2}
    assert recipe.stages[0].terms[0].weight.end == 1.0


def test_a_wrong_recipe_lists_every_problem(tmp_path):
    path = _write(
        tmp_path,
        "name: mine\ntitle: Mine\nattach: {student: {a: {type: granular-encoder, width: 3}}}\nstages:\n"
        "  - name: student\n    source: {type: frozn}\n    views: [identity, flip]\n"
        "    terms:\n      - {type: kd, temprature: 2}\n      - {type: kdd}\n",
    )
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    message = str(error.value)
    for fragment in ("5 problem(s)", "code_width: missing", "'frozn'", "'flip'", "temprature: unknown key", "'kdd'"):
        assert fragment in message


def test_a_recipe_with_unknown_keys_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="stages.0.epoch: unknown key"):
        load_recipe(_write(tmp_path, "name: a\ntitle: b\nstages: [{name: s, epoch: 3, terms: [{type: kd}]}]\n"))
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_the_digest_follows_the_content():
    assert load_recipe("mag").digest == load_recipe("mag").digest
    assert len({load_recipe(name).digest for name in recipe_names()}) == len(recipe_names())
