"""The settings of trainings: who writes examples, how ranks are shared out, what the gate asks."""

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    field_validator,
    model_validator,
)

from adaptive_moe.config.foreign_methods import FOREIGN_METHODS
from adaptive_moe.config.section import MIB, PositiveInt, Probability, Section

_LARGEST_RANK = 128
_LARGEST_PART = 100  # of known or general rows, for one of new material
OF_THE_MACHINE = frozenset(
    {
        "checkpoint_every",
        "general_text",
        "gradient_checkpointing",
        "guard",
        "prompt_cache_bytes",
        "worker",
    }
)
"""Settings of trainings that decide nothing about an expert: places, memory, bookkeeping."""
OF_THE_GATE = frozenset({"guard_prompts", "max_forgetting", "max_guard_loss", "max_miscalibration"})
"""Settings that decide about an expert once its weights are there."""
_LOCAL_TEACHER = re.compile(r"model:\S.*")
_SERVICE = re.compile(r"https?://[^\s/?#@]+(/[^\s?#@]*)?")

RankStrategy = Literal[
    "fixed",
    "linear_decay",
    "linear_growth",
    "attention_heavy",
    "mlp_heavy",
    "random",
    "gradient",
    "empirical",  # another name for gradient
    "eva",
    "truncate",
]
_INSTEAD = {
    "adalora": "gradient or eva share ranks out beforehand, truncate trains wider and cuts them",
    "dora": "the strategies here all train plain LoRA, so take one of them, such as fixed",
}
FilterName = Literal["length", "encoding", "repetition", "refusal", "secrets", "language"]


def _all_or_several(value: object) -> object:
    """One name is a list of one. Said here, as the union would name the types inside it."""
    names = (value,) if isinstance(value, str) else value
    if value == "all":
        return value
    if isinstance(names, list | tuple) and all(_is_name(name) for name in names):
        return tuple(names)
    raise ValueError("write all, or the ends of layer names, e.g. [q_proj, v_proj]")


