"""The one home of every setting: its type, default, unit and range."""

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    field_validator,
    model_validator,
)

MIB = 1024 * 1024
GIB = 1024 * MIB

_LARGEST_RANK = 128
_LOCAL_TEACHER = re.compile(r"model:\S.*")
_SERVICE = re.compile(r"https?://[^\s/?#@]+(/[^\s?#@]*)?")

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
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
FilterName = Literal["length", "encoding", "repetition", "refusal", "secrets", "language"]
_DTYPES: dict[object, str | None] = {
    "auto": None,
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}


def _dtype_in_full(value: object) -> object:
    return _DTYPES.get(value, value) if isinstance(value, str) else value


def _as_several(value: object) -> object:
    """One path is a list of one, no text an empty one; a list that does not end is no path."""
    if not isinstance(value, str | Path):
        return value
    if isinstance(value, str) and value.startswith(("[", "{")):
        raise ValueError("this is no list; write one path, or a list such as [notes, facts.md]")
    return (value,) if value else ()


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


class Section(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelSettings(Section):
    """Which model is the frozen base, and in which numbers it is held."""

    id: str = Field("pocket", description='"pocket", a local folder or a hub id')
    revision: str | None = Field(None, description="hub revision; the default branch when absent")
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, BeforeValidator(_dtype_in_full)
    ] = Field(
        None, description="fp32, bf16, fp16 do too; absent or auto: float32 on CPU, else bfloat16"
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        None, description="bitsandbytes quantisation of the linear layers"
    )
    compile: bool = Field(
        default=False,
        description="decode through torch.compile; takes a minute or so at the first answers",
    )
    device: str = Field("auto", description='"auto" takes cuda, then mps, then cpu')
    local_files_only: bool = Field(default=False, description="never ask the hub")


class GenerationSettings(Section):
    """How answers are decoded unless a call says otherwise.

    Of the checkpoint's own generation_config only the end tokens are used. Answers are greedy
    unless `do_sample`; sampling has no top_k unless the call gives one. A call without a seed
    draws with the one configured here, so the same call gives the same answer.
    """

    max_new_tokens: PositiveInt = Field(64, description="tokens; the longest answer")
    do_sample: bool = Field(default=False, description="greedy when false")
    temperature: float = Field(1.0, gt=0.0, le=10.0, description="only when sampling")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="only when sampling")
    seed: int = Field(0, ge=0, description="of sampling")


class RouterSettings(Section):
    """When the base's own answer is trusted."""

    threshold: Probability = Field(
        0.7, description="least estimated probability of being right for a confident answer"
    )
    target_risk: Probability | None = Field(
        None, description="choose the threshold for this error rate among trusted answers"
    )
    grey_band: tuple[Probability, Probability] | None = Field(
        None,
        description="where the probability of being right lies between these, sample answers: one "
        "that they contradict is not trusted, one that they repeat is",
    )
    consistency_samples: int = Field(5, ge=2, le=64, description="answers sampled for that")
    redo: bool = Field(
        False,
        description="where the base's finished answer is not trusted, let the expert that came "
        "closest answer too, and keep the likelier answer; such answers are not streamed",
    )
    max_experts: int = Field(2, ge=1, le=8, description="experts mixed in one answer at most")
    mixing: Literal["top1", "weighted", "token", "logits"] = Field(
        "weighted",
        description="weighted: gates in proportion to expected success; token: these, found anew "
        "by every token and layer; logits: the experts' distributions are mixed, each on its own "
        "cache",
    )
    folder: Path | None = Field(
        None, description="a fitted router; absent: the pocket model's own, else untrained"
    )
    force_uncalibrated: bool = Field(
        False, description="use that router though it was fitted on another base, uncalibrated"
    )

    @field_validator("grey_band")
    @classmethod
    def _rises(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is not None and band[0] > band[1]:
            raise ValueError(f"{band[0]} to {band[1]}: give the lower end first")
        return band


class CacheSettings(Section):
    """Bounds on the memory that experts take."""

    device_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        description="bytes of the LoRA bank on the device; compiled steps may copy as many again",
    )
    device_experts: PositiveInt = Field(32, description="experts on the device at once")
    host_bytes: int = Field(256 * MIB, ge=0, description="bytes of experts kept in RAM")
    prompt_bytes: int = Field(
        64 * MIB, ge=0, description="bytes of key-values kept for a conversation's next turn"
    )


