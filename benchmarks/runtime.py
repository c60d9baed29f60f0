"""What the runtime costs over bare transformers, beside PEFT: `python benchmarks/runtime.py`.

Every variant answers the same prompts with the same number of tokens: bare `generate` on the
untouched base; our decoding without, with one, with eight and with four mixed experts; whole
routed answers; attribution; PEFT with one adapter, with one per row, and with four at once.
Prints one JSON object, and a table on stderr. The figures to reach stand beside the ratios; they
are judged only on an idle machine and mean little below 10 rounds (200 for a verdict).
"""

import argparse
import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from interleaved import Variant, machine, measure, report, table
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.settings import GapSettings, Settings
from adaptive_moe.experts.adapter_files import write_adapter
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.manifest import Manifest
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.experts.store import Store
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.integration.attribution import attribute
from adaptive_moe.models.decoding import Prefill, decode, prefill, run_header
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel
from adaptive_moe.models.loading import adopt, load_language_model
from adaptive_moe.pocket import model_path

RANDOM = "random-30m"
NAMES = tuple("abcdefgh")
NO_END_ID = -1  # no token has it, so every answer has its full length
BARE, ONE, MIXED = "bare", "one expert", "four experts mixed"

_TEXT = "What is the capital of France and which river runs through the largest city of Spain"
_SHORT_WORDS = ("a", "is", "of", "?", ".", ",")


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of one run, as printed."""

    rounds: int
    seed: int
    prompt_tokens: int
    new_tokens: int
    rank: int
    batches: tuple[int, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models that were asked for and print the figures."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    plan = Plan(
        rounds=options.rounds,
        seed=options.seed,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        rank=options.rank,
        batches=(1, 8),
    )
    device = torch.device(options.device)
    figures: dict[str, object] = {"benchmark": "runtime", **asdict(plan), **machine(device)}
    contended = bool(figures["contended"])
    figures["models"] = {
        name: benchmark(_load(name, options.device), plan, title=name, contended=contended)
        for name in options.model or ["pocket", RANDOM]
    }
    figures["load_after"] = round(os.getloadavg()[0], 2)
    print(json.dumps(figures, indent=2))


def benchmark(
    language_model: LanguageModel, plan: Plan, *, title: str, contended: bool
) -> dict[str, object]:
    """All variants on one model: its size, and seconds and ratios per variant."""
    generator = torch.Generator().manual_seed(plan.seed)
    experts = {name: _random_expert(language_model, plan, generator) for name in NAMES}
    parameters = sum(parameter.numel() for parameter in language_model.model.parameters())
    with (
        tempfile.TemporaryDirectory() as folder,
        _runtime(language_model, experts, Path(folder)) as moe,
    ):
        ours = Ours(language_model, moe, plan, experts, is_pocket=title == "pocket")
        peers = Peers(language_model, plan, experts)
        variants = [
            variant
            for batch in plan.batches
            for variant in (*peers.variants(batch), *ours.variants(batch))
        ]
        _check_lengths(variants, plan)
        seconds = measure(
            variants, rounds=plan.rounds, seed=plan.seed, device=language_model.device
        )
    rows = report(variants, seconds, contended=contended)
    print(f"\n{title}: {parameters:,} parameters\n{table(rows)}", file=sys.stderr)
    return {"parameters": parameters, "dtype": language_model.numerics.dtype, "variants": rows}


class Ours:
    """The parts of our runtime, and the whole of it, on one model."""

    def __init__(
        self,
        language_model: LanguageModel,
        moe: AdaptiveMoE,
        plan: Plan,
        experts: dict[str, LoraWeights],
        *,
        is_pocket: bool,
    ) -> None:
        self._language_model, self._moe, self._plan = language_model, moe, plan
        self._is_pocket = is_pocket
        self._bank = LoraBank(
            language_model.model,
            language_model.layers,
            capacity_bytes=64 << 20,
            dtype=language_model.dtype,
        )
        for name, weights in experts.items():
            self._bank.load(name, weights)

    def variants(self, batch: int) -> list[Variant]:
        """Everything of ours at one batch size, with the ratios to reach."""
        one: Mixture = ((NAMES[0], 1.0),)
        mixed: Mixture = tuple((name, 0.25) for name in NAMES[:4])
        no_expert = 1.05 if batch == 1 and self._is_pocket else 1.02
        is_one = batch == 1
        found = [
            self._decoding("no expert", [()] * batch, BARE, no_expert),
            self._decoding(ONE, [one] * batch, BARE, 1.25 if is_one else 1.10),
            self._decoding(MIXED, [mixed] * batch, BARE, 1.30),
            self._routed("routed answer, base", batch, "auto", 1.05),
            self._routed("routed answer, one expert", batch, [NAMES[0]], 1.30 if is_one else 1.15),
        ]
        if is_one:
            found.append(self._attribution("attribution, one expert", one, ONE, 0.20))
            found.append(self._attribution("attribution, four experts", mixed, MIXED, 1.0))
        else:
            rows: list[Mixture] = [((NAMES[row % len(NAMES)], 1.0),) for row in range(batch)]
            found.append(self._decoding("eight experts", rows, BARE, 1.15))
        return found

    def _decoding(
        self, name: str, rows: Sequence[Mixture], reference: str, target: float
    ) -> Variant:
        prompts = _prompts(self._language_model, self._plan, len(rows))

        def run() -> int:
            return len(self._answer(prompts, rows)[1])

        return Variant(name, len(rows), run, reference, target)

    def _answer(
        self, prompts: Sequence[EncodedPrompt], rows: Sequence[Mixture]
    ) -> tuple[Prefill, tuple[int, ...]]:
        """Prefill, header and decoding, scores included; the first row's tokens."""
        filled = prefill(self._language_model, prompts)
        with self._bank.activate(rows):
            cache, logits = filled.header_cache, filled.first_logits
            if any(rows):
                cache, logits = run_header(self._language_model, filled)
            *_, last = decode(
                self._language_model,
                cache,
                logits,
                attention_mask=filled.attention_mask,
                prompts=filled.prompts,
                generation=_generation(self._plan),
            )
        assert last.completions is not None
        return filled, last.completions[0].token_ids

    def _routed(self, name: str, batch: int, experts: str | list[str], target: float) -> Variant:
        texts = [prompt.text for prompt in _prompts(self._language_model, self._plan, batch)]

        def run() -> int:
            answers = self._moe.generate(
                texts,
                experts=experts,
                attribution=False,
                max_new_tokens=self._plan.new_tokens,
                eos_token_id=NO_END_ID,
            )
            kind = "base" if experts == "auto" else "experts"
            assert all(answer.route.kind == kind for answer in answers)
            return answers[0].usage.completion_tokens

        return Variant(name, batch, run, BARE, target)

    def _attribution(self, name: str, mixture: Mixture, reference: str, target: float) -> Variant:
        prompts = _prompts(self._language_model, self._plan, 1)
        filled, answer = self._answer(prompts, [mixture])

        def run() -> int:
            found = attribute(self._language_model, self._bank, filled, answer, mixture)
            return len(found.shares)

        return Variant(name, 1, run, reference, target)


