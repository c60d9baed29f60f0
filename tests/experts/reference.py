"""Plain PEFT as the slow reference, and random experts to compare with."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from adaptive_moe.experts.bank import LoraBank, Mixture
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.models.linear_layers import LinearLayer, census
from tests.support.tiny_models import VOCABULARY, tiny_model

E0, E1, E2 = (((f"e{number}", 1.0),) for number in range(3))
MIXED = (("e0", 0.7), ("e1", 0.2), ("e2", 0.4))
MODES: dict[str, list[Mixture]] = {
    "one expert": [E1, E1, E1, E1],
    "an expert per row": [E0, (), E2, E0],
    "a mixture": [MIXED, MIXED, MIXED, MIXED],
}
"""One mixture per batch row."""
GATED_MODES: dict[str, list[Mixture]] = {
    "a mixture per row": [MIXED[:2], (), (("e2", 0.5),), E1],
    "gates per row": [MIXED[:2], (("e0", 0.1), ("e1", 1.5)), MIXED[:2], MIXED[:2]],
}


class World:
    """A base with the experts e0, e1 and e2, in our bank and, as a copy, in plain PEFT."""

    def __init__(self, model: nn.Module, experts: Mapping[str, LoraWeights]) -> None:
        self.model, self.ids = model, token_ids(4)
        dtype = model.get_input_embeddings().weight.dtype
        experts = {name: cast(weights, dtype) for name, weights in experts.items()}
        self.peft = in_peft(model, experts)
        self.bank = LoraBank(model, census(model), capacity_bytes=1 << 20, dtype=dtype)
        for name, weights in experts.items():
            self.bank.load(name, weights)
        self.bare = logits(model, self.ids)
        self._theirs: dict[tuple[Mixture, ...], torch.Tensor] = {}

    def ours(self, rows: Sequence[Mixture]) -> torch.Tensor:
        with self.bank.activate(rows):
            return logits(self.model, self.ids[: len(rows)])

    def theirs(self, rows: Sequence[Mixture]) -> torch.Tensor:
        key = tuple(rows)
        if key not in self._theirs:
            adapters = [adapter_of(self.peft, row) for row in rows]
            self._theirs[key] = peft_logits(self.peft, self.ids[: len(rows)], adapters=adapters)
        return self._theirs[key]

    def layer_by_layer(
        self, rows: Sequence[Mixture]
    ) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Every linear layer's name, output, and PEFT's output to the input it really got."""
        layers = {self.model.get_submodule(layer.name): layer.name for layer in census(self.model)}
        passed: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
        hooks = [
            module.register_forward_hook(
                lambda *call: passed.append((call[0], call[1][0].clone(), call[2].clone()))
            )
            for module in layers
        ]
        self.ours(rows)
        for hook in hooks:
            hook.remove()
        assert len(passed) == len(layers)
        theirs = dict(self.peft.get_base_model().named_modules())
        adapters = [adapter_of(self.peft, row) for row in rows]
        for module, hidden, output in passed:
            by_row = hidden.view(len(rows), -1, hidden.shape[-1])  # OPT flattens its batch
            with torch.inference_mode():
                expected = theirs[layers[module]](by_row, adapter_names=adapters)
            yield layers[module], output, expected.view(output.shape)


def tolerance(theirs: torch.Tensor, rows: Sequence[Mixture]) -> float:
    """How far two ways to the same result may be apart, as rounding goes."""
    if theirs.dtype == torch.float64:
        return 1e-10
    is_mixed = any(len(row) > 1 or row[0][1] != 1.0 for row in rows if row)
    return (4e-6 if is_mixed else 2e-6) * theirs.abs().max().item()


def farthest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


def tiny_base(
    architecture: str = "llama", *, dtype: torch.dtype = torch.float32, wide: bool = False
) -> nn.Module:
    """A random two-layer model in eval mode, nothing trainable; wide enough for 4-bit blocks."""
    model, _ = tiny_model(architecture, wide=wide)
    return model.to(dtype).requires_grad_(False)


