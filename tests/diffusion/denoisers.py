"""Small denoisers for the tests, and one that knows the answer."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from instruct_ipt.diffusion import FILL_TASKS
from instruct_ipt.diffusion.schedule import signal
from instruct_ipt.diffusion.store import Card
from instruct_ipt.modulation import Modulated

SHARE = {"inpaint": (0.1, 0.6), "outpaint": (0.25, 0.6)}
KINDS = ("attention", "convolution")


def card(method: str = "synchronous", steps: int = 3, sampler: str = "ddim") -> Card:
    """What a tiny denoiser is."""
    return Card(method, "tiny", 32, FILL_TASKS, 2, KINDS, sampler, steps)


def stirred(method: str = "synchronous", seed: int = 0) -> Modulated:
    """A tiny network of a method in which no weight is zero any more, so that every task gives something else."""
    model = card(method).build(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).uniform_(-0.05, 0.05, generator=generator))
    return model.eval()


def picture(seed: int = 0, size: int = 32) -> np.ndarray:
    """A smooth picture, float32 (size, size, 3) in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    waves = [0.5 + 0.4 * np.sin(2 * np.pi * (a * rows + b * columns + c)) for a, b, c in rng.uniform(0, 1.5, (3, 3))]
    return np.stack(waves, axis=-1).astype(np.float32)


class Oracle(nn.Module):
    """Predicts the velocity of the one picture it knows, (H, W, 3) in [0, 1], whatever noise it is shown."""

    def __init__(self, truth: np.ndarray) -> None:
        super().__init__()
        self.truth = nn.Parameter(torch.from_numpy(truth * 2 - 1).permute(2, 0, 1)[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time = x[:, 7, 0, 0].double()
        a = torch.from_numpy(np.interp(time.numpy(), np.arange(1000), signal().double().numpy())).view(-1, 1, 1, 1)
        kept, hidden = a.sqrt(), (1 - a).sqrt()
        noise = (x[:, :3].double() - kept * self.truth) / hidden
        return (kept * noise - hidden * self.truth).float()
