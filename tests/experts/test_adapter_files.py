"""What we write, plain PEFT reads; what strangers write, we read as PEFT does or refuse."""

import json
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from adaptive_moe.errors import AdapterFormatError, CorruptExpertError, StoreError
from adaptive_moe.experts.adapter_files import (
    export_adapter,
    import_adapter,
    read_adapter,
    write_adapter,
)
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.manifest import Manifest
from adaptive_moe.experts.peft_config import parse_config
from adaptive_moe.experts.store import ExpertRecord, Store
from adaptive_moe.experts.weights import LoraWeights
from tests.experts.published import manifest_of
from tests.experts.reference import layers_of, logits, random_weights, tiny_base, token_ids

IDS = token_ids(2)
HEADER = (5, 6)
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def model() -> nn.Module:
    return tiny_base()


@pytest.fixture
def weights(model: nn.Module) -> LoraWeights:
    return random_weights(layers_of(model), seed=0)


def scaling_of(weights: LoraWeights) -> dict[str, float]:
    return {name: 0.3 + 0.7 * number for number, name in enumerate(weights)}


def write(folder: Path, weights: LoraWeights, *, header_ids: tuple[int, ...] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    write_adapter(
        folder,
        weights,
        scaling=scaling_of(weights),
        header_ids=header_ids,
        base_name="/home/somebody/models/tiny",
    )


def publish(store: Store, weights: LoraWeights) -> ExpertRecord:
    with store.stage() as folder:
        modules = write_adapter(
            folder, weights, scaling=scaling_of(weights), header_ids=HEADER, base_name="pocket"
        )
        manifest = manifest_of().model_copy(
            update={"modules": modules, "activation": "answer", "header_ids": HEADER}
        )
        return store.publish("chemistry", folder, manifest, status="active")


def ours(model: nn.Module, weights: LoraWeights) -> torch.Tensor:
    bank = LoraBank(model, layers_of(model), capacity_bytes=1 << 20, dtype=torch.float32)
    bank.load("e", weights)
    with bank.activate([(("e", 1.0),)] * len(IDS)):
        return logits(model, IDS)


def theirs(folder: Path, architecture: str = "llama") -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = PeftModel.from_pretrained(tiny_base(architecture), folder)
    return logits(wrapped.eval(), IDS)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().max().item() <= 4e-6 * b.abs().max().item()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_plain_peft_reads_what_we_write(architecture: str, tmp_path: Path) -> None:
    model = tiny_base(architecture)
    weights = random_weights(layers_of(model), seed=2)
    write(tmp_path, weights)
    assert close(theirs(tmp_path, architecture), ours(model, weights))
    config = LoraConfig.from_pretrained(tmp_path)
    assert config.target_modules == set(weights)
    assert config.base_model_name_or_path == "tiny"


def test_an_answer_activated_adapter_is_an_alora_for_peft(
    model: nn.Module, weights: LoraWeights, tmp_path: Path
) -> None:
    write(tmp_path, weights, header_ids=HEADER)
    wrapped = PeftModel.from_pretrained(tiny_base(), tmp_path).eval()
    prompt, answer = torch.tensor([[9, 8, 7]]), torch.tensor([[*HEADER, 11, 12]])
    with torch.inference_mode():
        expected = wrapped(input_ids=torch.cat([prompt, answer], dim=1)).logits[:, 3:]
        base = model(input_ids=prompt, use_cache=True)
        bank = LoraBank(model, layers_of(model), capacity_bytes=1 << 20, dtype=torch.float32)
        with bank.activate_weights(weights):
            found = model(input_ids=answer, past_key_values=base.past_key_values).logits
    assert close(found, expected)


def test_equal_weights_give_equal_bytes(weights: LoraWeights, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, dict(reversed(weights.items())) if folder == "two" else weights)
        if folder == "one":
            scaling = scaling_of(weights)
    write_adapter(
        tmp_path / "two", weights, scaling=scaling, header_ids=None, base_name="elsewhere/tiny"
    )
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()


def test_the_store_gives_back_what_was_published(
    weights: LoraWeights, model: nn.Module, tmp_path: Path
) -> None:
    with Store(tmp_path / "experts") as store:
        record = publish(store, weights)
    found = read_adapter(record.folder, record.manifest)
    assert set(found) == set(weights)
    assert all(torch.equal(found[name].a, pair.a) for name, pair in weights.items())
    assert close(ours(model, found), ours(tiny_base(), weights))


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_no_flipped_bit_reaches_the_model(weights: LoraWeights, tmp_path: Path, file: str) -> None:
    with Store(tmp_path / "experts") as store:
        record = publish(store, weights)
    content = bytearray((record.folder / file).read_bytes())
    for position in range(0, len(content), max(1, len(content) // 40)):
        content[position] ^= 4
        (record.folder / file).write_bytes(content)
        with pytest.raises(CorruptExpertError, match=f"{file} was changed"):
            read_adapter(record.folder, record.manifest)
        content[position] ^= 4
    (record.folder / file).write_bytes(content)
    assert read_adapter(record.folder, record.manifest)


@pytest.mark.parametrize("damage", ["nan", "rank", "name", "missing", "dtype", "shape", "garbage"])
def test_a_file_that_lies_about_its_manifest_is_corrupt(
    weights: LoraWeights, tmp_path: Path, damage: str
) -> None:
    def lie(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        key = min(tensors)
        tensor = tensors.pop(key)
        changed = {
            "nan": lambda: {key: tensor.index_fill(0, torch.tensor([0]), float("nan"))},
            "rank": lambda: {key: torch.cat([tensor, tensor])},
            "name": lambda: {key.replace("layers.0", "layers.7"): tensor},
            "missing": dict,
            "dtype": lambda: {key: tensor.double()},
            "shape": lambda: {key: tensor[:, :-1].contiguous()},
            "garbage": dict,
        }[damage]()
        safetensors.torch.save_file(tensors | changed, folder / WEIGHTS)
        if damage == "garbage":
            (folder / WEIGHTS).write_bytes(b"\xff" * 400)

    with Store(tmp_path / "experts") as store, store.stage() as folder:
        modules = write_adapter(
            folder, weights, scaling=scaling_of(weights), header_ids=None, base_name="pocket"
        )
        lie(folder)
        manifest = manifest_of().model_copy(update={"modules": modules})
        record = store.publish("chemistry", folder, manifest, status="active")
        with pytest.raises(CorruptExpertError):
            read_adapter(record.folder, record.manifest)


def test_an_oversized_file_is_refused_unread(weights: LoraWeights, tmp_path: Path) -> None:
    with Store(tmp_path / "experts") as store:
        record = publish(store, weights)
    with (record.folder / WEIGHTS).open("r+b") as file:
        file.truncate(1 << 33)
    with pytest.raises(CorruptExpertError, match="larger than"):
        read_adapter(record.folder, record.manifest)


def foreign(folder: Path, **settings: object) -> torch.Tensor:
    """An adapter made and saved by PEFT alone; returns its logits."""
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings)
        wrapped = get_peft_model(tiny_base(), config).eval()
        wrapped.save_pretrained(folder)
    return logits(wrapped, IDS)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "up_proj"]},
        {"r": 4, "lora_alpha": 3, "target_modules": "all-linear", "use_rslora": True},
        {
            "r": 4,
            "target_modules": ["q_proj", "down_proj", "v_proj"],
            "rank_pattern": {"down_proj": 7, r"^model\.layers\.1\.self_attn\.q_proj": 2, "v": 3},
            "alpha_pattern": {r"layers\.\d+\.mlp\.down_proj": 5, "proj": 9, ".*q_proj": 11},
        },
    ],
)
def test_an_imported_adapter_acts_as_in_peft(
    settings: dict[str, object], model: nn.Module, tmp_path: Path
) -> None:
    expected = foreign(tmp_path, **settings)
    adapter = import_adapter(tmp_path, layers_of(model))
    assert adapter.activation == "prompt"
    assert close(ours(model, adapter.weights), expected)
    write_adapter(
        tmp_path, adapter.weights, scaling=adapter.scaling, header_ids=None, base_name="tiny"
    )
    assert close(theirs(tmp_path), expected)


