"""A merged expert waits in quarantine, then answers by its name as its parents do together."""

import json

import pytest
import torch
from peft import PeftModel

from adaptive_moe import AdaptiveMoE
from adaptive_moe.errors import AdaptiveMoEError, CorruptExpertError, UnknownExpertError
from adaptive_moe.models.loading import load_language_model
from tests.cli.running import run
from tests.support.random_experts import add_expert

QUESTION = "What is the capital of France?"
TWO = ["one", "two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merging")
    with AdaptiveMoE.from_pretrained("pocket", store=folder / "store") as moe:
        for seed, name in enumerate(("one", "two", "three")):
            add_expert(moe, name, folder / name, seed=seed, stride=2)
        add_expert(moe, "whole", folder / "whole", seed=5, header=False)
    return folder


@pytest.fixture(scope="module")
def moe(folder):
    with AdaptiveMoE.from_pretrained("pocket", store=folder / "store") as runtime:
        yield runtime


def test_it_answers_as_its_parents_together(moe):
    record = moe.merge_experts("both", TWO)
    assert record.status == "quarantine"
    assert "both" not in moe.experts
    moe.store.activate(record.expert_id)
    asked = {"max_new_tokens": 6, "eos_token_id": -1}
    together = moe.generate(QUESTION, experts=["one", "two"], **asked)
    merged = moe.generate(QUESTION, experts=["both"], **asked)
    assert merged.text == together.text
    assert merged.confidence.scores["msp"] == pytest.approx(
        together.confidence.scores["msp"], abs=1e-3
    )
    told = record.manifest.training["merged"]
    assert [each["name"] for each in told["experts"]] == ["one", "two"]
    assert (told["method"], told["weights"], told["relative_error"]) == ("cat", [0.5, 0.5], 0.0)


def test_the_same_order_gives_the_same_expert(moe):
    first, second = (moe.merge_experts("again", TWO, method="svd", rank=2) for _ in range(2))
    assert first.expert_id == second.expert_id
    assert 0 < first.manifest.training["merged"]["relative_error"] < 1


@pytest.mark.parametrize("form", ["peft", "vllm"])
def test_plain_peft_reads_what_is_exported(moe, tmp_path, form):
    record = moe.merge_experts(f"for-{form}", ["one", "three"], weights=(1.5, -0.5))
    moe.store.activate(record.expert_id)
    moe.export_expert(record.name, tmp_path / "out", format=form)
    prompt = moe.language_model.encode(QUESTION)
    ids = torch.tensor([[*prompt.prompt_ids, *prompt.header_ids]])
    base = load_language_model("pocket").model
    with torch.inference_mode():
        theirs = PeftModel.from_pretrained(base, tmp_path / "out").eval()(ids).logits[:, -1]
    answer = moe.generate(QUESTION, experts=[record.name], max_new_tokens=1)
    recorded = answer.confidence.token_scores["log_probability"][0]
    assert float(theirs.log_softmax(-1).max()) == pytest.approx(recorded, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "experts", "how", "reason"),
    [
        ("x", ["one"], {}, "at least two"),
        ("x", ["one", "one"], {}, "each once"),
        ("x", TWO, {"weights": (1.0,)}, "1 weights for 2 experts"),
        ("x", TWO, {"weights": (1.0, float("nan"))}, "nan of two"),
        ("x", TWO, {"weights": ()}, "0 weights"),
        ("x", TWO, {"weights": (0, 0)}, "all weights are 0"),
        ("x", TWO, {"weights": ("much", "little")}, "a number for each"),
        ("x", TWO, {"method": "svd", "rank": 2.5}, "rank 2.5"),
        ("x", TWO, {"method": "svd", "seed": 1 << 70}, "seed"),
        ("x", TWO, {"method": "ties", "density": "half"}, "density 'half'"),
        ("x", "one", {}, "at least two"),
        ("x", TWO, {"weights": (1e200, 1e200)}, "infinite"),
        ("x", TWO, {"method": "mean"}, "method 'mean'"),
        ("x", TWO, {"rank": 4}, "cat keeps every rank"),
        ("x", TWO, {"method": "svd", "rank": 0}, "rank 0"),
        ("x", TWO, {"method": "ties", "density": 0.0}, "density"),
        ("x", ["one", "whole"], {}, "of one kind"),
        ("base", TWO, {}, "it is a route"),
    ],
)
def test_what_cannot_be_merged_is_refused_and_leaves_nothing(moe, name, experts, how, reason):
    before = len(moe.store.list())
    with pytest.raises(AdaptiveMoEError, match=reason):
        moe.merge_experts(name, experts, **how)
    assert len(moe.store.list()) == before


def test_weights_may_be_an_array(moe):
    record = moe.merge_experts("array", TWO, weights=torch.tensor([0.25, 0.75]).numpy())
    assert record.manifest.training["merged"]["weights"] == [0.25, 0.75]


def test_an_expert_that_is_not_there_is_named(moe):
    with pytest.raises(UnknownExpertError, match="nobody"):
        moe.merge_experts("x", ["one", "nobody"])


def test_a_damaged_parent_is_quarantined_and_nothing_is_written(tmp_path):
    with AdaptiveMoE.from_pretrained("pocket", store=tmp_path / "store") as moe:
        for seed, name in enumerate(("one", "two")):
            add_expert(moe, name, tmp_path / name, seed=seed)
        file = moe.experts["two"].folder / "adapter_model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.chmod(0o600)
        file.write_bytes(content)
        with pytest.raises(CorruptExpertError):
            moe.merge_experts("x", TWO)
        assert set(moe.experts) == {"one"}
        assert {record.name for record in moe.store.list()} == {"one", "two"}


def test_the_command_merges_and_tells(folder):
    words = ("experts", "merge", "sum", "one", "three", "--store", folder / "store", "--json")
    done = run(*words, "--method", "svd", "--rank", "2", "--weight", "1", "--weight", "0.5")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["name"], told["status"]) == ("sum", "quarantine")
    assert told["merged"]["weights"] == [1.0, 0.5]
    shown = run("experts", "show", "sum", "--version", "1", "--store", folder / "store")
    assert "merged" in shown.stdout
    wrong = run("experts", "merge", "sum", "one", "--store", folder / "store")
    assert wrong.exit_code == 2
    assert "at least two" in wrong.stderr