def token_ids(batch: int, time: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, VOCABULARY, (batch, time), generator=torch.Generator().manual_seed(seed)
    )


def three_experts(model: nn.Module) -> dict[str, LoraWeights]:
    return {f"e{seed}": random_weights(census(model), seed=seed) for seed in range(3)}


def random_weights(
    layers: Sequence[LinearLayer],
    *,
    seed: int,
    ranks: Sequence[int] = (2, 0, 5, 1, 8),
    dtype: torch.dtype = torch.float32,
    size: float = 0.1,
) -> LoraWeights:
    """Unequal ranks in turn over the layers, 0 leaves a layer out."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for number, layer in enumerate(layers):
        rank = ranks[(number + seed) % len(ranks)]
        if rank:
            a = torch.randn(rank, layer.in_features, generator=generator, dtype=torch.float64)
            b = torch.randn(rank, layer.out_features, generator=generator, dtype=torch.float64)
            weights[layer.name] = LoraPair((a * size).to(dtype), (b * size).to(dtype))
    return weights


def cast(weights: LoraWeights, dtype: torch.dtype) -> LoraWeights:
    return {name: LoraPair(pair.a.to(dtype), pair.b.to(dtype)) for name, pair in weights.items()}


def in_peft(model: nn.Module, experts: Mapping[str, LoraWeights]) -> PeftModel:
    """A copy of the model with every expert as a plain PEFT adapter (scaling 2 undone in B)."""
    wrapped: PeftModel | None = None
    for name, weights in experts.items():
        ranks = {"^" + key.replace(".", r"\."): pair.rank for key, pair in weights.items()}
        config = LoraConfig(
            r=1,
            target_modules=sorted(weights),
            rank_pattern=ranks,
            alpha_pattern={key: 2 * rank for key, rank in ranks.items()},
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        )
        if wrapped is None:
            wrapped = get_peft_model(
                copy.deepcopy(model), config, adapter_name=name, autocast_adapter_dtype=False
            )
        else:
            wrapped.add_adapter(name, config, autocast_adapter_dtype=False)
    assert wrapped is not None
    modules = dict(wrapped.get_base_model().named_modules())
    for name, weights in experts.items():
        for key, pair in weights.items():
            layer = modules[key]
            assert layer.scaling[name] == 2.0
            layer.lora_A[name].weight.data = pair.a.clone()
            layer.lora_B[name].weight.data = (pair.b / 2.0).T.clone()
    return wrapped.to(next(model.parameters()).dtype).eval()


def adapter_of(wrapped: PeftModel, mixture: Mixture) -> str:
    """The adapter that does what the mixture does; for several, the exact one PEFT calls "cat"."""
    if not mixture:
        return "__base__"
    (first, gate), *others = mixture
    if gate == 1.0 and not others:
        return first
    name = "_and_".join(f"{key}_x_{gate}" for key, gate in mixture).replace(".", "_")
    if name not in wrapped.peft_config:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(next(wrapped.parameters()).dtype)  # what PEFT makes on int8 layers
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wrapped.add_weighted_adapter(
                    [key for key, _ in mixture],
                    [gate for _, gate in mixture],
                    name,
                    combination_type="cat",
                )
        finally:
            torch.set_default_dtype(dtype)
    return name


@torch.inference_mode()
def peft_logits(wrapped: PeftModel, ids: torch.Tensor, *, adapters: Sequence[str]) -> torch.Tensor:
    """One adapter per row, "__base__" is none; row by row where the model flattens its batch."""
    if wrapped.get_base_model().config.model_type != "opt":
        return wrapped(input_ids=ids, adapter_names=list(adapters)).logits
    rows = []
    for row, name in zip(ids, adapters, strict=True):
        if name == "__base__":
            with wrapped.disable_adapter():
                rows.append(wrapped(input_ids=row[None]).logits)
        else:
            wrapped.set_adapter(name)
            rows.append(wrapped(input_ids=row[None]).logits)
    return torch.cat(rows)


@torch.inference_mode()
def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits


def layers_of(model: nn.Module) -> tuple[LinearLayer, ...]:
    return census(model)
