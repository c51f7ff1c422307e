"""A picture put into words for a member: opened and judged apart, looked at on the GPU thread between other turns. Event loop only.

Nothing of it is kept, so nothing of it survives a restart; whoever asked asks again.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from bot.catalogue.models import Catalogue
from bot.engine.base import Question, Silence, Weights
from bot.errors import GenerationError, LimitReached, ModelError, ModerationRefused
from bot.files.archive import Archive
from bot.generation import RawPicture
from bot.moderation import AdultPolicy, Moderator
from bot.prompts.describing import SIDE_PX, Description, choose_captioner
from bot.scheduling.gpu_thread import STOPPING, GpuThread
from bot.scheduling.patience import Patience

TIMEOUT_S = 120.0
"""A model that is loaded meanwhile may take as long; the answer has to come while somebody still waits for it."""
AT_ONCE = 16
"""So many pictures wait at most, each of 2 MB."""


class _Waiting(Silence):
    """Whether somebody still waits for the words; read on the GPU thread."""

    gone = False

    def cancelled(self) -> bool:
        """Whether nobody does."""
        return self.gone


class Describer:
    """Puts pictures into words, one of a member's at a time."""

    def __init__(
        self,
        *,
        archive: Archive,
        gpu: GpuThread,
        weights: Weights,
        catalogue: Catalogue,
        moderator: Moderator,
        patience: Patience,
        adult: AdultPolicy,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`timeout_s` is how long words may take to come."""
        self._archive = archive
        self._gpu = gpu
        self._weights = weights
        self._catalogue = catalogue
        self._moderator = moderator
        self._patience = patience
        self._adult = adult
        self._timeout_s = timeout_s
        self._asking: Counter[int] = Counter()

    async def describe(
        self, data: bytes, user_id: int, *, age_restricted: bool, annotator: str | None = None
    ) -> Description:
        """Put a stranger's picture into words, and read what its file says of its making.

        `annotator` is a captioner's id, None the first that is here. Raises AttachmentRefused or ModerationRefused as
        `GenerationService.take_input`, LimitReached, RequestError or ModelError where the captioner is not to be had, GenerationError.
        """
        if self._asking[user_id]:
            raise LimitReached("One picture of yours is being described already; wait for it.")
        if self._asking.total() >= AT_ONCE:
            raise LimitReached("Many pictures are being described just now; try again in a minute.")
        self._asking[user_id] += 1
        try:
            return await self._describe(data, user_id, age_restricted, annotator)
        finally:
            del self._asking[user_id]

    async def _describe(self, data: bytes, user_id: int, age_restricted: bool, annotator: str | None) -> Description:
        chosen = await self._patience.wait(asyncio.to_thread(self._choose, annotator), "a look for captioners")
        allowed = self._adult.allows(age_restricted=age_restricted)
        picture, info = await self._archive.open_apart(data, adult_allowed=allowed, side_px=SIDE_PX)
        words = await self._ask(chosen, picture, user_id)
        try:
            self._moderator.check(words)
        except ModerationRefused:
            raise ModerationRefused(
                "What the model says of this picture is not shown here; send another one."
            ) from None
        return Description(words, chosen, info)

    def _choose(self, annotator: str | None) -> str:
        spec = choose_captioner(self._catalogue, annotator, self._weights.is_local)
        if not self._weights.is_local(spec.id):
            raise ModelError(
                f"{spec.name} is not here yet; whoever runs the bot can run `python -m bot models fetch {spec.id}`."
            )
        return spec.id

    async def _ask(self, annotator: str, picture: RawPicture, user_id: int) -> str:
        waiting = _Waiting()
        asked = asyncio.wrap_future(self._gpu.ask(Question(annotator, picture, waiting, user_id)))
        try:
            if not await self._patience.wait_first(asked, self._timeout_s, "a picture's description"):
                raise GenerationError("The GPU is too busy to look at this picture now; try again in a few minutes.")
            return asked.result()
        except GenerationError as error:
            if str(error) == STOPPING:  # a request would wait for the next start, a question does not
                raise GenerationError("Easel is stopping; ask again in a minute.") from None
            raise
        finally:
            waiting.gone = True  # also where whoever asked went away: the GPU is for others then
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())
