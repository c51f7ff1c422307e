"""The training loop: it stops and goes on as if it never had, and what it averages and clips is what it says."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.pocket import training
from tools.pocket.training import PAUSE_S, Budget, Muon, Optimizer, Trainer, trapezoid

STEPS, STOP = 12, 5
MATRIX_RATES = pytest.mark.parametrize("matrix_rate", [None, 0.02], ids=["adamw", "muon"])


class Net(nn.Module):
    """A first, a hidden and a last layer, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.hidden, self.conv_out = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 1, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.conv_out(functional.silu(self.hidden(functional.silu(self.conv_in(pictures)))))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def trainer(
    folder: Path, module: Net, steps: float, matrix_rate: float | None = None, averaging: float = 0.9
) -> Trainer:
    # The share of a rate depends on the budget, so the stopped one is stopped by an exception, not by a smaller budget.
    return Trainer(
        folder, {"net": module}, Budget(steps=steps), learning_rate=0.01, averaging=averaging, matrix_rate=matrix_rate
    )


def loss_of(trained: Trainer, module: Net, stop: float = math.inf) -> Callable[[], Tensor]:
    """A loss whose batch is known by the step alone; it raises KeyboardInterrupt at step `stop`."""

    def give() -> Tensor:
        step = trained.history.steps
        if step == stop:
            raise KeyboardInterrupt
        pictures = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(step))
        return functional.mse_loss(module(pictures), pictures[:, :1] * pictures[:, 1:])

    return give


def run(folder: Path, matrix_rate: float | None, stops: tuple[int, ...]) -> tuple[Net, Trainer]:
    """Train for STEPS in as many starts as there are stops and one more, each with other weights to begin with."""
    for start, stop in enumerate((*stops, math.inf)):
        module = net(start)
        trained = trainer(folder, module, STEPS, matrix_rate)
        try:
            trained.run(loss_of(trained, module, stop))
        except KeyboardInterrupt:
            trained.save()
        else:
            return module, trained
    raise AssertionError


def flat(value: object) -> list[object]:
    """All leaves of nested dicts and lists, in order."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *flat(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in flat(part)]
    return [value.tolist() if isinstance(value, Tensor) else value]


@MATRIX_RATES
def test_a_stopped_training_ends_as_an_uninterrupted_one(matrix_rate: float | None, tmp_path: Path) -> None:
    whole, first = run(tmp_path / "whole", matrix_rate, ())
    parts, second = run(tmp_path / "parts", matrix_rate, (STOP, STOP + 3))
    assert second.history.steps == STEPS
    for one, other in ((whole, parts), (first.averaged("net"), second.averaged("net"))):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    kept = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    assert flat(kept[0]["optimizer"]) == flat(kept[1]["optimizer"])


@MATRIX_RATES
def test_all_but_what_is_frozen_learns(matrix_rate: float | None, tmp_path: Path) -> None:
    module, trained = run(tmp_path, matrix_rate, ())
    moved = {name for name, value in module.named_parameters() if not torch.equal(value, net().state_dict()[name])}
    assert moved == {f"{layer}.{kind}" for layer in ("conv_in", "hidden", "conv_out") for kind in ("weight", "bias")}
    assert [step for step, _ in trained.history.losses] == [STEPS]
    assert json.loads((tmp_path / "figures.json").read_text())["steps"] == STEPS


def test_muon_has_the_hidden_weights_in_their_own_memory(tmp_path: Path) -> None:
    module = net()
    optimizer = Optimizer({"net": module}, 0.01, {}, 0.0, 0.02)
    state = optimizer.state_dict()
    assert [len(group["params"]) for group in state["muon"]["param_groups"]] == [1]
    assert [len(group["params"]) for group in state["adamw"]["param_groups"]] == [5]
    before = module.hidden.weight.detach().clone()
    address = module.hidden.weight.data_ptr()
    module(torch.randn(1, 2, 5, 5)).square().mean().backward()
    optimizer.step(1.0)
    moved = (module.hidden.weight.detach() - before).flatten(1)
    assert module.hidden.weight.data_ptr() == address
    # Muon goes as far in every direction of a matrix; 0.2 √(longer side) is its rate matched to AdamW's.
    lengths = torch.linalg.svdvals(moved) / (0.02 * 0.2 * math.sqrt(54))
    assert ((lengths > 0.5) & (lengths < 1.5)).all()
    assert module.hidden.weight.grad is None


def test_muon_of_innermost_channels_moves_the_weights_too() -> None:
    module = net().to(memory_format=torch.channels_last)
    optimizer = Optimizer({"net": module}, 0.01, {}, 0.0, 0.02)
    before = module.hidden.weight.detach().clone()
    module(torch.randn(1, 2, 5, 5)).square().mean().backward()
    optimizer.step(1.0)
    assert not torch.equal(module.hidden.weight, before)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=["wide", "tall"])
def test_muon_in_bfloat16_is_torchs_own(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "has_bfloat16", lambda device: True)
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [nn.Parameter(matrix.detach().clone()) for matrix in ours]
    settings = {"lr": 0.01, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = (Muon(ours, **settings), torch.optim.Muon(theirs, **settings))
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        # One product of several matrices may round otherwise than several products.
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_rates_are_of_modules_and_follow_the_share() -> None:
    optimizer = Optimizer({"one": net(), "other": net()}, 0.01, {"other": 0.5}, 0.0, 0.02)
    for parameter in optimizer.parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.1)
    rates = {name: [group["lr"] for group in kept["param_groups"]] for name, kept in optimizer.state_dict().items()}
    assert rates == {"adamw": pytest.approx([0.001, 0.0005]), "muon": pytest.approx([0.002, 0.001])}


def test_a_pause_counts_as_a_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = net()
    trained = trainer(tmp_path, module, 2)
    given = loss_of(trained, module)
    now = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    waits = itertools.chain([0.5, 3600.0])

    def slow() -> Tensor:
        now[0] += next(waits)
        return given()

    assert trained.run(slow).seconds == pytest.approx(0.5 + PAUSE_S)


def test_a_budget_in_seconds_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = net()
    trained = Trainer(tmp_path, {"net": module}, Budget(seconds=3))
    given = loss_of(trained, module)
    now = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow() -> Tensor:
        now[0] += 1
        return given()

    assert trained.run(slow).steps == 3
    assert trained.progress == 1


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 0.01), (0.01, 0.5), (0.02, 1.0), (0.6, 1.0), (0.8, 0.5), (0.999, 0.01), (1.0, 0.01)]
)
def test_trapezoid_rises_stays_and_falls(progress: float, share: float) -> None:
    assert trapezoid(progress) == pytest.approx(share)


def test_averages_are_of_the_last_steps_and_of_trained_weights(tmp_path: Path) -> None:
    module, averaging = net(), 0.3
    trained = trainer(tmp_path, module, 8, averaging=averaging)
    expected = module.conv_out.bias.detach().clone()
    seen: list[Tensor] = []
    given = loss_of(trained, module)

    def watched() -> Tensor:
        seen.append(module.conv_out.bias.detach().clone())
        return given()

    trained.run(watched)
    for count, value in enumerate([*seen[1:], module.conv_out.bias.detach()]):
        keep = min(averaging, (1 + count) / (20 + count))
        expected = keep * expected + (1 - keep) * value
    average = trained.averaged("net")
    assert isinstance(average, Net)
    assert torch.allclose(average.conv_out.bias, expected, atol=1e-6)
    assert not any(value.requires_grad for value in average.parameters())
    assert torch.equal(average.frozen.weight, module.frozen.weight)
