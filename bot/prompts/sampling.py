"""Choose among the alternatives of a template with dynamicprompts, whose own parser is left out.

Its grammar drops what follows a # or //, fails at a % or $, and reads a whole wildcard file anew for each use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from dynamicprompts.commands import LiteralCommand, SequenceCommand, VariantCommand, VariantOption, WildcardCommand
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.samplers.random import RandomSampler
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.sampling_result import SamplingResult
from dynamicprompts.wildcards import WildcardManager

from bot.prompts.choices import Template, Wildcard


def sample(template: Template, lines: Mapping[str, Sequence[Template]], rand: Random) -> str:
    """Choose once, with `rand` alone; `lines` are those of each wildcard."""
    samplers: Any = {SamplingMethod.RANDOM: _Sampler(lines)}
    context = SamplingContext(SamplingMethod.RANDOM, WildcardManager(), samplers, rand=rand)
    return next(iter(context.sample_prompts(_command(template), 1))).text


def _command(template: Template) -> Any:
    """Say a template in dynamicprompts' terms; an empty one is a literal of no letters."""
    commands: list[Any] = []
    for part in template:
        if isinstance(part, str):
            commands.append(LiteralCommand(part))
        elif isinstance(part, Wildcard):
            commands.append(WildcardCommand(part.name))
        else:
            options = [VariantOption(_command(option), weight) for weight, option in part.options]
            commands.append(VariantCommand(options, part.low, part.high, part.separator))
    if not commands:
        return LiteralCommand("")
    return commands[0] if len(commands) == 1 else SequenceCommand(commands)


class _Sampler(RandomSampler):
    """Takes the lines of wildcards from memory, and looks at those alone that are chosen."""

    def __init__(self, lines: Mapping[str, Sequence[Template]]) -> None:
        self._lines = lines

    def _get_wildcard(self, command: WildcardCommand, context: SamplingContext) -> Any:
        while True:
            yield self._joined(command, 1, "", context)

    def _get_variant(self, command: VariantCommand, context: SamplingContext) -> Any:
        if len(command.values) != 1 or not isinstance(wildcard := command.values[0], WildcardCommand):
            yield from super()._get_variant(command, context)
            return
        while True:
            picks = context.rand.randint(command.min_bound, command.max_bound)
            yield self._joined(wildcard, picks, command.separator, context)

    def _joined(self, command: WildcardCommand, picks: int, separator: str, context: SamplingContext) -> SamplingResult:
        lines = self._lines[str(command.wildcard)]
        chosen = context.rand.sample(lines, min(picks, len(lines)))
        results = [next(iter(context.sample_prompts(_command(line), 1))) for line in chosen]
        return SamplingResult(separator.join(result.text for result in results))
