from pathlib import Path

import pytest

from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import ConfigurationError

# Seventy-two aliases, each level nine times the one before: 43 million entries if written out.
UNFOLDING = "{a0: &a0 [x], " + ", ".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9)
) + "}"  # fmt: skip


def test_later_layers_win(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("router: {threshold: 0.1}\ntraining: {rank: 3, max_steps: 7}\n")
    settings = load_settings(
        file,
        overrides=["training.rank=5"],
        environment={"ADAPTIVE_MOE__ROUTER__THRESHOLD": "0.4", "ADAPTIVE_MOE__TRAINING__RANK": "4"},
    )
    assert settings.router.threshold == 0.4
    assert settings.training.rank == 5
    assert settings.training.max_steps == 7


@pytest.mark.parametrize(
    ("yaml", "environment", "overrides", "complaint"),
    [
        ("router: {treshold: 1}", {}, [], "settings.yaml: router.treshold: there is no such"),
        ("router: {threshold: 7}", {}, [], "settings.yaml: router.threshold: Input should be less"),
        ("- 1", {}, [], "settings.yaml: the top level must be keys and values"),
        ("a: [", {}, [], "settings.yaml: not valid YAML"),
        (
            "",
            {"ADAPTIVE_MOE__ROUTER__THRESHOLD": "x"},
            [],
            "ADAPTIVE_MOE__ROUTER__THRESHOLD: router.",
        ),
        ("", {"ADAPTIVE_MOE__ROUTR__THRESHOLD": "1"}, [], "no setting 'routr'"),
        ("", {"ADAPTIVE_MOE__ROUTER": "x"}, [], "environment: ADAPTIVE_MOE__ROUTER: router: Inp"),
        ("", {"ADAPTIVE_MOE__ROUTER": "{threshold: 7}"}, [], "_ROUTER: router.threshold: Input"),
        ("", {"ADAPTIVE_MOE__GAPS__SOURCES": "[a, b"}, [], "_GAPS__SOURCES: gaps.sources: this is"),
        ("", {"ADAPTIVE_MOE__GAPS__SOURCES": "[" * 100_000}, [], "gaps.sources: this is no list"),
        ("", {f"ADAPTIVE_MOE__ROUTER{'__A' * 3000}": "1"}, [], "nested too deeply"),
        ("", {}, ["router.threshold"], "write key=value"),
        ("", {}, ["gaps.sources=" + "[" * 3000], "--set gaps.sources: nested too deeply"),
        ("", {}, [f"gaps.sources={UNFOLDING}"], "--set gaps.sources: nested too deeply, too many"),
        ("", {}, [f"router{'.a' * 3000}=1", f"router{'.a' * 3000}=2"], "nested too deeply"),
        ("", {}, ["store=!!bool x"], "--set store: nested too deeply, too many aliases or a tag"),
        ("", {}, ["training.targets=5"], "--set: training.targets: write all, or the ends of"),
        (
            "",
            {},
            ["training.targets=[q_proj"],
            "--set: training.targets: write all, or the ends of",
        ),
        ("", {}, ["gaps.on_verified=maybe"], "--set: gaps.on_verified: Input should be 'record'"),
        ("gaps: {suspect_prompts: 9}", {}, [], "gaps.suspect_prompts must not exceed"),
    ],
)
def test_a_refusal_names_layer_key_and_reason(tmp_path, yaml, environment, overrides, complaint):
    file = tmp_path / "settings.yaml"
    file.write_text(yaml)
    with pytest.raises(ConfigurationError) as refusal:
        load_settings(file, overrides=overrides, environment=environment)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize("given", ["docs", '["docs"]'])
def test_one_path_or_name_is_a_list_of_one(given):
    from_environment = load_settings(environment={"ADAPTIVE_MOE__GAPS__SOURCES": given})
    assert from_environment.gaps.sources == (Path("docs"),)
    overridden = load_settings(overrides=[f"gaps.sources={given}"], environment={})
    assert overridden.gaps.sources == (Path("docs"),)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("all", "all"), ("q_proj", ("q_proj",)), ("[q_proj, v_proj]", ("q_proj", "v_proj"))],
)
def test_targets_are_all_one_or_several(given, expected):
    settings = load_settings(overrides=[f"training.targets={given}"], environment={})
    assert settings.training.targets == expected


def test_no_path_at_all_is_an_empty_list():
    settings = load_settings(environment={"ADAPTIVE_MOE__GAPS__SOURCES": ""})
    assert settings.gaps.sources == ()


@pytest.mark.parametrize("text", ["2024-13-45", "a\udcff", "@docs"])
def test_a_value_that_is_no_yaml_is_meant_as_it_stands(text):
    settings = load_settings(overrides=[f"store={text}"], environment={})
    assert settings.store == Path(text)


def test_bombs_are_refused_before_they_unfold(tmp_path):
    aliases = "a: &a [1]\nb: [" + ", ".join(["*a"] * 200) + "]\n"
    nested = "a: " + "[" * 200 + "]" * 200
    for text in (aliases, nested, "a: '" + "x" * 2_000_000 + "'"):
        file = tmp_path / "bomb.yaml"
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=r"bomb\.yaml"):
            load_settings(file, environment={})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: cannot be read"):
        load_settings(tmp_path / "absent.yaml")


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_settings(environment={}).router.threshold = 0.5


def test_filters_are_chosen_by_names_that_there_are():
    settings = load_settings(overrides=["training.filters=[secrets, length]"], environment={})
    assert settings.training.filters == ("secrets", "length")
    with pytest.raises(ConfigurationError, match=r"training\.filters: write all, none, or some of"):
        load_settings(overrides=["training.filters=[secret]"], environment={})


@pytest.mark.parametrize("mix", ["[1, .inf, 0]", "[1, .nan, 0]", "[1e-9, 1, 0]", "[0, 1, 1]"])
def test_a_mix_without_end_is_refused(mix):
    with pytest.raises(ConfigurationError, match="mix"):
        load_settings(overrides=[f"training.mix={mix}"], environment={})


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("adalora", "changes its ranks while it trains .* a trained lambda .* truncate"),
        ("DoRA", "every column of the frozen weight by a trained magnitude, .* no low-rank sum"),
    ],
)
def test_a_method_of_elsewhere_is_refused_with_the_reason(tmp_path, method, reason):
    file = tmp_path / "foreign.yaml"
    file.write_text(f"training: {{ranks: {method}}}\n")
    with pytest.raises(ConfigurationError, match=rf"foreign\.yaml: training\.ranks: .*{reason}"):
        load_settings(file, environment={})
    with pytest.raises(ConfigurationError, match="Input should be 'fixed'"):
        load_settings(overrides=["training.ranks=best"], environment={})
