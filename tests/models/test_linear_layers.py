"""Every linear layer of every architecture is found once and named by what it does."""

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.models.linear_layers import blocks_path, census, select
from tests.support.tiny_models import ARCHITECTURES, tiny_model

LLAMA = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"} | {
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}
FUSED = {"query_key_value": "qkv", "dense": "output"} | {
    "dense_h_to_4h": "up",
    "dense_4h_to_h": "down",
}
EXPECTED = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2"), LLAMA),
    **dict.fromkeys(("gpt_neox", "falcon", "bloom"), FUSED),
    "phi": {"q_proj": "query", "k_proj": "key", "v_proj": "value", "dense": "output"}
    | {"fc1": "up", "fc2": "down"},
    "phi3": {"qkv_proj": "qkv", "o_proj": "output", "gate_up_proj": "gate_up"}
    | {"down_proj": "down"},
    "gpt2": {"attn.c_attn": "qkv", "attn.c_proj": "output"}
    | {"mlp.c_fc": "up", "mlp.c_proj": "down"},
    "gpt_neo": {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    | {"c_fc": "up", "c_proj": "down"},
    "opt": {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    | {"fc1": "up", "fc2": "down"},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kinds_follow_the_path_in_every_block(architecture):
    layers = census(tiny_model(architecture)[0])
    for depth in (0, 1):
        found = {layer.name: layer.kind for layer in layers if layer.depth == depth}
        assert len(found) == len(EXPECTED[architecture])
        for ending, kind in EXPECTED[architecture].items():
            assert [k for name, k in found.items() if name.endswith(f".{ending}")] == [kind]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_are_those_of_the_maps(architecture):
    model, _ = tiny_model(architecture)
    for layer in census(model):
        module = model.get_submodule(layer.name)
        rows, columns = module.weight.shape
        if isinstance(module, Conv1D):
            rows, columns = columns, rows
        assert (layer.out_features, layer.in_features) == (rows, columns)
        assert layer.cost == rows + columns


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_and_embeddings_are_left_out(architecture):
    model, _ = tiny_model(architecture)
    names = {layer.name for layer in census(model)}
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    assert linear - names == {"lm_head"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_stack_of_blocks_is_found(architecture):
    model, _ = tiny_model(architecture, layers=4)
    blocks = model.get_submodule(blocks_path(census(model)))
    assert isinstance(blocks, nn.ModuleList)
    assert len(blocks) == 4


def test_attention_and_feed_forward_are_told_apart():
    layers = census(tiny_model("gpt2")[0])
    assert [x.name.rsplit("h.0.")[-1] for x in layers if x.is_attention and x.depth == 0] == [
        "attn.c_attn",
        "attn.c_proj",
    ]


def test_a_target_is_a_name_or_the_end_of_one():
    layers = census(tiny_model("gpt2")[0])
    assert select(layers, "all") == layers
    assert {x.name for x in select(layers, ["mlp.c_proj"])} == {
        "transformer.h.0.mlp.c_proj",
        "transformer.h.1.mlp.c_proj",
    }
    assert len(select(layers, ["c_proj"])) == 4
    assert len(select(layers, ["transformer.h.1.attn.c_attn"])) == 1


@pytest.mark.parametrize("targets", [["q_proj"], ["c_proj", "proj"], [], [""], [".*"]])
def test_a_target_that_matches_nothing_is_refused(targets):
    with pytest.raises(ConfigurationError, match="c_attn, c_fc, c_proj"):
        select(census(tiny_model("gpt2")[0]), targets)
