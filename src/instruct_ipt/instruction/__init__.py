"""What has to be done: task weights from a sentence, or from the image itself."""

from __future__ import annotations

from instruct_ipt.instruction.estimator import Estimate, Estimator
from instruct_ipt.instruction.reader import Reader, Reading, Refusal

__all__ = ["Estimate", "Estimator", "Reader", "Reading", "Refusal"]
