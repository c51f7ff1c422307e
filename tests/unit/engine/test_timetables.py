"""A timetable takes the same steps as the scheduler it was read off."""

import inspect
from typing import Any

import pytest

diffusers: Any = pytest.importorskip("diffusers")
torch: Any = pytest.importorskip("torch")

from bot.engine.families.base import random_walk  # noqa: E402
from bot.engine.lanes.timetables import NotLinear, advance, read_timetable  # noqa: E402

SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LINEAR = [
    ("DDIMScheduler", {"clip_sample": False}),
    ("DDIMScheduler", {"clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ("EulerDiscreteScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", {"lower_order_final": True}),
    ("UniPCMultistepScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("LCMScheduler", {"clip_sample": False}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("DPMSolverSDEScheduler", {"noise_sampler_seed": 2}),
]
FLOW: list[tuple[str, dict[str, Any]]] = [("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})]


def made(name: str, config: dict[str, Any], steps: int) -> Any:
    scheduler = getattr(diffusers, name)(**({} if name.startswith("Flow") else SD), **config)
    scheduler.set_timesteps(steps)
    return scheduler


def model(sample: Any, timestep: float) -> Any:
    """A denoiser of a kind: not linear, and different at every step."""
    return torch.tanh(sample * 0.7 + timestep / 1500) - 0.3 * sample.roll(1, -1)


@pytest.mark.parametrize("steps", [1, 2, 4, 13])
@pytest.mark.parametrize(("name", "config"), LINEAR + FLOW, ids=lambda value: str(value).replace("Scheduler", ""))
def test_timetable_of_a_scheduler_draws_what_the_scheduler_draws(name: str, config: dict[str, Any], steps: int) -> None:
    table = read_timetable(made(name, config, steps))
    scheduler = made(name, config, steps)
    start = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1)) * table.init_noise_sigma

    theirs, chance = start, torch.Generator().manual_seed(2)
    for timestep in scheduler.timesteps:
        given = scheduler.scale_model_input(theirs, timestep) if hasattr(scheduler, "scale_model_input") else theirs
        noise = {"generator": chance} if "generator" in inspect.signature(scheduler.step).parameters else {}
        theirs = scheduler.step(model(given, float(timestep)), timestep, theirs, return_dict=False, **noise)[0]

    state = torch.zeros(1, table.state_size, 4, 6, 6)
    state[:, 0], chance, walked = start, torch.Generator().manual_seed(2), None
    for turn in range(table.turns):
        output = model(state[:, 0] * table.input_scales[turn], float(table.timesteps[turn]))
        noise = torch.randn(start.shape, generator=chance) if table.noisy[turn] else torch.zeros_like(start)
        if table.noisy[turn] and table.walk is not None and table.walk.spans[turn] is not None:
            walked = walked or random_walk(table.walk, start.shape, 2)
            noise = walked(*table.walk.spans[turn])
        state = advance(state, output, noise, table.updates[turn : turn + 1])

    assert float((state[:, 0] - theirs).abs().max()) <= 2e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize(
    "config", [{"clip_sample": True}, {"clip_sample": False, "thresholding": True}], ids=["clipping", "thresholding"]
)
def test_timetable_of_a_scheduler_that_is_not_linear_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(NotLinear):
        read_timetable(made("DDIMScheduler", config, 5))


def test_advance_gives_each_picture_its_own_step() -> None:
    tables = [
        read_timetable(made(name, {}, 4)) for name in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
    ]
    states, outputs, noises = torch.randn(2, 1, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    updates = torch.stack([tables[0].updates[1], tables[1].updates[2]])

    together = advance(states, outputs, noises, updates)

    for n in range(2):
        alone = advance(states[n : n + 1], outputs[n : n + 1], noises[n : n + 1], updates[n : n + 1])
        assert torch.allclose(together[n : n + 1], alone, atol=1e-6)


def test_memories_that_never_reach_the_sample_are_not_carried() -> None:
    assert read_timetable(made("EulerDiscreteScheduler", {}, 6)).state_size == 1
    assert read_timetable(made("DPMSolverMultistepScheduler", {}, 6)).state_size == 2
