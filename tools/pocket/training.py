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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

logger = logging.getLogger("pocket")

Network = TypeVar("Network", bound=nn.Module)

SAVE_EVERY_S = 60.0
PAUSE_S = 5.0  # a step that takes longer was a pause (a machine asleep, a process stopped), and counts as this long
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


class Muon(torch.optim.Muon):
    """torch's Muon, with matrices of one shape orthogonalised together, and in float32 where bfloat16 is slow.

    On a processor without bfloat16 torch's own takes five times as long as all the rest of a step of the denoiser.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step, as torch's own does."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                ways = _orthogonal(torch.stack([self._momentum(matrix, group) for matrix in matrices]), group)
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))  # "match_rms_adamw"
                for matrix, way in zip(matrices, ways, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(way, alpha=-rate)
        return loss

    def _momentum(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        assert matrix.grad is not None
        kept = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix.grad))
        kept.lerp_(matrix.grad, 1 - group["momentum"])
        return matrix.grad.lerp(kept, group["momentum"])


def _orthogonal(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """Bring the singular values of matrices (count, m, n) near one: the Newton-Schulz iteration of torch.optim.Muon."""
    a, b, c = group["ns_coefficients"]
    fast = matrices.bfloat16() if has_bfloat16(matrices.device) else matrices
    tall = matrices.shape[1] > matrices.shape[2]
    fast = fast.mT if tall else fast
    fast = fast / fast.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = fast @ fast.mT
        fast = torch.baddbmm(fast, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), fast, beta=a)
    return (fast.mT if tall else fast).to(matrices.dtype)


class Optimizer:
    """AdamW; with `matrix_rate`, hidden weight matrices and convolutions are trained by Muon at that rate instead.

    Muon (https://kellerjordan.github.io/posts/muon) gives every direction of a matrix a step of the same length; it suits
    no first and last layers, no embeddings and no vectors. A convolution's weights count as a matrix with a row for each output.
    """

    NOT_HIDDEN = ("conv_in", "conv_out", "embedding")

    def __init__(
        self,
        modules: dict[str, nn.Module],
        learning_rate: float,
        rates: dict[str, float],
        weight_decay: float,
        matrix_rate: float | None,
    ) -> None:
        self.parameters: list[nn.Parameter] = []
        self._flat: list[tuple[nn.Parameter, nn.Parameter]] = []
        groups: list[dict[str, Any]] = []
        matrices: list[dict[str, Any]] = []
        for name, module in modules.items():
            rest: list[nn.Parameter] = []
            flat: list[nn.Parameter] = []
            for key, parameter in module.named_parameters():
                if not parameter.requires_grad:
                    continue
                self.parameters.append(parameter)
                if matrix_rate and parameter.ndim > 1 and not any(part in key for part in self.NOT_HIDDEN):
                    parameter.data = parameter.data.contiguous()  # flattened below, its memory stays the same one
                    flat.append(nn.Parameter(parameter.data.flatten(1)))
                    self._flat.append((parameter, flat[-1]))
                else:
                    rest.append(parameter)
            groups.append({"params": rest, "lr": learning_rate * rates.get(name, 1.0)})
            matrices.append({"params": flat, "lr": (matrix_rate or 0.0) * rates.get(name, 1.0)})
        self._all: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(groups, weight_decay=weight_decay, betas=(0.9, 0.98))
        }
        if matrix_rate:
            self._all["muon"] = Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._peaks = {name: [group["lr"] for group in each.param_groups] for name, each in self._all.items()}

    def step(self, share: float) -> None:
        """Clip the gradients and take a step at `share` of the learning rates; the gradients are gone afterwards."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for parameter, flat in self._flat:
            flat.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        for name, each in self._all.items():
            for group, peak in zip(each.param_groups, self._peaks[name], strict=True):
                group["lr"] = peak * share
            each.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {name: each.state_dict() for name, each in self._all.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name, each in self._all.items():
            each.load_state_dict(state[name])


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on(network: Network, device: torch.device) -> Network:
    """Move a network to a device, and give it back. (What diffusers and transformers say of their own `to` is not true.)"""
    nn.Module.to(network, device)
    return network


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device is quick at bfloat16 arithmetic."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]


def half_precision(device: torch.device) -> torch.autocast:
    """A context of bfloat16 arithmetic where the device has it, of float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def plain_attention(device: torch.device) -> AbstractContextManager[object]:
    """A context in which attention on a CPU is plain products: at these sizes its fused kernel takes thrice as long backwards."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


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
        matrix_rate: float | None = None,
    ) -> None:
        self.folder, self.modules, self.budget = folder, modules, budget
        self.history = History()
        self._averaging = averaging
        self._averages = {name: copy.deepcopy(module).requires_grad_(False) for name, module in modules.items()}
        self._optimizer = Optimizer(modules, learning_rate, rates or {}, weight_decay, matrix_rate)
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
            loss = loss_of()
            loss.backward()
            self._optimizer.step(trapezoid(self.progress))
            self._average()
            recent.append(loss.detach())
            self.history.steps += 1
            if len(recent) == 50:
                self._note(recent)
                recent = []
            self.history.seconds += min(time.monotonic() - started, PAUSE_S)
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
            live = [(average[key], value) for key, value in module.named_parameters() if value.requires_grad]
            kept, fresh = zip(*live, strict=True)
            torch._foreach_lerp_(kept, fresh, 1 - keep)  # pyright: ignore[reportPrivateUsage]

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
