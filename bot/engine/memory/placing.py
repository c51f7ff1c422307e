"""Putting a loaded pipeline onto the device, whole or in turns, as `plans` says. GPU thread, outside inference mode."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bot.catalogue.models import ModelSpec
from bot.engine.devices import Device, free_memory, is_out_of_memory
from bot.engine.memory.host_copies import tensor_bytes, tensors_of
from bot.engine.memory.plans import Mode, Plan, on_card_while_decoding, plan_for
from bot.errors import OutOfMemory

log = logging.getLogger(__name__)

DECODE_SHARE = 0.9
"""How much of what the weights leave of the card a decode may take."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What there is to place models in, in bytes: of the card, all other programs counted, and of the main memory."""

    card_bytes: int | None
    ram_bytes: int | None


def place_pipeline(
    pipe: Any, spec: ModelSpec, device: Device, memory: Memory, move: Callable[[], None] | None = None
) -> Plan:
    """Put a pipeline in main memory onto the device; where it does not fit whole, what is needed is there in turns.

    `move` puts it there whole. Returns the plan that was carried out. Raises OutOfMemory.
    """
    if not device.is_gpu:
        return Plan(Mode.WHOLE)
    # One picture at a time is decoded: the VAE's peak is what overflows a card, and it gains nothing from batches.
    if hasattr(getattr(pipe, "vae", None), "enable_slicing"):
        pipe.vae.enable_slicing()
    parts = part_sizes(pipe)
    plan = plan_for(parts, memory.card_bytes, memory.ram_bytes)
    if plan.mode is Mode.WHOLE:
        try:
            move() if move is not None else pipe.to(device.torch_device)
            return plan
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        plan = plan_for(parts, memory.card_bytes, memory.ram_bytes, whole=False)
    if not device.torch_device.startswith("cuda") or plan.mode is Mode.NONE:
        raise OutOfMemory(f"{spec.name} does not fit into this machine's memory; choose a smaller model.")
    pipe.to("cpu")
    free_memory()
    log.info("%s does not fit onto %s whole: %s", spec.id, device.name, plan.mode)
    if plan.mode is Mode.PARTS:
        pipe.enable_model_cpu_offload(device=device.torch_device)
        return plan
    log.warning(
        "the largest part of %s takes %.1f GB, too much for %s; its layers take turns there, which is slow",
        spec.id, max(parts.values()) / 1e9, device.name,
    )  # fmt: skip
    if plan.mode is Mode.GROUPS or is_quantized(pipe):
        groups(pipe, device.torch_device, plan)
    else:
        pipe.enable_sequential_cpu_offload(device=device.torch_device)
    return plan


def groups(pipe: Any, torch_device: str, plan: Plan) -> None:
    """Let layers visit the device in turns; with streams, where the plan has the main memory for it, ahead of their turn.

    Single layers and not blocks: a block of SDXL's UNet takes more than a gigabyte, and two of them are there at a time.
    """
    import torch

    streams = plan.mode is Mode.GROUPS and torch_device.startswith("cuda")
    pipe.enable_group_offload(
        onload_device=torch.device(torch_device), offload_device=torch.device("cpu"), offload_type="leaf_level",
        use_stream=streams, non_blocking=streams, exclude_modules=list(plan.stay),
    )  # fmt: skip


def part_sizes(pipe: Any) -> dict[str, int]:
    """Add up the sizes of a pipeline's parts, in bytes by name."""
    modules = {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}
    return {
        name: sum(tensor_bytes(tensor) for tensor in (*module.parameters(), *module.buffers()))
        for name, module in modules.items()
    }


def is_quantized(pipe: Any) -> bool:
    """Whether a part's weights are in a format of torchao's or of GGUF files, which not every way of moving layers knows."""
    plain = {importlib.import_module("torch").nn.Parameter, importlib.import_module("torch").Tensor}
    return any(type(tensor) not in plain for tensor in tensors_of(pipe))


def decode_room(pipe: Any, plan: Plan, memory: Memory, device: Device) -> float | None:
    """Tell what a decode may take of the card beside the weights that are there then, in bytes; None where that is not known."""
    if not device.is_gpu or memory.card_bytes is None:
        return None
    return DECODE_SHARE * max(0, memory.card_bytes - on_card_while_decoding(part_sizes(pipe), plan))
