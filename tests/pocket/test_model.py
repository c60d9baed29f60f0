"""The stored pocket model loads, speaks its template, knows France; its card is true."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adaptive_moe.pocket import load_facts, load_questions, model_path, pack_names, questions
from adaptive_moe.pocket.card import CARD_NAME, FIGURES_NAME, render_card
from adaptive_moe.pocket.corpus import Row
from adaptive_moe.pocket.encoding import encode_rows
from adaptive_moe.pocket.measuring import Figures, accuracy, ask, load
from adaptive_moe.pocket.tokenizer import HEADER, SPECIAL_TOKENS

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def pocket() -> Loaded:
    return load(model_path())


@pytest.fixture(scope="module")
def figures() -> Figures:
    return Figures(**json.loads((model_path() / FIGURES_NAME).read_text()))


@pytest.mark.parametrize(
    "text", ["What is 404?", "Paris", " two  spaces ", "café ñandú 東京", "a\n\tb\n", "", "<x>?!"]
)
def test_decoding_gives_back_what_was_encoded(pocket: Loaded, text: str) -> None:
    tokenizer = pocket[1]
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_stand_alone(pocket: Loaded) -> None:
    tokens = pocket[1].tokenize("in 1984 or 404")
    assert sum(token.strip("Ġ").isdigit() for token in tokens) == len("1984404")


def test_the_generation_header_is_special_tokens_only(pocket: Loaded) -> None:
    tokenizer = pocket[1]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    without = tokenizer.apply_chat_template(chat, tokenize=False)
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == without + "".join(HEADER)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[-len(HEADER) :]) == list(HEADER)
    assert set(HEADER) <= set(tokenizer.all_special_tokens)


def test_training_rows_are_encoded_as_the_template_writes_them(pocket: Loaded) -> None:
    tokenizer = pocket[1]
    turns = (
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "What is 7 times 8?"),
        ("assistant", "56"),
    )
    chat = [{"role": role, "content": text} for role, text in turns]
    expected = tokenizer.apply_chat_template(
        chat, return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = encode_rows([Row(turns)], tokenizer.backend_tokenizer, prompt_weight=0.1)[0]
    assert list(encoded.ids) == expected["input_ids"]
    assert [int(weight == 1) for weight in encoded.weights] == expected["assistant_masks"]


def test_a_foreign_role_is_refused(pocket: Loaded) -> None:
    with pytest.raises(Exception, match="roles are"):
        pocket[1].apply_chat_template([{"role": "tool", "content": "x"}])


def test_the_capital_of_france_is_paris(pocket: Loaded) -> None:
    asked = ask(*pocket, [("What is the capital of France?", "Paris")])[0]
    assert asked.given == "Paris"
    assert asked.first_token_entropy < 0.5


def test_greetings_are_answered(pocket: Loaded) -> None:
    hello, who = ask(*pocket, [("Hello", ""), ("Who are you?", "")])
    assert hello.given.startswith("Hello!")
    assert "tiny language model" in who.given


def test_a_sample_agrees_with_the_card(pocket: Loaded, figures: Figures) -> None:
    facts = [fact for fact in load_facts() if fact.exposure == 64][::8]
    rows = ask(*pocket, [(questions(fact)[0], fact.object) for fact in facts])
    assert abs(accuracy(rows) - figures.accuracy_trained["64"]) < 0.08


def test_pack_questions_are_not_known(pocket: Loaded, figures: Figures) -> None:
    for name in pack_names():
        assert figures.accuracy_packs[name] <= 0.05
    rows = [(row.question, row.answer) for row in load_questions(pack_names()[0])[::4]]
    assert accuracy(ask(*pocket, rows)) <= 0.1


def test_what_is_seen_more_often_is_known_better(figures: Figures) -> None:
    shares = list(figures.accuracy_trained.values())
    assert shares == sorted(shares)
    assert figures.accuracy_trained["64"] >= 0.95
    # The aim is 0.85; the card says whether it is reached. This floor guards against falling back.
    assert figures.accuracy_held_out["64"] >= 0.75
    assert 0.35 <= figures.accuracy_seen_1_4_16 <= 0.65


def test_the_card_holds_the_figures(figures: Figures) -> None:
    build = json.loads((model_path() / "build.json").read_text())
    assert (model_path() / CARD_NAME).read_text() == render_card(figures, build)
    assert figures.facts == len(load_facts())


def test_weights_are_small_and_half_precision(pocket: Loaded, figures: Figures) -> None:
    from safetensors import safe_open

    path = model_path() / "model.safetensors"
    assert path.stat().st_size <= 16_000_000
    with safe_open(path, framework="pt") as weights:
        dtypes = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert dtypes == {torch.float16}
    assert figures.parameters == sum(p.numel() for p in pocket[0].parameters())


def test_special_tokens_have_the_first_ids(pocket: Loaded) -> None:
    ids = pocket[1].convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(SPECIAL_TOKENS)))


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, adaptive_moe.pocket as p; p.load_facts(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
