"""One resumable training loop for every member of the family.

A stage has a folder with `state.pt` (weights, averaged weights, optimiser, history); it is written every minute and read
at the next start, so a stage that is stopped goes on where it was. Single-threaded; torch uses what threads it is given.
"""

import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger("pocket")

SAVE_EVERY_S = 60.0
AVERAGING = 0.9995
SEED = 20261121


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a stage trains: until `seconds` of training or `steps` are over, whichever is first."""

    seconds: float = math.inf
    steps: float = math.inf

    def progress(self, seconds: float, steps: int) -> float:
        """How much of it is used, 0 to 1."""
        return min(1.0, max(seconds / self.seconds, steps / self.steps))


@dataclass(slots=True)
class History:
    """What a stage has done so far: steps, seconds of training, and (step, mean loss) points."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def figures(self) -> dict[str, Any]:
        """What the model card says of the stage."""
        first = self.losses[0][1] if self.losses else None
        last = self.losses[-1][1] if self.losses else None
        return {"steps": self.steps, "minutes": round(self.seconds / 60, 1), "loss_first": first, "loss_last": last}


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half_precision(device: torch.device) -> torch.autocast:
    """A context of bfloat16 arithmetic where the device has it, of float32 elsewhere."""
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def trapezoid(progress: float, warm: float = 0.02, fall: float = 0.4) -> float:
    """A learning rate's share: rising, level, then falling to nearly nothing."""
    return max(0.01, min(progress / warm, 1.0, (1 - progress) / fall))


class Trainer:
    """Trains modules together under one budget; `averaged(name)` is what to ship."""

    def __init__(
        self,
        folder: Path,
        modules: dict[str, nn.Module],
        budget: Budget,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        averaging: float = AVERAGING,
        rates: dict[str, float] | None = None,
    ) -> None:
        self.folder, self.modules, self.budget = folder, modules, budget
        self.history = History()
        self._averaging = averaging
        self._averages = {name: copy.deepcopy(module).requires_grad_(False) for name, module in modules.items()}
        groups = [
            {
                "params": [p for p in module.parameters() if p.requires_grad],
                "lr": learning_rate * (rates or {}).get(name, 1.0),
            }
            for name, module in modules.items()
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, betas=(0.9, 0.98))
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def progress(self) -> float:
        """How much of the budget is used, 0 to 1."""
        return self.budget.progress(self.history.seconds, self.history.steps)

    def averaged(self, name: str) -> nn.Module:
        """Give a module with its weights averaged over the steps."""
        return self._averages[name]

    def run(self, loss_of: Callable[[], Tensor]) -> History:
        """Train until the budget is used; `loss_of` draws a batch and gives its loss, a scalar."""
        recent: list[Tensor] = []
        saved = time.monotonic()
        while self.progress < 1.0:
            started = time.monotonic()
            for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * trapezoid(self.progress)
            loss = loss_of()
            loss.backward()
            nn.utils.clip_grad_norm_((p for group in self._optimizer.param_groups for p in group["params"]), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._average()
            recent.append(loss.detach())
            self.history.steps += 1
            if len(recent) == 50:
                self._note(recent)
                recent = []
            self.history.seconds += time.monotonic() - started
            if time.monotonic() - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        if recent:
            self._note(recent)
        self.save()
        return self.history

    def _note(self, recent: Iterable[Tensor]) -> None:
        mean = float(torch.stack(list(recent)).mean())
        self.history.losses.append((self.history.steps, round(mean, 5)))
        logger.info("%s: step %d, %.0f s, loss %.4f", self.folder.name, self.history.steps, self.history.seconds, mean)

    @torch.no_grad()
    def _average(self) -> None:
        count = self.history.steps
        keep = min(self._averaging, (1 + count) / (20 + count))
        for name, module in self.modules.items():
            average = dict(self._averages[name].named_parameters())
            for key, value in module.named_parameters():
                if value.requires_grad:
                    average[key].lerp_(value, 1 - keep)

    def save(self) -> None:
        """Write the state beside the old one, then put it in its place."""
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "averages": {name: module.state_dict() for name, module in self._averages.items()},
            "optimizer": self._optimizer.state_dict(),
            "history": (self.history.steps, self.history.seconds, self.history.losses),
        }
        fresh = self.folder / "state.pt.new"
        torch.save(state, fresh)
        os.replace(fresh, self.folder / "state.pt")
        (self.folder / "figures.json").write_text(json.dumps(self.history.figures(), indent=1) + "\n")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
            self._averages[name].load_state_dict(state["averages"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        steps, seconds, losses = state["history"]
        self.history = History(steps, seconds, [(int(step), float(loss)) for step, loss in losses])
        logger.info("%s: going on at step %d", self.folder.name, steps)
