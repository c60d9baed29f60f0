"""Where an expert's prompts end and those begin that the base was asked before."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adaptive_moe.errors import RouterError

_REGULARISATION = 0.3  # inverse strength on standardised states; small, as states outnumber prompts
_FEWEST = 8  # prompts on either side that a boundary can be drawn between


@dataclass(frozen=True, slots=True)
class Boundary:
    """A linear boundary in the raw state space; `membership` is its logistic value."""

    weights: Float[np.ndarray, " state"]
    bias: float

    def membership(self, state: Float[np.ndarray, " state"]) -> float:
        """How surely a prompt is one of the expert's, 0 to 1.

        Raises RouterError for a state vector of another length.
        """
        if state.shape != self.weights.shape:
            raise RouterError(
                f"state vectors have {state.size} values, this expert expects {self.weights.size}"
            )
        value = float(self.weights @ state.astype(np.float32)) + self.bias
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, value))))


def fit_boundary(
    inside: Float[np.ndarray, "prompt state"], outside: Float[np.ndarray, "other state"]
) -> Boundary | None:
    """Logistic regression between an expert's training prompts and other prompts of the base.

    Both sides weigh the same, however many they are. None with fewer than eight on a side.
    Linear probes on hidden states tell topics better than distances do: Alain & Bengio 2016.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if min(len(inside), len(outside)) < _FEWEST:
        return None
    scaler = StandardScaler().fit(outside)
    states = scaler.transform(np.concatenate([inside, outside]))
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    fitted = LogisticRegression(C=_REGULARISATION, class_weight="balanced", max_iter=1000)
    fitted.fit(states, labels)
    weights = fitted.coef_[0] / scaler.scale_
    bias = float(fitted.intercept_[0] - weights @ scaler.mean_)
    return Boundary(weights.astype(np.float32), bias)
