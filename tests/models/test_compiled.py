"""A compiled pass gives what an eager one gives, and serves all experts of one padded rank."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import GenerationConfig

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.compiled import CompiledSteps, can_compile, compiled_steps
from adaptive_moe.models.decoding import decode, forward, prefill, run_header
from adaptive_moe.models.loading import load_language_model
from adaptive_moe.models.prefilling import extend_mask
from tests.experts.reference import random_weights
from tests.support.tiny_models import ARCHITECTURES, save_tiny, tiny_language_model

QUESTIONS = ("hi", "the symbol of iron is", "in the other land")
COMPILED = tuple(name for name in ARCHITECTURES if can_compile(tiny_language_model(name)))
RANKS = (3, 7, 1, 5)


pytestmark = pytest.mark.usefixtures("compilable")


def world(architecture="llama"):
    model = tiny_language_model(architecture)
    bank = LoraBank(model.model, model.layers, capacity_bytes=1 << 20, dtype=torch.float32)
    for number, rank in enumerate(RANKS):
        bank.load(f"e{number}", random_weights(model.layers, seed=number, ranks=(rank, 0, rank)))
    return model, bank


def tokens(model, bank, rows, *, compiled=None, questions=QUESTIONS, new_tokens=5):
    filled = prefill(model, [model.encode(question) for question in questions])
    with bank.activate(rows, static=compiled is not None):
        cache, logits = filled.header_cache, filled.first_logits
        if any(rows):
            cache, logits = run_header(model, filled)
        *_, last = decode(
            model,
            cache,
            logits,
            attention_mask=filled.attention_mask,
            prompts=filled.prompts,
            generation=GenerationConfig(max_new_tokens=new_tokens, eos_token_id=-1),
            compiled=compiled,
        )
    return [completion.token_ids for completion in last.completions]


def test_the_usual_architectures_can_be_compiled():
    assert {"llama", "qwen2", "qwen3", "phi3", "gpt_neox"} <= set(COMPILED)


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=[pytest.mark.slow] if name != "llama" else []) for name in COMPILED],
)
def test_tokens_are_those_of_eager_passes(architecture):
    model, bank = world(architecture)
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    batches = ([()] * 3, [(("e0", 1.0),), (), (("e1", 0.5), ("e2", 0.5))], [(("e3", 1.0),)])
    for rows in (*batches, *batches):
        questions = QUESTIONS[: len(rows)]
        expected = tokens(model, bank, rows, questions=questions)
        assert tokens(model, bank, rows, compiled=compiled, questions=questions) == expected
    assert counter.frame_count == 3  # the base, the base with experts, and one row of these


def test_switching_experts_compiles_nothing():
    model, bank = world()
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    batches = [
        [(("e0", 1.0),)] * 3,
        [(("e1", 1.0),), (("e2", 1.0),), (("e3", 1.0),)],
        [(("e3", 0.25), ("e2", 0.5)), (), (("e0", 1.0),)],
        [(), (("e2", 1.0),), ()],
    ]
    expected = [tokens(model, bank, rows) for rows in batches]
    for _ in range(2):
        found = [tokens(model, bank, rows, compiled=compiled) for rows in batches]
        assert found == expected
    assert counter.frame_count == 1


def test_an_expert_that_took_anothers_place_is_not_confused_with_it():
    model, bank = world()
    compiled = CompiledSteps(model, backend=CompileCounter())
    rows = [(("e0", 1.0),)] * 3
    before = tokens(model, bank, rows, compiled=compiled)
    bank.evict("e0")
    bank.load("e0", random_weights(model.layers, seed=9, ranks=(3,)))
    after = tokens(model, bank, rows, compiled=compiled)
    assert after == tokens(model, bank, rows)
    assert after != before


def test_lengths_within_one_cache_and_other_prompts_compile_nothing():
    model, bank = world()
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    for questions in (QUESTIONS, QUESTIONS[::-1], ("a longer one than any other here",) * 3):
        rows = [()] * len(questions)
        found = tokens(model, bank, rows, compiled=compiled, questions=questions)
        assert found == tokens(model, bank, rows, questions=questions)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_a_size_that_lost_its_memory_is_not_compiled_again():
    model, _ = world()
    row_bytes = 4 * sum(layer.cost for layer in model.layers)
    bank = LoraBank(model.model, model.layers, capacity_bytes=9 * row_bytes, dtype=torch.float32)
    bank.load("e0", random_weights(model.layers, seed=0, ranks=(3,)))
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    for batch in (1, 2, 1, 2):  # one row of rank 8 is kept, or two
        rows, questions = [(("e0", 1.0),)] * batch, QUESTIONS[:batch]
        expected = tokens(model, bank, rows, questions=questions)
        assert tokens(model, bank, rows, compiled=compiled, questions=questions) == expected
        assert compiled.forget()
    assert counter.frame_count == 2


def test_cuda_graphs_need_copy_nothing_but_what_changes_from_token_to_token():
    """They copy each input whose address may change: neither weights, experts nor keys."""
    copied = set()

    def backend(graph, inputs):
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        for node, each in zip(places, inputs, strict=True):
            if "_dynamo_static_input_type" not in node.meta["tensor_dict"]:
                copied.add(tuple(each.shape))
        return graph.forward

    model, bank = world()
    tokens(model, bank, [(("e0", 1.0),)] * 3, compiled=CompiledSteps(model, backend=backend))
    assert copied == {(3, 1), (3, 1, 1, 256)}  # ids and positions, and the mask


def test_caches_are_doubled_so_that_few_lengths_are_compiled():
    model, _ = world()
    compiled = CompiledSteps(model, backend=CompileCounter())
    filled = prefill(model, [model.encode("hi")])
    assert compiled.allocated_bytes == 0
    assert not compiled.forget()
    token_bytes = 2 * 2 * 2 * 8 * 4  # layers, key and value, heads, width of each, float32
    for room, kept in ((200, 256), (1, 256), (600, 256 + 1024), (900, 256 + 1024)):
        compiled.begin(filled.header_cache, None, room=room)
        assert compiled.allocated_bytes == kept * token_bytes
    compiled.begin(filled.header_cache, None, room=300)
    assert compiled.allocated_bytes == (1024 + 512) * token_bytes
    assert compiled.forget()
    assert compiled.allocated_bytes == 0


@pytest.mark.slow
def test_another_batch_size_or_a_larger_rank_is_compiled_for_itself():
    """However many there are: torch by itself would give up after a few, here after one."""
    model, bank = world()
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    bank.load("wide", random_weights(model.layers, seed=7, ranks=(12,)))
    with torch.compiler.config.patch(recompile_limit=1):
        tokens(model, bank, [(("e0", 1.0),)] * 3, compiled=compiled)
        tokens(model, bank, [(("e0", 1.0),)], compiled=compiled, questions=QUESTIONS[:1])
        assert counter.frame_count == 2
        tokens(model, bank, [(("wide", 1.0),)] * 3, compiled=compiled)
        assert counter.frame_count == 3
        tokens(model, bank, [(("e1", 1.0),)] * 3, compiled=compiled)
        assert counter.frame_count == 3


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [("mistral", "attention is full"), ("bloom", "no positions"), ("gpt_neo", "not made for it")],
)
def test_a_model_that_cannot_be_compiled_goes_on_without_and_says_why(architecture, reason, caplog):
    model = tiny_language_model(architecture)
    assert not can_compile(model)
    assert compiled_steps(model, wanted=False) is None
    assert not caplog.text
    assert compiled_steps(model, wanted=True) is None
    assert reason in caplog.text


def test_positions_that_are_read_off_the_mask_cannot_be_compiled():
    model = tiny_language_model("falcon")
    assert can_compile(model)
    model.model.config.alibi = True
    assert not can_compile(model)


def test_a_model_on_two_devices_is_not_compiled():
    model = tiny_language_model()
    model.model.lm_head.to("meta")
    assert not can_compile(model)


@pytest.mark.filterwarnings("ignore")  # transformers and bitsandbytes warn about themselves
@pytest.mark.slow
def test_a_4_bit_base_is_compiled_as_a_whole_and_an_8_bit_one_is_not(tmp_path):
    folder = str(save_tiny("llama", tmp_path))
    assert not can_compile(load_language_model(folder, quantization="int8", device="cpu"))
    model = load_language_model(folder, quantization="nf4", device="cpu")
    bank = LoraBank(model.model, model.layers, capacity_bytes=1 << 20, dtype=torch.float32)
    bank.load("e0", random_weights(model.layers, seed=0, ranks=(3,)))
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    rows = [(("e0", 1.0),), (), (("e0", 0.5),)]
    assert tokens(model, bank, rows, compiled=compiled) == tokens(model, bank, rows)
    assert counter.frame_count == 1


def along(model, bank, rows, *, compiled):
    """The logits of every step along an answer that is given, in float32."""
    ids = torch.randint(3, 300, (len(rows), 6), generator=torch.Generator().manual_seed(3))
    filled = prefill(model, [model.encode(question) for question in QUESTIONS * 3][: len(rows)])
    lengths = torch.tensor([prompt.length for prompt in filled.prompts])[:, None]
    found = []
    with bank.activate(rows, static=compiled is not None), torch.inference_mode():
        cache, logits = run_header(model, filled)
        mask = extend_mask(filled.attention_mask, cache.get_seq_length() + ids.shape[1])
        run = None if compiled is None else compiled.begin(cache, mask, room=ids.shape[1])
        for step, token in enumerate(ids.to(model.device).split(1, dim=1)):
            positions = (lengths + step).to(model.device)
            if run is None:
                seen = mask[:, : cache.get_seq_length() + 1]
                logits = forward(
                    model, token, cache=cache, attention_mask=seen, positions=positions
                )
            else:
                logits = run.step(token, positions)
            found.append(logits.float().cpu())
    return torch.stack(found)


def assert_no_farther_from_float32_than_eager(device, **options):
    rows = [(("e0", 1.0),), (), (("e1", 1.0),), (("e0", 0.5), ("e1", 0.5))] * 2
    found = {}
    for kind in ("exact", "eager", "quick"):
        dtype = torch.float32 if kind == "exact" else torch.bfloat16
        model, _ = world()
        model.model.to(device, dtype)
        bank = LoraBank(model.model, model.layers, capacity_bytes=1 << 20, dtype=dtype)
        for number in range(2):
            weights = random_weights(model.layers, seed=number, ranks=(5, 9))
            bank.load(f"e{number}", weights)
        compiled = CompiledSteps(model, **options) if kind == "quick" else None
        found[kind] = along(model, bank, rows, compiled=compiled)
    eager, quick = ((found[kind] - found["exact"]).abs() for kind in ("eager", "quick"))
    assert quick.mean() <= 1.5 * eager.mean()
    assert quick.max() <= 2 * eager.max()


@pytest.mark.slow
def test_eight_rows_in_bfloat16_are_no_farther_from_float32_than_eager():
    assert_no_farther_from_float32_than_eager("cpu", backend=CompileCounter())


@pytest.mark.gpu
def test_on_cuda_eight_rows_in_bfloat16_are_no_farther_from_float32_than_eager():
    assert_no_farther_from_float32_than_eager("cuda")


@pytest.mark.gpu
def test_on_cuda_compiled_tokens_are_those_of_eager_passes():
    model, _ = world()
    model.model.to("cuda")
    bank = LoraBank(model.model, model.layers, capacity_bytes=1 << 20, dtype=torch.float32)
    for number in range(2):
        bank.load(f"e{number}", random_weights(model.layers, seed=number, ranks=(5,)))
    compiled = CompiledSteps(model)
    for rows in ([()] * 3, [(("e0", 1.0),), (), (("e1", 1.0),)], [(("e1", 1.0),)] * 3):
        assert tokens(model, bank, rows, compiled=compiled) == tokens(model, bank, rows)
