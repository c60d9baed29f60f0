"""What a run of the benchmarks measures, and how thoroughly; imports nothing heavy."""

from collections.abc import Callable
from dataclasses import dataclass

POCKET = "pocket"
RANDOM_30M = "random-30m"
RANDOM_BILLION = "random-1.2b"
RANDOM_BILLION_NF4 = "random-1.2b-nf4"

_QUICK_ROUNDS = 10

Tell = Callable[[str], None]
"""Takes one line about how far a run has come; each line replaces the one before it."""


def under(title: str, tell: Tell) -> Tell:
    """Tell the same with a title before it."""
    return lambda text: tell(f"{title}: {text}")


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of one run, as they are reported with it.

    `models` are names of `bases.load`; none stands for those that the device can carry. `rounds`
    is the largest number of rounds; variants whose interval is narrow stop earlier, and after ten
    rounds `minutes` end those of a model, whatever their intervals. `quick` leaves out what takes
    minutes and stops at ten rounds. `polygraph` is the interpreter of an environment that holds
    lm-polygraph 0.7.0, None for a run without that peer. `foreign` is a model of others, and
    `domains` a folder of texts for it (see foreign_world); None for a run without it.
    """

    models: tuple[str, ...] = ()
    rounds: int = 200
    minutes: float | None = None
    seed: int = 0
    threads: int = 2
    device: str = "cpu"
    quick: bool = False
    prompt_tokens: int = 64  # header included
    new_tokens: int = 64
    rank: int = 8
    batches: tuple[int, ...] = (1, 8)
    polygraph: str | None = None
    foreign: str | None = None
    domains: str | None = None

    @property
    def bases(self) -> tuple[str, ...]:
        """The models to measure on; a billion parameters only where there is an accelerator."""
        large = (RANDOM_BILLION, RANDOM_BILLION_NF4) if self.device.startswith("cuda") else ()
        return self.models or (POCKET, RANDOM_30M, *large)

    @property
    def compiles(self) -> bool:
        """Whether answers through torch.compile are measured too: on CUDA."""
        return self.device.startswith("cuda")

    @property
    def most_rounds(self) -> int:
        """No variant runs in more rounds than this."""
        return min(self.rounds, _QUICK_ROUNDS) if self.quick else self.rounds
