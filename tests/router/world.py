"""A made-up base whose knowledge is known: domains in state space, entropies that tell."""

from collections.abc import Mapping, Sequence

import numpy as np

from adaptive_moe.models.fingerprint import Numerics
from adaptive_moe.models.token_trace import TokenTrace
from adaptive_moe.router.boundary import Placed
from adaptive_moe.router.evidence import Evidence, RouterRow

STATE = 24
NUMERICS = Numerics("float32", None, "cpu")


def make_trace(entropy: Sequence[float]) -> TokenTrace:
    """A trace whose figures all follow the given entropies, as over a vocabulary of 100 words."""
    values = np.asarray(entropy, dtype=np.float32)
    sure = np.exp(-values)
    return TokenTrace(
        log_probability=-values,
        entropy=values,
        margin=sure,
        max_probability=sure,
        self_certainty=5 - values,
        renyi=np.float32(np.log(100)) - values,
        log_sum_exp=10 * sure,
    )


def make_evidence(states: np.ndarray, entropy: float, text: str = "what is it") -> Evidence:
    """Evidence with this first-token entropy and the other scores in step with it."""
    scores = {
        "first_token_entropy": entropy,
        "first_token_msp": entropy,
        "first_token_margin": 1 - float(np.exp(-entropy)),
        "first_token_self_certainty": entropy - 5,
        "first_token_renyi": entropy - float(np.log(100)),
        "first_token_energy": -10 * float(np.exp(-entropy)),
    }
    return Evidence(scores, states.astype(np.float32), text)


def placed(states: np.ndarray, text: str = "what is it") -> Placed:
    """Prompts at these states that all say the same."""
    return Placed(states, (text,) * len(states))


class World:
    """Domains are balls in state space; a known fact shows in its entropy and along one axis."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        centres = np.random.default_rng(1234)
        self.centres = {name: centres.normal(0, 4, STATE) for name in "abcdefgh"}
        self.axis = centres.normal(0, 1, STATE)
        self.axis /= np.linalg.norm(self.axis)

    def states(self, domain: str, count: int) -> np.ndarray:
        noise = self.generator.normal(0, 1, (count, STATE))
        return (self.centres[domain] + noise).astype(np.float32)

    def rows(
        self,
        count: int,
        *,
        accuracy: Mapping[str, float],
        noise: float = 1.0,
        state_signal: float = 0.0,
    ) -> list[RouterRow]:
        """Graded prompts; entropy is 1 nat lower for a right answer, give or take `noise`."""
        rows = []
        names = sorted(accuracy)
        for index in range(count):
            domain = names[index % len(names)]
            right = bool(self.generator.random() < accuracy[domain])
            states = self.states(domain, 1)[0] + state_signal * (right - 0.5) * self.axis
            entropy = np.abs(self.generator.normal(2.0 - right, noise, 3))
            rows.append(
                RouterRow(
                    evidence=make_evidence(states, float(entropy[0])),
                    trace=make_trace(entropy[1:]),
                    correct=right,
                    domain=domain,
                    source=f"{domain}{index // 2}",
                )
            )
        return rows
