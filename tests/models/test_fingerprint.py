"""A base keeps its name however it is run, and loses it when anything of it changes."""

import json
import struct

import pytest
import torch

from adaptive_moe.errors import UnsupportedModelError
from adaptive_moe.models.fingerprint import base_id
from tests.support.tiny_models import save_tiny, tiny_model, tiny_tokenizer

# GPT-NeoX stores its head under another name than it holds it.
SAME_NAMES = ["llama", "gpt2", "gemma", "opt", "bloom", "phi3"]


@pytest.fixture
def folder(tmp_path):
    return save_tiny("llama", tmp_path / "llama")


def test_it_looks_like_a_digest(folder):
    identity = base_id(folder, tiny_tokenizer())
    assert identity.startswith("sha256:")
    assert len(bytes.fromhex(identity.removeprefix("sha256:"))) == 32


@pytest.mark.parametrize("architecture", SAME_NAMES)
def test_files_and_memory_agree(architecture, tmp_path):
    model, tokenizer = tiny_model(architecture)
    assert base_id(save_tiny(architecture, tmp_path), tokenizer) == base_id(model, tokenizer)


def test_shards_do_not_matter(folder, tmp_path):
    model, tokenizer = tiny_model("llama")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert base_id(tmp_path / "sharded", tokenizer) == base_id(folder, tokenizer)


def test_how_a_model_is_run_does_not_matter(folder):
    before = base_id(folder, tiny_tokenizer())
    config = json.loads((folder / "config.json").read_text())
    config |= {"dtype": "bfloat16", "_name_or_path": "elsewhere", "transformers_version": "9"}
    (folder / "config.json").write_text(json.dumps(config))
    assert base_id(folder, tiny_tokenizer()) == before


def test_one_changed_weight_matters():
    model, tokenizer = tiny_model("llama")
    before = base_id(model, tokenizer)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    assert base_id(model, tokenizer) != before


def test_config_tokenizer_and_template_matter(folder):
    tokenizer = tiny_tokenizer()
    before = base_id(folder, tokenizer)
    tokenizer.chat_template += " "
    assert base_id(folder, tokenizer) != before
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][5]["content"] = "<|robot|>"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with_tokens = base_id(folder, tiny_tokenizer())
    assert with_tokens != before
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    assert base_id(folder, tiny_tokenizer()) != with_tokens


def test_a_callers_padding_and_truncation_do_not_matter(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    before = base_id(folder, tiny_tokenizer())
    content["truncation"] = {"max_length": 5}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert base_id(folder, tiny_tokenizer()) == before


def test_a_large_tensor_is_sampled_from_its_first_to_its_last_byte(folder):
    model, tokenizer = tiny_model("llama")
    table = torch.zeros(300, 400)
    model.register_buffer("table", table)
    seen = {base_id(model, tokenizer)}
    for place in ((0, 0), (299, 399)):
        table[place] = 1.0
        seen.add(base_id(model, tokenizer))
    assert len(seen) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 4) + b"no js",
        b"\0" * 99,
    ],
)
def test_a_damaged_checkpoint_is_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=r"model\.safetensors"):
        base_id(folder, tiny_tokenizer())


def test_a_tensor_outside_its_file_is_refused(folder):
    header = json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UnsupportedModelError, match="outside"):
        base_id(folder, tiny_tokenizer())
