"""The whole story on the pocket model: notice, learn, route, attribute, leave the rest alone."""

import shutil

import numpy as np
import pytest
import torch

from adaptive_moe import AdaptiveMoE
from adaptive_moe.errors import DataError, StoreError
from adaptive_moe.gaps.states import GapState
from tests.flows.lighthouses import ISLES, settings, write_material

KNOWN = (
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is the opposite of hot?",
)


def logits_of(moe, prompts=KNOWN):
    model = moe.language_model
    rows = []
    for prompt in prompts:
        encoded = model.encode(prompt)
        ids = torch.tensor([[*encoded.prompt_ids, *encoded.header_ids]])
        with torch.inference_mode():
            rows.append(model.model(ids, use_cache=False).logits)
    return rows


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The story, told once: what was seen at every step."""
    folder = tmp_path_factory.mktemp("story")
    material = write_material(folder / "material")
    with AdaptiveMoE.from_settings(settings(folder)) as moe:
        seen = {"logits before": logits_of(moe)}
        seen["known before"] = moe.generate(KNOWN[0])
        seen["unknown before"] = moe.generate("Who is the keeper of Tarvik?")
        seen["outcome"] = moe.train_expert("lights", [material])
        seen["unknown after"] = moe.generate("What is the keeper of Tarvik?")
        seen["later turn"] = moe.generate(
            [
                {"role": "user", "content": KNOWN[0]},
                {"role": "assistant", "content": "Paris"},
                {"role": "user", "content": "What is the keeper of Tarvik?"},
            ]
        )
        seen["batch after"] = moe.generate([f"Which keeper does {each} have?" for each in ISLES])
        seen["known after"] = moe.generate(KNOWN[0])
        seen["logits after"] = logits_of(moe)
        seen["store"] = folder / "store"
        yield seen


def test_a_known_question_is_answered_by_the_base_and_surely(told):
    answer = told["known before"]
    assert answer.text == "Paris"
    assert answer.route.kind == "base"
    assert not answer.low_confidence


def test_an_unknown_question_is_marked_and_becomes_evidence(told):
    answer = told["unknown before"]
    assert answer.low_confidence
    assert answer.gap is not None
    assert answer.attribution is None


def test_the_gate_lets_the_expert_in_with_figures(told):
    outcome = told["outcome"]
    assert outcome.is_live, outcome.record.reason
    assert outcome.report.held_out.exact_before <= 0.05
    assert outcome.report.held_out.exact_after >= 0.8
    assert outcome.record.manifest.gate["held_out_base_right"] == 0
    assert outcome.report.guard.items == 80
    assert outcome.report.guard.bound <= 0.05
    assert outcome.result.loss_after < outcome.result.loss_before


def test_the_expert_answers_from_then_on(told):
    right = [
        answer.text == keeper
        for answer, keeper in zip(told["batch after"], ISLES.values(), strict=True)
    ]
    assert np.mean(right) >= 0.8
    assert all(answer.route.kind == "experts" for answer in told["batch after"])


def test_a_later_turn_of_a_conversation_is_routed_like_a_first_one(told):
    assert told["later turn"].route.experts == told["unknown after"].route.experts
    assert told["later turn"].text == "Olen"


def test_shares_add_up_to_what_the_expert_changed(told):
    answer = told["unknown after"]
    attribution = answer.attribution
    assert attribution.experts == ("lights",)
    assert len(attribution.shares) == len(answer.tokens)
    np.testing.assert_allclose(
        attribution.shares.sum(axis=1),
        attribution.routed_log_probability - attribution.base_log_probability,
        atol=1e-4,
    )
    recorded = answer.confidence.token_scores["log_probability"][: len(answer.tokens)]
    np.testing.assert_allclose(attribution.routed_log_probability, recorded, atol=1e-4)


def test_an_answer_is_traced_to_the_line_it_was_learned_from(told):
    source = told["unknown after"].attribution.sources[0]
    assert source.file.endswith("lighthouses.md")
    assert source.answer == "Olen"


def test_known_answers_and_base_logits_are_the_same_to_the_bit(told):
    assert told["known after"].text == told["known before"].text
    before = told["known before"].confidence.token_scores["log_probability"]
    assert told["known after"].confidence.token_scores["log_probability"] == before
    for old, new in zip(told["logits before"], told["logits after"], strict=True):
        assert torch.equal(old, new)


def test_an_answer_is_plain_json(told):
    import json

    plain = json.loads(json.dumps(told["unknown after"].to_dict()))
    assert plain["route"]["kind"] == "experts"
    assert len(plain["attribution"]["shares"]) == len(plain["tokens"])


def test_a_fresh_process_state_routes_alike(told, tmp_path):
    shutil.copytree(told["store"], tmp_path / "store")
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        answer = moe.generate("What is the keeper of Tarvik?")
    assert answer.text == told["unknown after"].text
    assert answer.route == told["unknown after"].route


def test_a_corrupt_expert_is_quarantined_and_the_base_answers(told, tmp_path):
    shutil.copytree(told["store"], tmp_path / "store")
    (weights,) = (tmp_path / "store/objects").glob("*/adapter_model.safetensors")
    flip(weights)
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        answer = moe.generate("What is the keeper of Tarvik?")
        assert answer.route.kind == "base"
        assert "quarantined" in answer.route.reasons[0]
        assert moe.store.versions("lights")[0].status == "quarantine"


def damaged(told, tmp_path, name):
    """A copy of the store in which one bit of an expert's file is another one."""
    shutil.copytree(told["store"], tmp_path / "store")
    (file,) = (tmp_path / "store/objects").glob(f"*/{name}")
    flip(file)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["domain.safetensors", "rows.jsonl", "rows.safetensors"])