def test_an_imported_alora_is_answer_activated(model: nn.Module, tmp_path: Path) -> None:
    foreign(tmp_path, r=2, target_modules=["q_proj"], alora_invocation_tokens=[7, 8])
    adapter = import_adapter(tmp_path, layers_of(model))
    assert (adapter.activation, adapter.header_ids) == ("answer", (7, 8))


def test_a_half_precision_adapter_loses_nothing(model: nn.Module, tmp_path: Path) -> None:
    foreign(tmp_path, r=4, lora_alpha=3, target_modules=["q_proj"])
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    halves = {key: tensor.bfloat16() for key, tensor in tensors.items()}
    safetensors.torch.save_file(halves, tmp_path / WEIGHTS)
    adapter = import_adapter(tmp_path, layers_of(model))
    assert close(ours(model, adapter.weights), theirs(tmp_path))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "use_dora.* DoRA rescales every column .* which is no low-rank sum"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embeddings"),
        ({"target_modules": ["q_proj", "lm_head"]}, "weights of the base"),
    ],
)
def test_more_than_plain_lora_is_refused_with_the_reason(
    settings: dict[str, object], reason: str, model: nn.Module, tmp_path: Path
) -> None:
    foreign(tmp_path, **({"r": 2, "target_modules": ["q_proj"]} | settings))
    with pytest.raises(AdapterFormatError, match=reason):
        import_adapter(tmp_path, layers_of(model))


