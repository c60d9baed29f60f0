"""Folders load frozen in any precision, under one name, and what cannot load says so plainly."""

import json
import re
from pathlib import Path

import pytest
import torch

from adaptive_moe.config.settings import BaseModelSettings
from adaptive_moe.errors import (
    ConfigurationError,
    ModelNotFoundError,
    QuantizationError,
    UnsupportedModelError,
)
from adaptive_moe.models.fingerprint import Numerics
from adaptive_moe.models.loading import (
    choose_device,
    load_base,
    load_language_model,
    read_base_id,
)
from adaptive_moe.models.memory import resident_bytes
from tests.support.tiny_models import ARCHITECTURES, save_tiny, tiny_language_model, tiny_model

# transformers and bitsandbytes warn about themselves while they quantise.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path):
    return save_tiny("llama", tmp_path / "llama")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loads_with_its_own_logits(architecture, tmp_path):
    model, _ = tiny_model(architecture)
    loaded = load_language_model(str(save_tiny(architecture, tmp_path)), device="cpu")
    ids = torch.tensor([[7, 8, 9]])
    with torch.inference_mode():
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.numerics == Numerics("float32", None, "cpu")


def test_the_pocket_model_loads_by_its_name():
    pocket = load_language_model("pocket", device="cpu")
    assert pocket.numerics == Numerics("float32", None, "cpu")
    assert pocket.header_ids
    assert pocket.encode("What is the capital of France?").prompt_ids


def test_a_hub_model_is_read_from_the_cache_without_a_network(tmp_path, monkeypatch):
    commit = "0123456789" * 4
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    save_tiny("llama", repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = load_language_model("someone/tiny", device="cpu", local_files_only=True)
    assert loaded.base_id == tiny_language_model("llama").base_id
    assert read_base_id(BaseModelSettings(id="someone/tiny")) == loaded.base_id


def test_settings_say_what_is_loaded_and_how(folder):
    settings = BaseModelSettings(id=str(folder), dtype="bfloat16", device="cpu")
    loaded = load_base(settings)
    assert loaded.numerics == Numerics("bfloat16", None, "cpu")
    assert loaded.base_id == load_language_model(str(folder), device="cpu").base_id
    with pytest.raises(ModelNotFoundError):
        load_base(settings.model_copy(update={"id": "no-one/nothing", "local_files_only": True}))


@pytest.mark.parametrize("base", ["pocket", "folder", "folder of older weights"])
def test_a_base_is_identified_without_being_loaded(base, folder):
    if base != "pocket":
        tensors = tiny_model("llama")[0].state_dict()
        base = str(in_a_pickle(folder, tensors) if "older" in base else folder)
    settings = BaseModelSettings(id=base, device="cuda:99")
    assert read_base_id(settings) == load_language_model(base, device="cpu").base_id


def test_half_precision_files_are_cast_up_on_the_cpu(tmp_path):
    model, tokenizer = tiny_model("llama")
    model.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_language_model(str(tmp_path), device="cpu")
    assert loaded.dtype == torch.float32
    assert loaded.numerics.dtype == "float32"


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_another_dtype_keeps_the_identity(folder, name):
    full = load_language_model(str(folder), device="cpu")
    half = load_language_model(str(folder), device="cpu", dtype=name)
    assert half.dtype == torch.bfloat16
    assert half.base_id == full.base_id
    assert half.numerics == Numerics("bfloat16", None, "cpu")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("quantization", "kind"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")]
)
def test_quantised_on_the_cpu_it_keeps_identity_and_layers(
    architecture, quantization, kind, tmp_path
):
    folder = save_tiny(architecture, tmp_path)
    full = load_language_model(str(folder), device="cpu")
    small = load_language_model(str(folder), device="cpu", quantization=quantization)
    assert small.base_id == full.base_id
    assert small.layers == full.layers
    assert small.numerics == Numerics("float32", quantization, "cpu")
    assert {type(small.model.get_submodule(x.name)).__name__ for x in small.layers} == {kind}
    assert resident_bytes(small.model) < resident_bytes(full.model)
    with torch.inference_mode():
        logits = small.model(torch.tensor([[7, 8, 9]])).logits
        assert logits.isfinite().all()
        assert torch.equal(small.model(torch.tensor([[7, 8, 9]])).logits, logits)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_gradients_pass_a_quantised_base_after_it_was_used(quantization, folder):
    """bitsandbytes repacks 4-bit weights at first use on some CPUs and then drops gradients."""
    base = load_language_model(str(folder), device="cpu", quantization=quantization)
    with torch.inference_mode():
        expected = base.model(torch.tensor([[7, 8, 9]])).logits.clone()
    embedded = base.model.get_input_embeddings()(torch.tensor([[7, 8, 9]])).detach()
    embedded.requires_grad_(True)
    logits = base.model(inputs_embeds=embedded, use_cache=False).logits
    logits.sum().backward()
    assert embedded.grad is not None
    assert embedded.grad.abs().sum() > 0
    torch.testing.assert_close(logits.detach(), expected)


def test_a_missing_model_is_named(tmp_path):
    for base in (str(tmp_path / "none"), "./none", ""):
        with pytest.raises(ModelNotFoundError, match=r"no folder .*; check the path"):
            load_language_model(base)
    place = re.escape(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=rf"{place} .* no config\.json; name the folder"):
        load_language_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=rf"{place} .* no weights .*; put its"):
        load_language_model(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=rf"{place}.* is a file; name the folder"):
        load_language_model(str(tmp_path / "config.json"))


def test_a_hub_id_that_is_not_here_fails_in_one_line():
    with pytest.raises(ModelNotFoundError, match=r"no-one/nothing .*; check the name") as caught:
        load_language_model("no-one/nothing", local_files_only=True)
    assert "\n" not in str(caught.value)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        {"model_type": "unheard-of"},
        {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}},
    ],
)
def test_what_is_no_causal_language_model_is_refused(folder, changes):
    change_config(folder, **changes)
    (folder / "own.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(UnsupportedModelError):
        load_language_model(str(folder), device="cpu")


def test_a_model_without_a_tokenizer_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UnsupportedModelError, match=r"tokenizer.*; put its tokenizer files"):
        load_language_model(str(folder), device="cpu")


def test_damaged_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UnsupportedModelError, match="fetch its files again"):
        load_language_model(str(folder), device="cpu")


def in_a_pickle(folder, content):
    """The folder with its weights as the older format has them."""
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder


def test_older_weights_files_are_read(folder):
    expected = load_language_model(str(folder)).model.state_dict()
    loaded = load_language_model(str(in_a_pickle(folder, expected))).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_older_weights_files_cannot_run_code(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was-here",)

    tensors = tiny_model("llama")[0].state_dict()
    in_a_pickle(folder, tensors | {"lm_head.weight": Hostile()})
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        load_language_model(str(folder))
    assert not (tmp_path / "was-here").exists()


def test_unknown_settings_are_refused(folder):
    with pytest.raises(ConfigurationError, match="float32"):
        load_language_model(str(folder), dtype="fp12")
    with pytest.raises(ConfigurationError, match="unknown"):
        load_language_model(str(folder), device="toaster")


def test_quantising_a_quantised_checkpoint_is_refused(folder):
    change_config(
        folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    )
    with pytest.raises(QuantizationError, match="already"):
        load_language_model(str(folder), device="cpu", quantization="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_an_accelerator_auto_means_the_cpu():
    if not torch.backends.mps.is_available():
        assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigurationError, match="no device"):
        choose_device("cuda")
