"""`make bench-engine`: Easel's engine against diffusers' own pipelines, in one process, on the same weights.

(a) diffusers, one request after another   (b) diffusers, batched   (c) diffusers, compiled   (d) Easel

Each arm draws the same requests with the same dtype, sampler and steps, prompt encoding and decoding included; (a) to (c) on
weights laid out as diffusers loads them, (d) with the levers that are on by themselves (EASEL_LEVERS=auto). Then (d) again, once with each
lever, so that a lever is kept only where it pays. Arms take turns within each round; medians stand with the least and the most.
On a CPU that is the built-in model; with CUDA also Stable Diffusion 1.5, SDXL and FLUX.1 dev in their published shapes with random
weights. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bot.engine.devices import spin_briefly

ROOT = Path(__file__).resolve().parents[1]
REQUESTS = 8
ENTRY = '[models.{id}]\nname = "{id}"\nsource = "{source}"\nfamily = "{family}"\nlicence = "-"\nbase_px = {px}\nmin_side = 48\n'


@dataclass(frozen=True, slots=True)
class Case:
    """A model and what is drawn with it; `px` is the side in pixels, `goal` what issue 4 asks of a GPU, in words."""

    model: str
    family: str
    px: int
    steps: int
    guidance: float
    rounds: int
    goal: str = ""


POCKET = Case("pocket", "sd15", 64, 20, 4.0, 5, "(d) at least 1.5 times (a) with eight at once, no slower with one")
ON_A_GPU = (
    Case("sd15", "sd15", 512, 30, 7.0, 3, "at least 7 images/s on an H200"),
    Case("sdxl", "sdxl", 1024, 30, 5.0, 3, "at least 1.0 image/s on an H200"),
    Case("flux", "flux", 1024, 28, 3.5, 3, "one picture in at most 4.6 s on an H200"),
)


class Bench:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        import torch

        self.cuda = torch.cuda.is_available() and arguments.device != "cpu"
        self.cases = [POCKET, *(ON_A_GPU if self.cuda else ())]
        if arguments.models:
            self.cases = [case for case in self.cases if case.model in arguments.models.split(",")]
        self.max_batch = arguments.max_batch
        self.rounds = arguments.rounds
        self.trace = arguments.trace
        self.compile = arguments.compile
        self.levers = arguments.levers
        self.peaks: dict[str, tuple[float, float, float]] = {}
        self.engine = self._make_engine(folder)

    def run(self) -> None:
        """Measure case by case, then the trace."""
        from bench import turns

        info = self.engine.start()
        say(f"{info.device_name} ({info.device}, {info.dtype}), at most {self.max_batch} pictures a denoiser call")
        if not self.cuda:
            for case in ON_A_GPU:
                say(f"unmeasured: {case.model} {case.px}², which needs CUDA ({case.goal})")
        for case in self.cases:
            self._case(case)
        if any(case.model == "pocket" for case in self.cases):
            turns.report(self.engine, self._request(POCKET, 0), "pocket-2", say)
            if self.trace:
                self._traffic()
        say(f"engine: {self.engine.metrics}")

    def _case(self, case: Case) -> None:
        from bench import arms as ways
        from bench.arms import Arms, Silent
        from bench.lever_arms import LeverArms
        from bot.engine.devices import choose_device
        from bot.engine.lanes.levers import Levers

        requests = [self._request(case, number) for number in range(REQUESTS)]
        self.engine.generate(replace(requests[0], num_inference_steps=1), Silent())
        loaded = self.engine.residents.use(case.model)
        arms = Arms(self.engine, self.max_batch)
        under = LeverArms(loaded, choose_device("auto" if self.cuda else "cpu", "auto"))
        say(f"\n{case.model}, {case.px}², {case.steps} steps, guidance {case.guidance}; goal: {case.goal}")
        fresh = iter(range(10**9))

        def draw(way: Callable[[Any], None], count: int) -> Callable[[], None]:
            # New prompts each time: the prompt cache must not speak for (d).
            return lambda: way([replace(r, prompt=f"{r.prompt}, {next(fresh)}") for r in requests[:count]])

        rounds = self.rounds or case.rounds

        def prepare(arm: str) -> None:
            under.use(under.auto if arm == "d" else Levers())

        one = ways.interleaved({"a": draw(arms.one_after_another, 1), "d": draw(arms.easel, 1)}, 2 * rounds, prepare)
        prepare("c")
        at_once = {"a": arms.one_after_another, "b": arms.batched, "c": arms.compiled, "d": arms.easel}
        if why := self._cannot_compile(draw(arms.compiled, 1)):
            say(f"  (c) skipped: {why}")
            del at_once["c"]
        many = ways.interleaved({name: draw(way, REQUESTS) for name, way in at_once.items()}, rounds, prepare)
        prepare("d")
        for name in ("a", "d"):
            say(f"  ({name}) one request       {one[name]}")
        for name, times in many.items():
            say(f"  ({name}) {REQUESTS} at once         {times}   {REQUESTS / times.median:.2f} images/s")
        rows_alone = 2 if case.guidance > 1 and case.family != "flux" else 1
        few, whole = rows_alone, rows_alone * self.max_batch
        gain = spread(ways.row_gain(self.engine, case.model, few, whole), "{:.2f}")
        say(
            f"  (d) over (a): {many['a'].median / many['d'].median:.2f} at once, {one['a'].median / one['d'].median:.2f} alone; "
            f"limit of sharing passes: a denoiser row is {gain} times as fast among {whole} as among {few}"
        )
        done = ways.row_flops(self.engine, requests[0]) * REQUESTS * case.steps * rows_alone / many["d"].median
        peak = self._peak(loaded.family.dtype)  # type: ignore[union-attr]
        say(
            f"  share of a matrix product ({spread(peak, '{:.2f}', 1e12)} TFLOP/s here): {done / peak[0]:.0%} with all of it, "
            "text to pixels"
        )
        if self.levers:
            self._levers(under, draw(arms.easel, REQUESTS), draw(arms.easel, 1), rounds)

    def _levers(self, under: Any, at_once: Callable[[], None], alone: Callable[[], None], rounds: int) -> None:
        """Measure (d) with each lever against (d) as it is by itself."""
        from bench import arms as ways

        auto = f"auto ({under.auto})"
        levers = {auto: under.auto, **under.all(self.cuda)}

        def prepare(name: str) -> None:
            under.use(levers[name])

        many = ways.interleaved(dict.fromkeys(levers, at_once), rounds, prepare)
        one = ways.interleaved(dict.fromkeys(levers, alone), rounds, prepare)
        for name, times in many.items():
            say(
                f"  (d) EASEL_LEVERS={name}: {times}, {REQUESTS / times.median:.2f} images/s, {many[auto].median / times.median:.2f} "
                f"times auto; alone {one[name]}, {one[auto].median / one[name].median:.2f} times{under.left_out(levers[name])}"
            )
        if not self.cuda:
            say("  unmeasured: cudnn and graphs, which need CUDA; compile here is arm (c)")
        under.use(under.auto)

    def _peak(self, dtype: Any) -> tuple[float, float, float]:
        from bench import arms as ways

        if str(dtype) not in self.peaks:
            self.peaks[str(dtype)] = ways.product_flops_per_s(dtype, self.engine.start().device)
        return self.peaks[str(dtype)]

    def _cannot_compile(self, once: Callable[[], None]) -> str:
        """Compile, and say why that fails where it does: no C++ compiler, no Triton, the machine's own reasons."""
        if not self.compile:
            return "left out by --no-compile"
        try:
            once()
        except Exception as error:
            return f"torch.compile fails here: {str(error).strip().splitlines()[0][:120]}"
        return ""

    def _traffic(self) -> None:
        from bench.arms import Arms, row_flops
        from bench.traffic import make_trace, serve_in_order, serve_with_easel

        arms = Arms(self.engine, self.max_batch)
        template = self._request(POCKET, 0)
        models, sizes, steps = ("pocket", "pocket-2"), ((64, 64), (96, 64)), (4, 10, 20, 30)
        for model in models:
            arms.easel([replace(template, model=model)])
        alone = make_trace(models, sizes, steps, template, count=12, rate_per_s=1e6)
        capacity = len(alone) / serve_in_order(arms, alone).whole_s
        say(f"\ntrace: {self.trace} requests, two models, two sizes, {min(steps)} to {max(steps)} steps")
        peak = self._peak(self.engine.residents.use(POCKET.model).family.dtype)  # type: ignore[union-attr]
        row = {size: row_flops(self.engine, replace(template, width=size[0], height=size[1])) for size in sizes}

        def work(trace: Sequence[Any]) -> float:
            asked = [arrival.request for arrival in trace]
            return sum(2 * r.num_inference_steps * row[r.width, r.height] for r in asked)

        for share in (0.7, 2.0):
            fresh = replace(template, prompt=f"{template.prompt} at {share:.0%}")
            trace = make_trace(models, sizes, steps, fresh, count=self.trace, rate_per_s=share * capacity)
            say(f"  at {share:.0%} of what (a) can serve")
            in_order = serve_in_order(arms, trace)
            say(f"    (a) {in_order}, {work(trace) / in_order.whole_s / peak[0]:.0%} of a matrix product")
            served = serve_with_easel(self.engine, trace)
            say(f"    (d) {served}, {work(trace) / served.whole_s / peak[0]:.0%} of a matrix product")

    def _request(self, case: Case, number: int) -> Any:
        from bot.generation import GenerationRequest

        return GenerationRequest(
            f"a sunset over a beach, number {number}", "", case.model, case.px, case.px, 1, case.steps, case.guidance,
            number, "Default",
        )  # fmt: skip

    def _make_engine(self, folder: Path) -> Any:
        from bench.random_models import make_pipeline, write_index
        from bot.catalogue.models_file import parse_catalogue
        from bot.engine.diffusers_engine import DiffusersEngine
        from bot.engine.memory import residents

        built_in = (ROOT / "models" / "pocket").as_posix()
        text = "".join(ENTRY.format(id=name, source=built_in, family="sd15", px=64) for name in ("pocket", "pocket-2"))
        for case in ON_A_GPU:
            source = folder / case.model
            write_index(source, case.family)
            text += ENTRY.format(id=case.model, source=source.as_posix(), family=case.family, px=case.px)
        load = residents.load_pipeline

        def load_or_make(spec: Any, weights: Any, settings: Any, device: Any) -> Any:
            if spec.id.startswith("pocket"):
                return load(spec, weights, settings, device)
            return make_pipeline(spec.family, device.torch_dtype, device.torch_device)

        residents.load_pipeline = load_or_make
        return DiffusersEngine(
            parse_catalogue(text, origin="the bench"), models_root=ROOT, cache_dir=folder, dtype="auto",
            device="cuda" if self.cuda else "cpu", max_batch=self.max_batch,
        )  # fmt: skip


def spread(values: tuple[float, float, float], form: str, unit: float = 1.0) -> str:
    """Write a median and what it lies between."""
    middle, least, most = (form.format(value / unit) for value in values)
    return f"{middle} ({least} to {most})"


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run the bench; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu"])
    parser.add_argument(
        "--models", default="", help="pocket, sd15, sdxl, flux; with commas between; left out: all that can run"
    )
    parser.add_argument("--max-batch", type=int, default=REQUESTS, help="pictures in one denoiser call, of (b) and (d)")
    parser.add_argument(
        "--rounds", type=int, default=0, help="rounds of each arm; left out: 5 on the built-in model, else 3"
    )
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave (c) out")
    parser.add_argument("--no-levers", dest="levers", action="store_false", help="leave the arms of single levers out")
    parser.add_argument("--trace", type=int, default=40, help="requests of the Poisson trace; 0 leaves it out")
    spin_briefly()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="easel-bench-")))
        Bench(parser.parse_args(arguments), folder).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
