"""A training can be stopped at any moment, at the gate too, and goes on where it stopped."""

import json

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.events import TrainingStep
from adaptive_moe.errors import ConfigurationError, TrainingInterruptedError
from adaptive_moe.training.stages import read_stages
from tests.support.tiny_models import save_tiny

STEPS = 3
ROWS = [{"prompt": f"What is the colour of {n}?", "response": f"blue {n}"} for n in range(60)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture
def open_runtime(tmp_path, model):
    """Opens the same base on a store named by the caller."""
    guard = tmp_path / "guard.jsonl"
    guard.write_text("".join(json.dumps({"prompt": f"{n}?", "answer": "x"}) + "\n" for n in "ab"))

    def open_on(store, *more):
        overrides = [
            f"base.id={model}",
            f"store={tmp_path / store}",
            f"training.max_steps={STEPS}",
            f"training.guard={guard}",
            "training.micro_batch_size=4",
            "training.rank=2",
            *more,
        ]
        return AdaptiveMoE.from_settings(load_settings(overrides=overrides))

    return open_on


class Watcher:
    """Notes the steps told, and says stop at the given question asked after the last step."""

    def __init__(self, *, stop_at: int | None = None):
        self.steps = []
        self.asked = 0
        self._stop_at = stop_at

    def listen(self, event):
        if isinstance(event, TrainingStep):
            self.steps.append(event.progress.step)

    def cancelled(self):
        if self.steps[-1:] != [STEPS]:
            return False
        self.asked += 1
        return self.asked == self._stop_at


def grow(moe, rows, watcher):
    return moe.train_expert(
        "colours", [rows], force=True, listener=watcher.listen, cancelled=watcher.cancelled
    )


def test_prepared_material_trains_the_same_expert_as_its_files(open_runtime, rows):
    with open_runtime("one") as moe:
        expected = moe.train_expert("colours", [rows], rank=1, limit=40, force=True)
    with open_runtime("other") as moe:
        prepared = moe.prepare_expert([rows], rank=1, limit=40)
        with pytest.raises(ConfigurationError, match="prepared already"):
            moe.train_expert("colours", prepared, rank=2)
        outcome = moe.train_expert("colours", prepared, force=True)
    assert len(prepared.material.rows) == 40
    assert outcome.record.expert_id == expected.record.expert_id
    stages = read_stages(outcome.record.folder)
    assert " ".join(stage.name for stage in stages) == (
        "reading filters duplicates contamination synthesis encoding split conversations"
    )
    assert stages == prepared.stages
    assert prepared.taught[: len(prepared.split.train)] == prepared.split.train
    assert 0 < stages[-1].left["after others"] == len(prepared.taught) - len(prepared.split.train)
    assert "material.json" in outcome.record.manifest.files


def test_empirical_is_another_name_for_gradient(open_runtime, rows):
    with open_runtime("store") as moe:
        one, other = (moe.plan_expert([rows], ranks=name) for name in ("gradient", "empirical"))
        assert one.ranks == other.ranks
        assert len(set(one.ranks.values())) > 1
        assert (one.strategy, other.strategy) == ("gradient", "empirical")
        with pytest.raises(
            ConfigurationError, match="ranks empirical: this is measured on training material"
        ):
            moe.plan_expert(ranks="empirical")


def test_the_gate_stops_between_any_two_batches_and_the_same_order_goes_on(open_runtime, rows):
    with open_runtime("first") as moe:
        grow(moe, rows, Watcher())  # what the base says unprompted is kept from now on
    with open_runtime("whole") as moe:
        unhurried = Watcher()
        expected = grow(moe, rows, unhurried)
        assert not (moe.store.root / "training" / "colours").exists()
    assert unhurried.asked >= 6  # states, guard, held-out answers before and after
    for stop_at in (1, unhurried.asked // 2, unhurried.asked):
        watcher = Watcher(stop_at=stop_at)
        with open_runtime("halting") as moe:
            with pytest.raises(TrainingInterruptedError, match="at the gate, nothing is published"):
                grow(moe, rows, watcher)
            assert moe.store.list() == ()
            assert list((moe.store.root / "staging").iterdir()) == []
            assert (moe.store.root / "training" / "colours").is_dir()
    assert watcher.steps == [STEPS]  # no step is taken twice
    with open_runtime("halting") as moe:
        outcome = grow(moe, rows, Watcher())
        assert outcome.record.expert_id == expected.record.expert_id
        assert not (moe.store.root / "training" / "colours").exists()


def test_a_damaged_version_stops_no_new_one_and_is_set_aside(open_runtime, rows):
    with open_runtime("damaged") as moe:
        first = moe.train_expert("colours", [rows], rank=1, limit=40, force=True)
        moe.store.activate(first.record.expert_id)
        file = moe.experts["colours"].folder / "adapter_model.safetensors"
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
        second = moe.train_expert("colours", [rows], rank=2, limit=40, force=True)
        assert second.report.versions is None
        assert moe.store.get("colours", version=1).status == "quarantine"


def test_a_new_version_is_compared_with_the_one_that_serves(open_runtime, rows):
    with open_runtime("versions") as moe:
        first = moe.train_expert("colours", [rows], rank=1, limit=40, force=True)
        assert first.report.versions is None
        moe.store.activate(first.record.expert_id)
        second = moe.train_expert("colours", [rows], rank=2, limit=40, force=True)
        assert second.report.versions.version == 1
        assert second.report.versions.examples == second.held_out


def test_an_automatic_budget_is_bounded_and_read_off_the_answers(open_runtime, rows):
    with open_runtime("auto") as moe:
        whole = moe.plan_expert([rows]).parameters
    settings = ("training.budget=auto", "training.auto_ranks=[3, 5]")
    with open_runtime("auto", *settings) as moe:
        plan = moe.plan_expert([rows])
        assert plan.reference_rank == 3  # a few colours are few bits
        assert plan.parameters * 2 == whole * 3
        with pytest.raises(ConfigurationError, match="budget auto: this is measured on training"):
            moe.plan_expert()
    with pytest.raises(ConfigurationError, match="auto_ranks"):
        open_runtime("auto", "training.auto_ranks=[5, 3]")


@pytest.mark.slow  # the base has to say 256 texts first
def test_known_and_general_rows_are_trained_along_with_the_bases_own_answers(open_runtime, rows):
    with open_runtime("plain") as moe:
        plain = moe.prepare_expert([rows])
    assert plain.rehearsal == ()
    with open_runtime("mixed", "training.mix=[6, 3, 1]") as moe:
        prepared = moe.prepare_expert([rows])
        asked = prepared.rehearsal[0]
        said = moe.generate(asked.prompt[-1][1], experts=None, max_new_tokens=32).text
        outcome = moe.train_expert("colours", prepared, force=True)
    new = len(prepared.split.train)
    forms = [example.form for example in prepared.rehearsal]
    assert (forms.count("known"), forms.count("general")) == (round(new / 2), round(new / 6))
    assert prepared.split == plain.split
    assert asked.answer == said
    assert outcome.examples == new
    assert outcome.record.manifest.data["rehearsed_examples"] == len(forms)


@pytest.mark.slow  # the base has to say 256 texts first
def test_what_measures_forgetting_is_not_rehearsed_on_an_ungraded_base(tmp_path, model, rows):
    overrides = [f"base.id={model}", f"store={tmp_path / 's'}", "training.guard_prompts=20"]
    overrides += ["training.mix=[1, 20, 4]", "training.rank=2"]
    with AdaptiveMoE.from_settings(load_settings(overrides=overrides)) as moe:
        prepared = moe.prepare_expert([rows])
        judge = moe._grower._judge
        measured = {each.prompt[-1][1] for each in judge._general(moe.settings.training)}
    rehearsed = [each.prompt[-1][1] for each in prepared.rehearsal]
    assert len(measured) == 64
    assert rehearsed
    assert not [text for text in rehearsed if any(part in text for part in measured)]


def test_questions_are_trained_on_behind_others(open_runtime, rows):
    weights = {}
    for share in (0.0, 0.5):
        with open_runtime(f"share {share}", f"training.in_conversation={share}") as moe:
            weights[share] = moe.train_expert("colours", [rows], force=True).result.weights
    assert any(not pair.b.equal(weights[0.5][name].b) for name, pair in weights[0.0].items())


def test_what_the_base_knows_comes_before_questions_too(tmp_path, rows):
    settings = load_settings(overrides=["base.id=pocket", f"store={tmp_path / 'pocket'}"])
    with AdaptiveMoE.from_settings(settings) as moe:
        prepared = moe.prepare_expert([rows])
    own = {each.prompt[-1] for each in prepared.split.train}
    others = {turn for each in prepared.taught for turn in each.prompt[:-1:2]}
    assert others - own
    assert others & own