class GapSettings(Section):
    """When repeated failure becomes a declared gap, and what happens then."""

    on_verified: Literal["record", "ask", "train"] = Field(
        "record",
        description="record: only list it; ask: propose, as chat does when nothing is set; train: "
        "queue a training",
    )
    sources: Annotated[tuple[Path, ...], BeforeValidator(_as_several)] = Field(
        (), description="material that may fill gaps"
    )
    min_prompts: int = Field(8, ge=2, description="distinct prompts before a gap is declared")
    suspect_prompts: int = Field(5, ge=2, description="distinct prompts before it is suspected")
    failure_rate: Probability = Field(0.3, description="failure rate of the null hypothesis")
    failure_bound: Probability = Field(
        0.5, description="lower bound of the failure rate must lie above"
    )
    alpha: float = Field(
        0.05, gt=0.0, lt=1.0, description="false-gap probability over all clusters"
    )
    consistency_samples: int = Field(
        5, ge=2, le=16, description="answers sampled to check a prompt"
    )
    consistency_members: int = Field(8, ge=1, le=64, description="prompts of a gap checked at most")
    cooldown_prompts: int = Field(16, ge=0, description="prompts ignored after a rejected filling")
    minutes_per_day: float = Field(60.0, ge=0.0, description="training budget in minutes")
    max_experts: PositiveInt = Field(1000, description="experts in the store at most")
    store_bytes: int = Field(
        10 * GIB, ge=0, description="bytes of experts on the disk from which no gap is filled"
    )
    ledger: Path | None = Field(None, description="SQLite file; absent: beside the expert store")


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
    rank: int = Field(8, ge=1, le=128, description="reference rank r0; the budget is r0 everywhere")
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
    # Measured on the pocket model: about 100 facts need 600 to 800 steps of 32, 70 CPU ms each.
    max_steps: PositiveInt = Field(800, description="optimiser steps at most")
    batch_size: PositiveInt = Field(32, description="examples in one optimiser step")
    micro_batch_size: PositiveInt = Field(32, description="examples in one forward pass at most")
    gradient_checkpointing: bool = Field(
        False,
        description="keep only what enters each block for the gradients, and compute the rest "
        "again: less memory, a third more time; done anyway where one example does not fit",
    )
    # Measured there at 400 steps: 2e-3 to 4e-3 alike, 1e-2 does not learn.
    learning_rate: float = Field(3e-3, gt=0.0, le=1.0, description="peak, decays linearly to 5 %")
    warmup_steps: int = Field(10, ge=0, description="optimiser steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW")
    clip_norm: float = Field(1.0, gt=0.0, description="gradient norm")
    evaluate_every: PositiveInt = Field(80, description="steps between held-out evaluations")
    patience: PositiveInt = Field(4, description="evaluations without gain before stopping")
    split: Literal["auto", "recall", "generalise"] = Field(
        "auto", description="recall for documents of facts, generalise for example files"
    )
    held_out_fraction: float = Field(0.15, gt=0.0, lt=0.9, description="share of rows held out")
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
        512 * MIB, ge=0, description="RAM for prompt key-values; beyond it they are recomputed"
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

    @field_validator("auto_ranks")
    @classmethod
    def _are_ranks(cls, bounds: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= bounds[0] <= bounds[1] <= _LARGEST_RANK:
            raise ValueError(f"{bounds[0]} to {bounds[1]}: give two ranks from 1 to 128, rising")
        return bounds


class LoggingSettings(Section):
    """What is written where about the program's own doings."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    file: Path | None = Field(None, description="rotating log file; absent: none")
    file_bytes: int = Field(1_000_000, ge=1000, description="bytes before the file is rotated")
    file_count: int = Field(3, ge=0, le=100, description="old log files kept")


class Settings(Section):
    """The whole configuration tree."""

    base: BaseModelSettings = BaseModelSettings()
    store: Path | None = Field(
        None, description="expert store; absent: ADAPTIVE_MOE_STORE, ./experts, the user's data"
    )
    generation: GenerationSettings = GenerationSettings()
    router: RouterSettings = RouterSettings()
    cache: CacheSettings = CacheSettings()
    gaps: GapSettings = GapSettings()
    training: TrainingSettings = TrainingSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _suspicion_comes_before_verification(self) -> "Settings":
        if self.gaps.suspect_prompts > self.gaps.min_prompts:
            raise ValueError("gaps.suspect_prompts must not exceed gaps.min_prompts")
        return self