def _filters(value: object) -> object:
    """One name is a list of one; a wrong one is told with those that there are."""
    if value in ("all", "none"):
        return value
    names = (value,) if isinstance(value, str) else value
    known = get_args(FilterName)
    if isinstance(names, list | tuple) and names and all(name in known for name in names):
        return tuple(names)
    raise ValueError(f"write all, none, or some of {', '.join(known)}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and not value.startswith(("[", "{"))


class TeacherSettings(Section):
    """Who writes training examples from documents, beside the rules that always do."""

    teacher: str | None = Field(
        None,
        description="base, model:ID (a folder or hub id), or the http(s) URL of a service that "
        "speaks OpenAI's chat completions, e.g. http://localhost:8000/v1; absent: rules alone",
    )
    teacher_model: str | None = Field(None, description="name of the model at that URL")
    teacher_key: str | None = Field(
        None, description="name of the environment variable that holds the service's key"
    )
    teacher_timeout_seconds: float = Field(60.0, gt=0.0, description="of one request")
    teacher_retries: int = Field(
        4, ge=0, le=16, description="further tries where the service is busy or out of reach"
    )
    teacher_concurrency: int = Field(4, ge=1, le=64, description="requests under way at once")
    teacher_max_tokens: PositiveInt = Field(512, description="tokens; the longest reply")
    teacher_temperature: float = Field(
        0.0, ge=0.0, le=2.0, description="0 is greedy; above, drawn with training.seed"
    )
    teacher_round_trip: bool | None = Field(
        None,
        description="keep only what the teacher answers alike when it is asked again; absent: "
        "for base alone",
    )

    @field_validator("teacher")
    @classmethod
    def _is_a_teacher(cls, teacher: str | None) -> str | None:
        if teacher is None or teacher == "base" or _LOCAL_TEACHER.fullmatch(teacher):
            return teacher
        if not _SERVICE.fullmatch(teacher):
            raise ValueError(
                "write base, model:ID, or the URL of a service such as http://localhost:8000/v1, "
                "without a user, a password, ? or #; the key goes into an environment variable, "
                "whose name goes into training.teacher_key"
            )
        return teacher.rstrip("/")

    @field_validator("teacher_key")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        # Somebody will write the key itself here, and settings are shown.
        if name is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            raise ValueError("write the name of an environment variable, such as TEACHER_KEY")
        return name

    @model_validator(mode="after")
    def _names_the_model(self) -> "TeacherSettings":
        if (self.teacher or "").startswith("http") and not self.teacher_model:
            raise ValueError("training.teacher is a URL; name the model in training.teacher_model")
        return self


class TrainingSettings(TeacherSettings):
    """How an expert is trained."""

    ranks: RankStrategy = Field("fixed", description="how ranks are shared out over the layers")
    # Measured on the pocket model in 400 steps: 8 answers as many alone, in chats .02 fewer.
    rank: int = Field(
        16, ge=1, le=128, description="reference rank r0; the budget is r0 everywhere"
    )
    budget: Literal["rank", "auto"] = Field(
        "rank", description="auto: r0 is what the answers need, at 2 bits a parameter, not rank"
    )
    auto_ranks: tuple[int, int] = Field((2, 64), description="least and greatest r0 of that")
    scaling: Literal["rslora", "alpha_over_r", "const"] = Field(
        "rslora", description="alpha/sqrt(r), alpha/r or alpha; written out per module"
    )
    alpha: float = Field(16.0, gt=0.0, description="LoRA alpha")
    targets: Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(_all_or_several)] = Field(
        "all", description="linear layers to adapt: all, or name suffixes"
    )
    upper_share: float = Field(
        1.0, gt=0.0, le=1.0, description="share of the decoder blocks, from the top, to adapt"
    )
    activation: Literal["answer", "prompt"] = Field(
        "answer", description="answer: LoRA from the generation header on, so prompt KV is shared"
    )
    # Measured on the pocket model: about 100 facts need 400 steps of 32 by muon, 800 by adamw.
    max_steps: PositiveInt = Field(400, description="optimiser steps at most")
    batch_size: PositiveInt = Field(32, description="examples in one optimiser step")
    micro_batch_size: PositiveInt = Field(32, description="examples in one forward pass at most")
    gradient_checkpointing: bool = Field(
        False,
        description="keep only what enters each block for the gradients, and compute the rest "
        "again: less memory, a second forward pass; done anyway where one example does not fit",
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "muon",
        description="muon orthogonalises momentum; adamw wants twice the steps, half the rate",
    )
    # Measured there: muon at 3e-3 to 1e-2 alike; adamw at 2e-3 to 4e-3, and not at 1e-2.
    learning_rate: float = Field(6e-3, gt=0.0, le=1.0, description="peak, decays linearly to 5 %")
    warmup_steps: int = Field(10, ge=0, description="optimiser steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0.0, description="decoupled, as AdamW's")
    clip_norm: float = Field(1.0, gt=0.0, description="gradient norm")
    evaluate_every: PositiveInt = Field(80, description="steps between held-out evaluations")
    patience: PositiveInt = Field(4, description="evaluations without gain before stopping")
    split: Literal["auto", "recall", "generalise"] = Field(
        "auto", description="recall for documents of facts, generalise for example files"
    )
    held_out_fraction: float = Field(0.15, gt=0.0, lt=0.9, description="share of rows held out")
    # Measured there: without, an expert of a pack answers .94 right alone and .6 behind two others.
    in_conversation: Probability = Field(
        0.2,
        description="share of single questions that are taught after other questions, as in a chat",
    )
    mix: tuple[PositiveFloat, NonNegativeFloat, NonNegativeFloat] = Field(
        (1.0, 0.0, 0.0),
        description="rows of new material : known prompts : texts the base says unprompted, both "
        "with its own answers; e.g. [6, 3, 1] where an expert is to be asked about anything",
    )
    filters: Annotated[
        Literal["all", "none"] | tuple[FilterName, ...], BeforeValidator(_filters)
    ] = Field(
        "all",
        description="what drops rows: all, none, or some of length, encoding, repetition, refusal, "
        "secrets, language",
    )
    min_examples: PositiveInt = Field(16, description="fewer usable rows are refused")
    # A process leaves the answers their lock and half of the cores, and the kernel may take it
    # alone; it holds the base a second time, which on an accelerator is seldom affordable.
    worker: Literal["process", "thread"] | None = Field(
        None,
        description="where trainings in the background run; absent: in a process of their own if "
        "the base is on the CPU and a copy of it takes at most half of the free RAM, else a thread",
    )
    prompt_cache_bytes: int = Field(
        1024 * MIB, ge=0, description="RAM for prompt key-values; beyond it they are recomputed"
    )
    checkpoint_every: PositiveInt = Field(50, description="steps between resumable checkpoints")
    guard_prompts: int = Field(
        1500, ge=0, description="prompts on which nothing may get worse; 0 leaves them out"
    )
    guard: Path | None = Field(
        None, description="JSON lines of prompt/answer that the base gets right"
    )
    max_guard_loss: Probability = Field(0.01, description="upper 95 % bound of the loss, fraction")
    general_text: Path | None = Field(
        None, description="text that must not be forgotten: paragraphs parted by empty lines"
    )
    max_forgetting: float = Field(
        0.02, ge=0.0, description="nats per token that it may lose, surely, as routed"
    )
    max_miscalibration: Probability = Field(
        0.1, description="how much further off stated probabilities may be, surely, than before"
    )
    seed: int = Field(0, ge=0, description="of initialisation, order and synthesis")

    @field_validator("mix")
    @classmethod
    def _is_a_mix(cls, mix: tuple[float, float, float]) -> tuple[float, float, float]:
        if not max(mix) <= _LARGEST_PART * mix[0]:  # nor infinite, nor nan
            raise ValueError(f"known and general rows may be {_LARGEST_PART} times the new at most")
        return mix

    @field_validator("ranks", mode="before")
    @classmethod
    def _is_a_strategy(cls, strategy: object) -> object:
        """Tell of a method that is asked for here and is none of the strategies why it is not."""
        method = strategy.lower() if isinstance(strategy, str) else ""
        if method in FOREIGN_METHODS:
            raise ValueError(f"{FOREIGN_METHODS[method]}; {_INSTEAD[method]}")
        return strategy

    @field_validator("auto_ranks")
    @classmethod
    def _are_ranks(cls, bounds: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= bounds[0] <= bounds[1] <= _LARGEST_RANK:
            raise ValueError(f"{bounds[0]} to {bounds[1]}: give two ranks from 1 to 128, rising")
        return bounds