def test_no_damaged_file_of_an_expert_is_routed_by(told, tmp_path, name):
    damaged(told, tmp_path, name)
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        assert moe.generate("What is the keeper of Tarvik?").route.kind == "base"
        (version,) = moe.store.versions("lights")
        assert version.status == "quarantine"
        assert f"{name} was changed on disk" in version.reason


def test_rows_damaged_in_use_cost_the_sources_and_the_next_answer_is_the_bases(told, tmp_path):
    shutil.copytree(told["store"], tmp_path / "store")
    (rows,) = (tmp_path / "store/objects").glob("*/rows.jsonl")
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        moe.experts["lights"]
        moe.generate(KNOWN[0])
        rows.write_text("not rows")
        answer = moe.generate("What is the keeper of Tarvik?")
        assert (answer.text, answer.attribution.sources) == ("Olen", ())
        assert moe.generate("What is the keeper of Tarvik?").route.kind == "base"


def test_an_expert_that_was_chosen_is_trusted_less_than_one_that_was_named(told, tmp_path):
    shutil.copytree(told["store"], tmp_path / "store")
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        chosen = moe.generate("What is the keeper of Tarvik?")
        named = moe.generate("What is the keeper of Tarvik?", experts=["lights"])
    assert chosen.text == named.text
    assert chosen.confidence.p_correct < named.confidence.p_correct


def test_where_nothing_can_be_written_a_damaged_expert_is_out_of_service_all_the_same(
    told, tmp_path, monkeypatch
):
    damaged(told, tmp_path, "domain.safetensors")
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:

        def refuse(*_):
            raise StoreError("the store is read-only")

        monkeypatch.setattr(moe.store, "quarantine", refuse)
        for _ in range(2):
            assert moe.generate("What is the keeper of Tarvik?").route.kind == "base"
        assert "lights" not in moe.experts


def test_a_guard_file_is_read_before_the_training(tmp_path):
    chosen = settings(tmp_path, f"training.guard={tmp_path / 'missing.jsonl'}")
    material = write_material(tmp_path / "material", count=6)
    with AdaptiveMoE.from_settings(chosen) as moe:
        with pytest.raises(DataError, match=r"missing\.jsonl"):
            moe.train_expert("lights", [material])
        assert not (tmp_path / "store" / "training").exists()


def test_base_logits_survive_two_experts_added_used_evicted_and_removed(told, tmp_path):
    shutil.copytree(told["store"], tmp_path / "store")
    with AdaptiveMoE.from_settings(settings(tmp_path, "cache.device_experts=1")) as moe:
        expert = moe.experts["lights"]
        moe.export_expert("lights", tmp_path / "copy")
        second = moe.import_expert("second", tmp_path / "copy")
        moe.store.activate(second.expert_id)
        moe.generate(KNOWN[1], experts=["lights"])
        by_import = moe.generate(KNOWN[1], experts=["second"])
        assert not by_import.confidence.calibrated
        assert moe.cache_statistics().evictions == 1
        moe.store.remove("lights")
        moe.store.remove("second")
        assert expert.name not in moe.experts
        left = moe.cache_statistics()
        assert (left.device_experts, left.device_bytes, left.host_bytes) == (0, 0, 0)
        for old, new in zip(told["logits before"], logits_of(moe), strict=True):
            assert torch.equal(old, new)


@pytest.mark.slow
def test_prompts_alone_verify_a_gap_train_an_expert_and_route_to_it(tmp_path):
    """Nobody asks for a training: a worker fills the gap."""
    material = write_material(tmp_path / "material")
    chosen = settings(tmp_path, "gaps.on_verified=train", f"gaps.sources=[{material}]")
    with AdaptiveMoE.from_settings(chosen) as moe:
        for light in list(ISLES)[:12]:
            moe.generate(f"Which keeper does {light} have?")
        assert moe.gaps.wait(timeout_seconds=240.0)
        (gap,) = (gap for gap in moe.gaps.list() if gap.state is GapState.FILLED)
        answer = moe.generate("What is the keeper of Harrowby?")
    assert answer.route.kind == "experts"
    assert answer.route.experts[0].name == gap.expert
    assert answer.text == "Signe"