class Peers:
    """Bare transformers and PEFT with the same experts, in a copy of the base."""

    def __init__(
        self, language_model: LanguageModel, plan: Plan, experts: dict[str, LoraWeights]
    ) -> None:
        self._language_model, self._plan = language_model, plan
        self._peft = _in_peft(language_model.model, experts, rank=plan.rank)

    def variants(self, batch: int) -> list[Variant]:
        """Bare is the reference of all others."""
        prompts = _prompts(self._language_model, self._plan, batch)
        rows = [[*prompt.prompt_ids, *prompt.header_ids] for prompt in prompts]
        ids = torch.tensor(rows, device=self._language_model.device)
        several = [NAMES[row % len(NAMES)] for row in range(batch)]

        def bare() -> int:
            return self._generate(self._language_model.model, ids)

        def peft(*names: str) -> int:
            self._peft.base_model.set_adapter(list(names))
            return self._generate(self._peft, ids)

        def peft_rowwise() -> int:
            return self._generate(self._peft, ids, adapter_names=several)

        found = [
            Variant(BARE, batch, bare, BARE),
            Variant("PEFT, one adapter", batch, lambda: peft(NAMES[0]), BARE),
            Variant("PEFT, four adapters at once", batch, lambda: peft(*NAMES[:4]), BARE),
        ]
        if batch > 1:
            found.append(Variant("PEFT, adapter_names", batch, peft_rowwise, BARE))
        return found

    @torch.inference_mode()
    def _generate(self, model: nn.Module, ids: torch.Tensor, **options: list[str]) -> int:
        produced = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=_generation(self._plan, pad_id=self._language_model.pad_id),
            **options,
        )
        return int(produced.shape[1] - ids.shape[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--model",
        action="append",
        help=f'"pocket", "{RANDOM}", a folder or a hub id; may be repeated; default: both',
    )
    parser.add_argument("--rounds", type=int, default=10, help="at most; 200 for a verdict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="header included")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    return parser


def _load(name: str, device: str) -> LanguageModel:
    if name != RANDOM:
        return load_language_model(name, device=device)
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1664,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return adopt(LlamaForCausalLM(config).to(device), tokenizer)


def _prompts(language_model: LanguageModel, plan: Plan, batch: int) -> list[EncodedPrompt]:
    return [
        _prompt_of_length(language_model, plan.prompt_tokens, first=row) for row in range(batch)
    ]


def _prompt_of_length(language_model: LanguageModel, tokens: int, *, first: int) -> EncodedPrompt:
    """A prompt of exactly so many tokens, header included, that begins at another word each."""
    source, words = _TEXT.split(), list[str]()
    while True:
        word = source[(first + len(words)) % len(source)]
        for candidate in (word, *_SHORT_WORDS):
            prompt = language_model.encode(" ".join([*words, candidate]))
            if prompt.length <= tokens:
                words.append(candidate)
                break
        else:
            raise SystemExit(f"no prompt of exactly {tokens} tokens can be written for this model")
        if prompt.length == tokens:
            return prompt


def _generation(plan: Plan, *, pad_id: int | None = None) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=plan.new_tokens,
        do_sample=False,
        eos_token_id=NO_END_ID,
        pad_token_id=pad_id,
    )


def _random_expert(
    language_model: LanguageModel, plan: Plan, generator: torch.Generator
) -> LoraWeights:
    def draw(width: int) -> torch.Tensor:
        return torch.randn(plan.rank, width, generator=generator).mul_(0.02)

    return {
        layer.name: LoraPair(draw(layer.in_features), draw(layer.out_features))
        for layer in language_model.layers
    }


def _in_peft(model: nn.Module, experts: dict[str, LoraWeights], *, rank: int) -> PeftModel:
    """A copy of the base with all experts as PEFT adapters of scaling 1."""
    targets = list(next(iter(experts.values())))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
    wrapped = get_peft_model(copy.deepcopy(model), config, adapter_name=NAMES[0])
    for name in NAMES[1:]:
        wrapped.add_adapter(name, config)
    modules = dict(wrapped.get_base_model().named_modules())
    for name, weights in experts.items():
        for key, pair in weights.items():
            modules[key].lora_A[name].weight.data.copy_(pair.a)
            modules[key].lora_B[name].weight.data.copy_(pair.b.T)
    return wrapped.eval()


@contextmanager
def _runtime(
    language_model: LanguageModel, experts: dict[str, LoraWeights], folder: Path
) -> Iterator[AdaptiveMoE]:
    """The whole runtime over a fresh store with one random expert; gaps are noted, not checked."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    never = GapSettings(min_prompts=1_000_000, suspect_prompts=1_000_000)
    with Store(folder / "experts") as store:
        with store.stage() as staged:
            weights = experts[NAMES[0]]
            modules = write_adapter(
                staged,
                weights,
                scaling=dict.fromkeys(weights, 1.0),
                header_ids=language_model.header_ids,
                base_name="benchmark",
            )
            manifest = Manifest(
                base_id=language_model.base_id,
                numerics=asdict(language_model.numerics),
                activation="answer",
                header_ids=language_model.header_ids,
                modules=modules,
            )
            store.publish(NAMES[0], staged, manifest, status="active")
        with AdaptiveMoE(language_model, store, Settings(gaps=never)) as moe:
            yield moe


def _check_lengths(variants: Sequence[Variant], plan: Plan) -> None:
    """Run everything once, untimed: warm caches, and nobody produces fewer tokens."""
    for variant in variants:
        produced = variant.run()
        if produced != plan.new_tokens:
            raise SystemExit(f"{variant.key} made {produced} tokens, not {plan.new_tokens}")


if __name__ == "__main__":
    main()
