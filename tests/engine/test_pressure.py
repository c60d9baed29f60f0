"""When memory runs out: idle experts go, the batch is halved, then a clear error; never a wreck."""

import json
from contextlib import contextmanager

import pytest
import torch

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.events import Finished, Token
from adaptive_moe.errors import InsufficientMemoryError

PROMPTS = [
    "What is the capital of France?",
    "What is the opposite of hot?",
    "What is the capital of Japan?",
    "What is the symbol of iron, and which planet is the largest one?",
    "hello",
]
ROWS = [{"prompt": f"What is the colour of {n}?", "response": f"blue {n}"} for n in range(24)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one expert of the pocket model, trained for a single step in float32."""
    folder = tmp_path_factory.mktemp("pressure")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    quick = ["training.max_steps=1", "training.rank=2", "training.guard_prompts=0"]
    settings = load_settings(overrides=[f"store={folder / 'store'}", *quick])
    with AdaptiveMoE.from_settings(settings) as moe:
        outcome = moe.train_expert("colours", rows, force=True)
        moe.store.activate(outcome.record.expert_id)
    return folder / "store"


@pytest.fixture(scope="module")
def moe(store):
    with AdaptiveMoE.from_pretrained(store=store) as runtime:
        yield runtime


class Device:
    """What the model finds: how many rows by columns fit, and what was tried."""

    def __init__(self, is_full):
        self._is_full = is_full
        self.tried = []

    def __call__(self, _model, arguments, keywords):
        rows, width = arguments[0].shape
        width += keywords["past_key_values"].get_seq_length()
        self.tried.append(rows)
        if self._is_full(rows, width):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


@contextmanager
def short_of_memory(moe, is_full):
    """The model's forward pass fails as torch does on a full device."""
    device = Device(is_full)
    hook = moe.language_model.model.register_forward_pre_hook(device, with_kwargs=True)
    try:
        yield device
    finally:
        hook.remove()


def texts(answers):
    return [answer.text for answer in answers]


def test_a_batch_that_does_not_fit_is_answered_in_parts(moe):
    expected = texts(moe.generate(PROMPTS))
    with short_of_memory(moe, lambda rows, _: rows > 2) as device:
        assert texts(moe.generate(PROMPTS)) == expected
    assert max(device.tried) == 5
    assert {1, 2, 3} <= set(device.tried)


def test_a_cache_that_grows_too_large_halves_the_batch_too(moe):
    questions = PROMPTS[:4]
    expected = texts(moe.generate(questions, min_new_tokens=12, max_new_tokens=12))
    widest = max(moe.language_model.encode(each).length for each in questions)
    with short_of_memory(moe, lambda rows, width: rows > 2 and width > widest + 4) as device:
        found = texts(moe.generate(questions, min_new_tokens=12, max_new_tokens=12))
    assert found == expected
    assert {2, 4} <= set(device.tried)


def test_experts_in_a_halved_batch_answer_as_before(moe):
    expected = moe.generate(PROMPTS, experts=["colours"], max_new_tokens=4)
    with short_of_memory(moe, lambda rows, _: rows > 1):
        found = moe.generate(PROMPTS, experts=["colours"], max_new_tokens=4)
    assert texts(found) == texts(expected)
    assert all(answer.route.kind == "experts" for answer in found)


def test_idle_experts_leave_before_the_batch_is_halved(moe):
    moe.generate(PROMPTS[0], experts=["colours"])
    assert moe.cache_statistics().device_experts == 1
    is_full = lambda *_: moe.cache_statistics().host_bytes > 0  # noqa: E731
    with short_of_memory(moe, is_full) as device:
        answers = moe.generate(PROMPTS[:2])
    assert texts(answers) == texts(moe.generate(PROMPTS[:2]))
    assert set(device.tried) == {2}
    assert moe.cache_statistics().device_experts == 0
    assert moe.generate(PROMPTS[0], experts=["colours"]).route.kind == "experts"


def test_what_does_not_fit_at_all_is_a_clear_error_and_the_next_prompt_works(moe):
    expected = texts(moe.generate(PROMPTS))
    with (
        short_of_memory(moe, lambda *_: True),
        pytest.raises(InsufficientMemoryError, match="single prompt"),
    ):
        moe.generate(PROMPTS)
    assert texts(moe.generate(PROMPTS)) == expected


def test_a_stream_that_has_spoken_is_not_begun_again(moe):
    length = moe.language_model.encode(PROMPTS[0]).length
    told = []
    with (
        short_of_memory(moe, lambda _, width: width > length + 6),
        pytest.raises(InsufficientMemoryError, match="in the middle of an answer"),
    ):
        told.extend(moe.stream(PROMPTS[0], min_new_tokens=20, max_new_tokens=20))
    with short_of_memory(moe, lambda *_: False):
        again = list(moe.stream(PROMPTS[0], min_new_tokens=20, max_new_tokens=20))
    assert isinstance(again[-1], Finished)
    assert told == again[: len(told)]
    assert any(isinstance(event, Token) for event in told)


def test_a_stream_that_has_not_spoken_is_begun_again(moe):
    moe.generate(PROMPTS[0], experts=["colours"])
    with short_of_memory(moe, lambda *_: moe.cache_statistics().host_bytes > 0):
        events = list(moe.stream(PROMPTS[0]))
    assert "".join(event.text for event in events if isinstance(event, Token)) == "Paris"
    assert sum(isinstance(event, Finished) for event in events) == 1


def test_a_stream_left_early_leaves_the_model_free(moe):
    stream = moe.stream(PROMPTS[0], experts=["colours"], min_new_tokens=20, max_new_tokens=20)
    next(event for event in stream if isinstance(event, Token))
    stream.close()
    assert moe.generate(PROMPTS[0], experts=None).text == "Paris"


def test_other_failures_pass_as_they_are(moe):
    def fail(*_):
        raise RuntimeError("shape mismatch")

    hook = moe.language_model.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        moe.generate(PROMPTS)
    hook.remove()
    assert moe.generate(PROMPTS[0]).text == "Paris"


def test_an_expert_from_another_precision_is_used_with_a_remark(moe, store):
    said = moe.generate(PROMPTS[0], experts=["colours"]).route.reasons
    assert not any("float" in reason for reason in said)
    with AdaptiveMoE.from_pretrained(store=store, dtype="bf16") as other:
        assert other.language_model.dtype is torch.bfloat16
        answer = other.generate(PROMPTS[0], experts=["colours"], max_new_tokens=2)
    assert answer.route.kind == "experts"
    assert answer.route.reasons[-1] == (
        "expert colours was trained on this base in float32, which runs in bfloat16 now"
    )
