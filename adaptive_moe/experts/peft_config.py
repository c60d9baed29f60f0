"""PEFT's adapter_config.json: written for our experts, and read from strangers without trust.

Patterns in a foreign config are regular expressions; only plain ones are evaluated, the way
peft.utils.other.get_pattern_key does, so that no file can stall the reader.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from adaptive_moe.config.foreign_methods import FOREIGN_METHODS
from adaptive_moe.errors import AdapterFormatError
from adaptive_moe.experts.manifest import MAX_RANK, ModuleRecord

CONFIG_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
_Number = TypeVar("_Number", int, float)
_MAX_PATTERNS = 2048
_PLAIN_PATTERN = re.compile(
    r"\^?(?:[\w-]|\\\.|\.\*?|\\d\+?|\[0-9\]\+?|\((?:\?:)?[\w.|-]+\))*\$?", re.ASCII
)
_MAX_REPEATS = 2
# Settings that say where a LoRA came from or which layers it has; the tensors' names tell the same.
_WITHOUT_EFFECT = frozenset(
    {
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "use_rslora",
        "bias",
        "init_lora_weights",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "megatron_core",
        "megatron_config",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "runtime_config",
        "qalora_group_size",
        "alora_invocation_tokens",
    }
)
_BASE_KEEPING_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """What a foreign config means for the numbers."""

    rank: int
    alpha: float
    ranks: tuple[tuple[re.Pattern[str], int], ...]
    alphas: tuple[tuple[re.Pattern[str], float], ...]
    is_rank_stabilised: bool
    invocation_ids: tuple[int, ...] | None

    def scaling(self, module: str, *, rank: int) -> float:
        """PEFT's factor for the module; AdapterFormatError if the file holds another rank."""
        expected = _first_match(self.ranks, module, default=self.rank)
        if expected != rank:
            raise AdapterFormatError(f"{module}: rank {rank} in the file, {expected} in its config")
        alpha = _first_match(self.alphas, module, default=self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def config_text(
    modules: Mapping[str, ModuleRecord], *, header_ids: Sequence[int] | None, base_name: str
) -> str:
    """The config of our experts: explicit names, patterns anchored, one spelling for one expert.

    A path to the base is cut to its last part, so equal experts are equal on every machine.
    """
    shapes = {name: (record.rank, record.scaling * record.rank) for name, record in modules.items()}
    counts = Counter(shapes.values())
    rank, alpha = min(counts, key=lambda shape: (-counts[shape], shape))
    is_path = PurePath(base_name).is_absolute() or base_name.startswith(".")
    config = {
        "alora_invocation_tokens": list(header_ids) if header_ids else None,
        "alpha_pattern": {
            _anchored(name): own for name, (_, own) in sorted(shapes.items()) if own != alpha
        },
        "base_model_name_or_path": PurePath(base_name).name if is_path else base_name,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {
            _anchored(name): own for name, (own, _) in sorted(shapes.items()) if own != rank
        },
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def parse_config(text: bytes) -> PeftConfig:
    """Read a stranger's config; AdapterFormatError for everything that is more than plain LoRA."""
    config = _object(text)
    if config.get("peft_type") != "LORA":
        told = f"peft_type is {config.get('peft_type')!r}; only LORA can be used"
        reason = FOREIGN_METHODS.get(str(config.get("peft_type")).lower())
        raise AdapterFormatError(f"{told}: {reason}" if reason else told)
    _refuse_extensions(config)
    invocation = config.get("alora_invocation_tokens")
    if invocation is not None and not _is_id_list(invocation):
        raise AdapterFormatError("alora_invocation_tokens is not a list of token ids")
    return PeftConfig(
        rank=_rank(config.get("r", 8), "r"),
        alpha=_alpha(config.get("lora_alpha", 8), "lora_alpha"),
        ranks=tuple(
            (key, _rank(value, "rank_pattern")) for key, value in _patterns(config, "rank_pattern")
        ),
        alphas=tuple(
            (key, _alpha(value, "alpha_pattern"))
            for key, value in _patterns(config, "alpha_pattern")
        ),
        is_rank_stabilised=config.get("use_rslora") is True,
        invocation_ids=tuple(invocation) if invocation else None,
    )


def base_name_of(text: bytes) -> str:
    """The base the config names, "" if none."""
    name = _object(text).get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def _anchored(name: str) -> str:
    return "^" + re.escape(name)


def _object(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_CONFIG_BYTES:
        raise AdapterFormatError(f"{CONFIG_NAME} has {len(text)} bytes; at most {MAX_CONFIG_BYTES}")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{CONFIG_NAME} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise AdapterFormatError(f"{CONFIG_NAME} is not a JSON object")
    return config


def _refuse_extensions(config: Mapping[str, Any]) -> None:
    extensions = [key for key, value in config.items() if value and key not in _WITHOUT_EFFECT]
    if extensions:
        told = f"uses {', '.join(sorted(extensions))}; only plain LoRA is read"
        is_dora = "use_dora" in extensions
        raise AdapterFormatError(f"{told}: {FOREIGN_METHODS['dora']}" if is_dora else told)
    if config.get("bias", "none") != "none":
        raise AdapterFormatError(
            f"bias is {config['bias']!r}; adapters that train biases are not read"
        )
    init = config.get("init_lora_weights")
    if init not in _BASE_KEEPING_INITS:
        raise AdapterFormatError(f"init_lora_weights is {init!r}, which changes the base model")


def _patterns(config: Mapping[str, Any], name: str) -> list[tuple[re.Pattern[str], Any]]:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERNS:
        raise AdapterFormatError(f"{name} is not a mapping of at most {_MAX_PATTERNS} patterns")
    return [(_compiled(key, name), value) for key, value in patterns.items()]


def _compiled(pattern: str, name: str) -> re.Pattern[str]:
    repeats = pattern.count("*") + pattern.count("+")
    is_plain = len(pattern) <= 300 and repeats <= _MAX_REPEATS  # noqa: PLR2004 - a long name
    if not is_plain or not _PLAIN_PATTERN.fullmatch(pattern):
        raise AdapterFormatError(f"{name}: {pattern[:80]!r} is not a plain pattern of module names")
    return re.compile(rf"(.*\.)?({pattern})$")


def _first_match(
    patterns: Sequence[tuple[re.Pattern[str], _Number]], module: str, *, default: _Number
) -> _Number:
    return next((value for key, value in patterns if key.match(module)), default)


def _rank(value: object, name: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise AdapterFormatError(f"{name} is {value!r}; a rank is 1 to {MAX_RANK}")
    return value


def _alpha(value: object, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) < 1e6:  # type: ignore[arg-type]  # noqa: PLR2004
        raise AdapterFormatError(f"{name} is {value!r}; it must be a number above 0")
    return float(value)  # type: ignore[arg-type]


def _is_id_list(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
