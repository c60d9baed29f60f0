"""The one home of every setting: its type, default, unit and range."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from adaptive_moe.config.section import GIB, MIB, PositiveInt, Probability, Section
from adaptive_moe.config.training_settings import (
    OF_THE_GATE,
    OF_THE_MACHINE,
    FilterName,
    RankStrategy,
    TeacherSettings,
    TrainingSettings,
)

__all__ = [
    "GIB",
    "MIB",
    "OF_THE_GATE",
    "OF_THE_MACHINE",
    "BaseModelSettings",
    "CacheSettings",
    "FilterName",
    "GapSettings",
    "GenerationSettings",
    "LoggingSettings",
    "RankStrategy",
    "RouterSettings",
    "Section",
    "Settings",
    "TeacherSettings",
    "TrainingSettings",
]

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
