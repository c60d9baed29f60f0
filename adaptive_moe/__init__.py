"""A frozen language model that grows LoRA experts where it notices that it does not know."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["AdaptiveMoE", "Answer", "__version__"]

if TYPE_CHECKING:
    from adaptive_moe.engine.events import Answer
    from adaptive_moe.engine.runtime import AdaptiveMoE


def __getattr__(name: str) -> object:
    """Import the engine on first use, so that `import adaptive_moe` needs no torch."""
    if name == "AdaptiveMoE":
        from adaptive_moe.engine.runtime import AdaptiveMoE

        return AdaptiveMoE
    if name == "Answer":
        from adaptive_moe.engine.events import Answer

        return Answer
    raise AttributeError(f"module 'adaptive_moe' has no attribute {name!r}")
