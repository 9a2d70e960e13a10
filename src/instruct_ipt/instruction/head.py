"""The linear head: one calibrated probability per task, and one that the text asks for any of them at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from instruct_ipt.tasks import TASKS

SCOPE = "scope"
OUTPUTS: tuple[str, ...] = (*TASKS, SCOPE)


@dataclass(frozen=True)
class Head:
    """Linear scores, then a calibration of each.

    Attributes:
        weight: float32 (O, F), one row per output of :data:`OUTPUTS`.
        bias: float32 (O,).
        knots: per output the calibration, float32 (O, K, 2): pairs (score, calibrated log-odds) between which is
            interpolated; a temperature is a straight line through two of them.
    """

    weight: np.ndarray
    bias: np.ndarray
    knots: np.ndarray

    def scores(self, features: Any) -> np.ndarray:
        """Log-odds before calibration, (N, O). The scope's has the likeliest task's added: both must say yes."""
        scores = np.asarray(features @ self.weight.T) + self.bias
        scores[:, -1] += scores[:, :-1].max(axis=1)
        return scores

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities in (0, 1), (N, O), of scores (N, O): linear between knots, and on beyond them."""
        columns = [_along(scores[:, i], *self.knots[i].astype(np.float64).T) for i in range(scores.shape[1])]
        return expit(np.stack(columns, axis=1))


def targets(tasks: Sequence[Sequence[str]]) -> np.ndarray:
    """Which outputs should say yes, bool (N, O): the tasks of each text, and the scope if it has any."""
    return np.array([[task in found for task in TASKS] + [bool(found)] for found in tasks])


def fit(features: Any, wanted: np.ndarray, freedom: float) -> Head:
    """A head whose scores are not calibrated yet.

    Args:
        features: (N, F).
        wanted: bool (N, O), as :func:`targets` gives it.
        freedom: inverse of the regularisation, > 0.
    """
    from sklearn.linear_model import LogisticRegression

    weights, biases = [], []
    for column in wanted.T:
        model = LogisticRegression(C=freedom, class_weight="balanced", solver="liblinear", random_state=0, tol=1e-5)
        model.fit(features, column)
        weights.append(model.coef_[0])
        biases.append(model.intercept_[0])
    straight = np.tile(np.array([[-1.0, -1.0], [1.0, 1.0]], np.float32), (wanted.shape[1], 1, 1))
    return Head(np.array(weights, np.float32), np.array(biases, np.float32), straight)


def calibration(scores: np.ndarray, wanted: np.ndarray, how: Literal["temperature", "isotonic"]) -> np.ndarray:
    """Knots (O, K, 2) of a :class:`Head` whose probabilities match how often it is right.

    Args:
        scores: (N, O), of texts that the head was not trained on.
        wanted: bool (N, O).
        how: ``temperature``: slope and shift of the log-odds; ``isotonic``: any rising curve, through at most 32 knots.
    """
    one = _line if how == "temperature" else _curve
    return np.array([one(score, yes) for score, yes in zip(scores.T, wanted.T, strict=True)], np.float32)


def _along(value: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.interp(value, x, y) + np.minimum(value - x[0], 0) * left + np.maximum(value - x[-1], 0) * right


def _line(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e3, tol=1e-8).fit(scores[:, None], wanted)
    ends = np.array([-1.0, 1.0])
    return np.stack([ends, ends * model.coef_[0, 0] + model.intercept_[0]], axis=1)


def _curve(scores: np.ndarray, wanted: np.ndarray, knots: int = 32) -> np.ndarray:
    from sklearn.isotonic import IsotonicRegression

    # One half of a text on either side keeps a probability off 0 and 1, which few texts cannot show.
    low = 0.5 / (len(scores) + 1)
    curve = IsotonicRegression(y_min=low, y_max=1 - low, out_of_bounds="clip").fit(scores, wanted)
    x = np.linspace(scores.min(), scores.max(), knots)
    p = curve.predict(x)
    return np.stack([x, np.log(p / (1 - p))], axis=1)
