"""The engine's numbers: each model's own, for the log and for the rest of the program."""

from __future__ import annotations

from pathlib import Path

from bot.engine.metrics import Meter, ModelNumbers
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.orders import admitted, drawn
from tests.unit.engine.test_diffusers_engine import engine_of_two


def test_meter_counts_each_model_apart_and_adds_them_up() -> None:
    meter = Meter()
    meter.loaded("one")
    meter.loaded("two")
    meter.stepped("one", rows=4, steps=2, seconds=0.5)
    meter.stepped("one", rows=2, steps=1, seconds=0.25)
    meter.prompt("one", known=False)
    meter.prompt("one", known=True)
    meter.prompt("two", known=False)
    meter.drew("one", 2)
    meter.evicted("one")
    meter.returned("one")
    meter.ran_out("two")
    meter.failed("two")
    meter.where({"two": (3_000_000_000, "whole")}, {"one"}, 2_000_000_000)
    numbers = meter.read(5_000_000_000, 6_000_000_000)
    assert numbers.models == (
        ModelNumbers(
            "one", passes=2, rows=6, steps=3, busy_s=0.75, pictures=2, prompt_hits=1, prompt_misses=1, loads=1, returns=1,
            evictions=1, in_main_memory=True,
        ),
        ModelNumbers(
            "two", prompt_misses=1, loads=1, out_of_memory=1, failures=1, device_bytes=3_000_000_000, placement="whole"
        ),
    )  # fmt: skip
    assert (numbers.models[0].steps_per_s, numbers.models[0].rows_per_pass) == (4.0, 3.0)
    assert (numbers.prompt_hits, numbers.prompt_misses, numbers.loads, numbers.returns) == (1, 2, 2, 1)
    assert (numbers.evictions, numbers.out_of_memory, numbers.failures) == (1, 1, 1)
    assert str(numbers) == (
        "one: 4.0 steps/s, 3.0 rows a pass, 2 pictures, prompts known 1 of 2, in main memory; "
        "two: 0.0 steps/s, 0.0 rows a pass, 0 pictures, prompts known 0 of 1, 3.00 GB whole; "
        "loads 2, back from main memory 1, evictions 1; out of memory 1, failed 1; memory 5.0 GB, peak 6.0 GB; "
        "main memory 2.0 GB"
    )
    meter.where({}, frozenset(), 0)
    assert not any(model.device_bytes or model.in_main_memory for model in meter.read().models)


def test_engine_metrics_say_of_each_model_where_it_is_and_what_was_known(tmp_path: Path) -> None:
    engine = engine_of_two(tmp_path, budget_bytes=1, ram_budget_bytes=1 << 30)
    drawn(engine, *(admitted(engine, "a cat", model="one", seed=seed, num_inference_steps=1) for seed in range(2)))
    engine.generate(request("a cat", model="two", num_inference_steps=1), Notes())
    one, two = engine.metrics.models
    assert (one.model, one.prompt_hits, one.prompt_misses, one.loads, one.evictions) == ("one", 1, 1, 1, 1)
    assert (one.device_bytes, one.placement, one.in_main_memory) == (0, "", True)
    assert (two.device_bytes, two.placement) == (engine.residents.use("two").weights_bytes, "whole")
    assert engine.metrics.kept_bytes >= one.loads * two.device_bytes
    engine.close()
    assert engine.metrics.kept_bytes == 0