def test_pickles_and_empty_folders_are_refused(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match=f"no {WEIGHTS}"):
        import_adapter(tmp_path, layers_of(model))
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(AdapterFormatError, match="pickle"):
        import_adapter(tmp_path, layers_of(model))


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    foreign(tmp_path, r=2, target_modules=["q_proj"])
    with pytest.raises(AdapterFormatError, match="no adaptable layer"):
        import_adapter(tmp_path, layers_of(tiny_base("gpt2")))
    with pytest.raises(AdapterFormatError, match="do not fit"):
        import_adapter(tmp_path, layers_of(tiny_base(wide=True)))


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "LOHA"},
        {"r": 10**9},
        {"r": "8"},
        {"r": 0},
        {"lora_alpha": None},
        {"lora_alpha": float("nan")},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "loftq"},
        {"rank_pattern": {"(a+)+b": 3}},
        {"rank_pattern": {"(.*)*x": 3}},
        {"rank_pattern": {"q_proj": 3.5}},
        {"rank_pattern": ["q_proj"]},
        {"alpha_pattern": {".*.*.*proj": 3}},
        {"alora_invocation_tokens": ["x"]},
        {"layer_replication": [[0, 1]]},
        {"something_new": True},
    ],
)
def test_configs_that_cannot_be_trusted_are_refused(change: dict[str, object]) -> None:
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8}
    parse_config(json.dumps(config).encode())
    with pytest.raises(AdapterFormatError):
        parse_config(json.dumps(config | change).encode())


def test_adalora_is_refused_with_the_reason() -> None:
    with pytest.raises(AdapterFormatError, match=r"'ADALORA'.*changes its ranks while it trains"):
        parse_config(b'{"peft_type": "ADALORA"}')


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b"{" * 500])
def test_configs_that_are_no_json_objects_are_refused(text: bytes) -> None:
    with pytest.raises(AdapterFormatError):
        parse_config(text)


def test_a_config_with_another_rank_than_its_file_is_refused(
    model: nn.Module, tmp_path: Path
) -> None:
    foreign(tmp_path, r=4, target_modules=["q_proj"])
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(AdapterFormatError, match="rank 4 in the file, 8 in its config"):
        import_adapter(tmp_path, layers_of(model))


@pytest.mark.parametrize("form", ["peft", "vllm"])
def test_an_exported_expert_acts_the_same_in_peft(
    model: nn.Module, weights: LoraWeights, tmp_path: Path, form: str
) -> None:
    with Store(tmp_path / "experts") as store:
        record = publish(store, weights)
    export_adapter(record, tmp_path / "out", format=form)
    assert json.loads((tmp_path / "out" / "adaptive_moe.json").read_text()) == {
        "schema_version": 1,
        "base_id": record.manifest.base_id,
    }
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert config.pop("alora_invocation_tokens") == list(HEADER)
    if form == "vllm":
        assert (config["r"], config["lora_alpha"]) == (8, 8.0)
        assert config["rank_pattern"] == config["alpha_pattern"] == {}
    (tmp_path / "out" / CONFIG).write_text(json.dumps(config))
    assert close(theirs(tmp_path / "out"), ours(model, weights))
    with pytest.raises(StoreError, match="not empty"):
        export_adapter(record, tmp_path / "out", format=form)


def test_an_expert_without_layers_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError):
        write_adapter(tmp_path, {}, scaling={}, header_ids=None, base_name="pocket")
    assert isinstance(manifest_of(), Manifest)
