"""The training loop, readable top to bottom: one step, the phases around it, resume, validation."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from instruct_ipt.data.stream import Batch, PatchStream, prefetch
from instruct_ipt.errors import InputError
from instruct_ipt.progress import Advance, progress
from instruct_ipt.training.checkpoint import Checkpoints
from instruct_ipt.training.distributed import World
from instruct_ipt.training.losses import restoration_loss
from instruct_ipt.training.phases import Phase, counts_of, patch_at, rate_at

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel

# A step whose loss or gradient is not finite is skipped, so that one bad batch does not end a week. More than so many
# in a row is divergence; more than this share of all steps is data that should be looked at.
MAX_SKIPPED = 5
MAX_SKIPPED_SHARE = 0.01
# Images that a message names at most.
NAMED = 6

Validate = Callable[["TaskModel"], dict[str, float]]
Observe = Callable[[int, dict[str, float]], None]


@dataclass
class Run:
    """What the loop carries from step to step, and what a checkpoint holds.

    Attributes:
        history: rows (step, task, loss, psnr, lr) at every validation.
        losses: running sums of the error and counts per task since the last validation, over all processes.
        skipped: steps in a row whose loss or gradient was not finite.
        skipped_in_all: such steps since the beginning.
    """

    history: list[list[Any]] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    skipped: int = 0
    skipped_in_all: int = 0


class Trainer:
    """Trains one task model through its phases, alone or together with the other processes of a `World`.

    Args:
        model: backbone with whatever serves its tasks; trained in place.
        stream: where batches come from.
        settings: the `training` section of the parameters.
        validate: PSNR in dB per task on the validation split, or None for a run that is judged by its caller.
        checkpoints: folder for rolling checkpoints, or None.
        observe: called with (step, metrics) at each validation.
        title: shown by the progress bar.
    """

    def __init__(
        self,
        model: TaskModel,
        stream: PatchStream,
        settings: Any,
        validate: Validate | None = None,
        checkpoints: Path | None = None,
        observe: Observe | None = None,
        title: str = "training",
    ) -> None:
        self.model, self.stream, self.settings = model, stream, settings
        self.validate, self.title = validate, title
        self.world = World.current()
        self.observe = observe if self.world.first else None
        self.checkpoints = Checkpoints(checkpoints if self.world.first else None)
        if self.world.device:
            model.to(self.world.device)  # type: ignore[attr-defined]
        self.device = next(model.parameters()).device
        self.run = Run()
        self._tolerated = MAX_SKIPPED

    def train(self, phases: list[Phase]) -> list[list[Any]]:
        """Run the phases, resuming from the newest checkpoint; the model ends with its averaged (EMA) weights.

        The last checkpoint is of the finished training and stays: what comes after it, other trainings of the same
        stage among that, may be killed too. Who owns the folder deletes it once the weights have their place.

        Returns:
            History rows ``[step, task, loss, psnr, lr]``.

        Raises:
            InputError: loss or gradient was not finite in more than :data:`MAX_SKIPPED` steps in a row, or in more than
                :data:`MAX_SKIPPED_SHARE` of all steps; or a batch has fewer samples than there are processes.
        """
        torch.set_num_threads(self.settings.threads)
        self.world.start_alike(self.model)
        # Read by the process that writes them and sent round: the others may see another disk, or an older state of it.
        state = self.world.broadcast(self.checkpoints.latest())
        steps = sum(phase.steps for phase in phases)
        self._tolerated = max(MAX_SKIPPED, int(MAX_SKIPPED_SHARE * steps))
        with self._progress(steps) as advance:
            begun = 0
            for number, phase in enumerate(phases):
                if state is None or state["phase"] == number:
                    self._phase(number, phase, begun, state, advance)
                    state = None
                    self._checkpoint(number + 1, 0, begun + phase.steps, None, [])
                begun += phase.steps
        if state is not None:
            self._restore(state)
        return self.run.history

    def _progress(self, steps: int) -> AbstractContextManager[Advance]:
        return progress(self.title, steps) if self.world.first else nullcontext(lambda done, note: None)

    def _phase(self, number: int, phase: Phase, begun: int, state: dict[str, Any] | None, advance: Advance) -> None:
        self.model.set_trainable(backbone=phase.backbone, biases=phase.biases)
        optimiser = make_optimiser(self.model, self.settings)
        average = [p.detach().clone() for p in self.model.parameters()]
        first = 0
        if state is not None:
            first = state["done"]
            self._restore(state)
            # A phase not yet begun has no optimiser, and its weights are their own average.
            if state["optimiser"]:
                optimiser.load_state_dict(state["optimiser"])
            for mine, saved in zip(average, state["average"] or self.model.parameters(), strict=True):
                mine.copy_(saved.detach())
        counts = counts_of(self.settings.task_weights, self.settings.batch_per_task, phase.tasks or self.model.tasks)
        plan = [
            (begun + step, patch_at(step, phase.steps, self.settings.patches), counts)
            for step in range(first, phase.steps)
        ]
        stream = self.world.share(self.stream)
        for step, batch in enumerate(prefetch(stream, plan, self.settings.workers), start=first):
            rate = rate_at(step, phase.steps, self.settings.warmup)
            loss = self._step(optimiser, batch, rate, begun + step)
            self._average(average, step)
            done = step + 1
            advance(begun + done, f"loss {loss:.4f}")
            if self.validate and (done % self.settings.validate_every == 0 or done == phase.steps):
                self._record(begun + done, optimiser, average)
            if done % self.settings.checkpoint_every == 0 and done < phase.steps:
                self._checkpoint(number, done, begun, optimiser, average)
        with torch.no_grad():
            for parameter, mean in zip(self.model.parameters(), average, strict=True):
                parameter.copy_(mean)

    def _step(self, optimiser: torch.optim.Optimizer, batch: Batch, rate: float, step: int) -> float:
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * rate
        loss, errors = self._losses(batch)
        value, share = self._note(batch, float(loss.detach()), errors)
        optimiser.zero_grad(set_to_none=True)
        if not math.isfinite(value):
            self._skip(step, "loss", batch, errors.isfinite().logical_not().tolist())
            return value
        loss.backward()
        trained = [p for group in optimiser.param_groups for p in group["params"]]
        self.world.average_gradients(trained, share)
        # Averaged first, so that all processes skip a step if one has to.
        if not math.isfinite(nn.utils.clip_grad_norm_(trained, self.settings.clip)):
            self._skip(step, "gradient", batch, [True] * len(batch.task))
            return value
        self.run.skipped = 0
        optimiser.step()
        return value

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss over the batch, and each sample's mean absolute error (N,), without gradient."""
        task = torch.from_numpy(batch.task).to(self.device)
        target = to_tensor(batch.target, self.device)
        with autocast(self.settings.precision, self.device):
            output = self.model(to_tensor(batch.input, self.device), task)
        loss = restoration_loss(output, target, **vars(self.settings.loss))
        with torch.no_grad():
            return loss, (output - target).abs().mean(dim=(1, 2, 3))

    def _note(self, batch: Batch, loss: float, errors: Tensor) -> tuple[float, float]:
        """Add the errors to the history's sums per task, unless the loss is not finite.

        Returns:
            The mean loss over the samples of all processes, and the share of the samples that this process had.
        """
        # One row per task (sum of errors, samples), and one for the loss: a step has one small sum over all processes.
        # It is taken before the backward pass, so that all of them skip a step if one has to.
        table = torch.zeros(len(self.model.tasks) + 1, 2, dtype=torch.float64)
        rows = torch.stack([errors.double().cpu(), torch.ones(len(errors), dtype=torch.float64)], dim=1)
        table.index_add_(0, torch.from_numpy(batch.task), rows)
        table[-1] = torch.tensor([loss * len(errors), len(errors)])
        *totals, (loss_sum, samples) = self.world.sum(table).tolist()
        if math.isfinite(loss_sum):
            for task, (error, count) in zip(self.model.tasks, totals, strict=True):
                if count:
                    before = self.run.losses.get(task, [0.0, 0.0])
                    self.run.losses[task] = [before[0] + error, before[1] + count]
        return loss_sum / samples, len(errors) / samples

    def _skip(self, step: int, what: str, batch: Batch, suspects: list[bool]) -> None:
        """Count a step that changes nothing, say so, and stop after too many."""
        self.run.skipped += 1
        self.run.skipped_in_all += 1
        where = f"step {step} ({self._described(batch, suspects)})"
        if self.run.skipped > MAX_SKIPPED or self.run.skipped_in_all > self._tolerated:
            often = f"{self.run.skipped} steps in a row"
            if self.run.skipped <= MAX_SKIPPED:
                often = f"{self.run.skipped_in_all} steps, more than {self._tolerated}"
            raise InputError(
                f"the {what} was not finite in {often}, last at {where}; look at these images, or lower the "
                "learning rate (training.learning_rate in params.yaml)"
            )
        if any(suspects):
            print(f"{self.title}: {where} is skipped, its {what} is not finite", file=sys.stderr)

    def _described(self, batch: Batch, suspects: list[bool]) -> str:
        """``task: image, image; task: image`` of the suspected samples."""
        names = batch.names or ["an image"] * len(suspects)
        found = [(int(t), name) for t, name, bad in zip(batch.task, names, suspects, strict=True) if bad]
        if not found:
            return "images of another process"
        parts = {
            task: ", ".join(dict.fromkeys(name for index, name in found[:NAMED] if index == task))
            for task in dict.fromkeys(index for index, _ in found[:NAMED])
        }
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        return "; ".join(f"{self.model.tasks[task]}: {images}" for task, images in parts.items()) + more

    def _average(self, average: list[Tensor], step: int) -> None:
        """Exponential moving average of the weights, with the usual short memory at the start."""
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in self.model.parameters()], 1.0 - decay)

    def _record(self, step: int, optimiser: torch.optim.Optimizer, average: list[Tensor]) -> None:
        assert self.validate is not None
        with swapped(self.model, average):
            # By the first process alone: on a CPU the others would only slow it down.
            scores = self.world.broadcast(self.validate(self.model) if self.world.first else {})
        rate = optimiser.param_groups[0]["lr"]
        shown: dict[str, float] = {}
        for task, psnr in scores.items():
            total, count = self.run.losses.get(task, [0.0, 0.0])
            loss = total / count if count else float("nan")
            self.run.history.append([step, task, loss, psnr, rate])
            shown |= {f"{task}/psnr": psnr} | ({f"{task}/loss": loss} if count else {})
        self.run.losses = {}
        if self.observe:
            self.observe(step, shown)

    def _checkpoint(
        self, number: int, done: int, begun: int, optimiser: torch.optim.Optimizer | None, average: Sequence[Tensor]
    ) -> None:
        """Keep the state after ``done`` steps of phase ``number``; a phase not yet begun has no optimiser."""
        state = {
            "phase": number,
            "done": done,
            "model": self.model.state_dict(),
            "average": [mean.detach() for mean in average] if optimiser else [],
            "optimiser": optimiser.state_dict() if optimiser else None,
            "history": self.run.history,
            "losses": self.run.losses,
            "skipped": [self.run.skipped, self.run.skipped_in_all],
        }
        self.checkpoints.save(begun + done, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.run = Run(state["history"], state["losses"], *state["skipped"])


def make_optimiser(model: TaskModel, settings: Any) -> torch.optim.Optimizer:
    """AdamW with a learning rate per parameter family; only parameters that learn are in it.

    Norms, temperatures and other 1-D parameters are not decayed. The fused kernel is one pass over memory, which on a
    CPU is most of what the update costs.
    """
    groups = []
    families = (
        (model.backbone_parameters(), settings.learning_rate.backbone),
        (model.bias_parameters(), settings.learning_rate.biases),
    )
    for parameters, rate in families:
        learning = [p for p in parameters if p.requires_grad]
        for members, decay in (
            ([p for p in learning if p.ndim > 1], settings.weight_decay),
            ([p for p in learning if p.ndim <= 1], 0.0),
        ):
            if members:
                groups.append({"params": members, "lr": rate, "base_lr": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)


class swapped:
    """Context in which ``model`` holds the ``average`` weights; the trained ones come back after it."""

    def __init__(self, model: nn.Module, average: list[Tensor]) -> None:
        self.model, self.average = model, average

    def __enter__(self) -> None:
        self.kept = [p.detach().clone() for p in self.model.parameters()]
        self._fill(self.average)

    def __exit__(self, *_: object) -> None:
        self._fill(self.kept)

    @torch.no_grad()
    def _fill(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.model.parameters(), values, strict=True):
            parameter.copy_(value)


def to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """float32 (N, H, W, 3) -> (N, 3, H, W) as a channels-last view, without a copy on the CPU."""
    return torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2)


def autocast(precision: str, device: torch.device) -> Any:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def write_history(path: Path, rows: list[list[Any]]) -> None:
    """``history.csv``: step, task, loss, psnr, lr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["step", "task", "loss", "psnr", "lr"])
        writer.writerows([s, t, f"{loss:.6f}", f"{psnr:.4f}", f"{rate:.6g}"] for s, t, loss, psnr, rate in rows)
