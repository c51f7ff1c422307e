"""What `make bench-engine` makes up: arrivals, and the shapes of real models without their weights."""

from __future__ import annotations

import pytest
import torch

from bench.arms import Times
from bench.random_models import make_pipeline
from bench.traffic import Served, make_trace
from bot.engine.families import family_of
from tests.unit.engine.fakes import request


def test_make_trace_is_the_same_for_the_same_seed_and_mixes_all_there_is() -> None:
    def trace(seed: int):
        return make_trace(
            ("one", "two"), ((64, 64), (96, 64)), (4, 30), request(), count=200, rate_per_s=2.0, seed=seed
        )

    first = trace(1)
    assert first == trace(1)
    assert first != trace(2)
    assert [arrival.at_s for arrival in first] == sorted(arrival.at_s for arrival in first)
    assert 200 / first[-1].at_s == pytest.approx(2.0, rel=0.3)
    mixed = {(one.request.model, one.request.width, one.request.num_inference_steps) for one in first}
    assert len(mixed) == 8
    assert len({one.request.prompt for one in first}) == 200


def test_times_and_served_say_their_medians_and_spread() -> None:
    assert str(Times((3.0, 1.0, 2.0))) == "2.000 s (1.000 to 3.000)"
    assert str(Served((1.0, 2.0, 3.0, 10.0), 8.0)) == "0.50 requests/s, p50 2.00 s, p95 10.00 s"


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("sd15", 859_520_964),
        pytest.param("sdxl", 2_567_463_684, marks=pytest.mark.slow),
        pytest.param("flux", 11_901_408_320, marks=pytest.mark.slow),
    ],
)
def test_make_pipeline_has_the_published_shape_and_is_drawn_in_lanes(kind: str, parameters: int) -> None:
    pipe = make_pipeline(kind, torch.bfloat16, "meta")
    adapter = family_of(pipe)
    assert adapter is not None
    family = adapter(pipe)
    assert sum(p.numel() for p in family.denoiser.parameters()) == parameters
    assert family.dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32
