"""Requests through the whole service: the real store, files and queue around an engine that obeys the test."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bot.engine.metrics import Metrics, ModelNumbers
from bot.errors import (
    DeviceLost,
    DiskFull,
    GenerationError,
    InvalidOutput,
    JobNotFound,
    LimitReached,
    ModelError,
    ModerationRefused,
    NotPermitted,
    RequestError,
    StorageError,
)
from bot.generation import Actor, Axis, GenerationOptions, JobStatus, PostedTo, Variant
from bot.limits import MAX_WAITING
from bot.scheduling import dispatcher
from bot.scheduling.events import Cancelled, Drawing, Failed, Fetching, Queued, QueueMoved, Rendered
from tests.unit.scheduling.fakes import World
from tests.unit.store.support import GUILD, origin, request

ADA, MODERATOR, STRANGER = Actor(7), Actor(1, moderates_guild_id=GUILD), Actor(2, moderates_guild_id=GUILD + 1)


async def test_service_happy_road_tells_each_state_in_order(world: World) -> None:
    job = await world.submit("a red circle")
    assert (job.status, await world.store.get(job.id) is not None) == (JobStatus.QUEUED, True)
    rendered = await world.heard(Rendered, job.id)
    kinds = [type(event).__name__ for event in world.events if not isinstance(event, QueueMoved)]
    assert kinds[0] == "Queued"
    assert kinds[-1] == "Rendered"
    assert "Drawing" in kinds
    assert (rendered.job.status, rendered.job.attempt, rendered.job.draw_s) == (JobStatus.RENDERED, 1, 0.75)
    assert [await world.service.read_picture(file) for file in rendered.job.files]
    claimed = await world.service.begin_posting(job.id)
    assert claimed is not None
    await world.service.set_message(job.id, 99)
    await world.service.mark_posted(job.id, PostedTo.CHANNEL, None)
    done = await world.service.get(job.id)
    assert (done.status, done.posted_to, done.message_id) == (JobStatus.POSTED, PostedTo.CHANNEL, 99)
    assert await world.service.history(7, limit=5) == (done,)
    assert world.service.measured.duration_s(job.request) == 0.75


async def test_service_what_was_not_read_is_told_with_the_pictures_and_kept(world: World) -> None:
    world.engine.notes["a long one"] = "Pocket did not read the end."
    job = await world.submit("a long one")
    rendered = await world.heard(Rendered, job.id)
    kept = await world.store.get(job.id)
    assert kept is not None
    assert rendered.job.note == kept.note == "Pocket did not read the end."


async def test_service_attempt_is_committed_before_the_engine_gets_it(world: World) -> None:
    world.hold("held")
    job = await world.submit("held")
    await world.begun("held")
    on_disk = await world.store.get(job.id)
    assert on_disk is not None
    assert (on_disk.status, on_disk.attempt) == (JobStatus.RUNNING, 1)


async def test_service_preview_comes_as_a_jpeg(tmp_path: Path) -> None:
    async with World(tmp_path, tick=itertools.count().__next__) as world:  # a second passes at every look at the clock
        gate = world.hold("held")
        job = await world.submit("held")
        drawing = await world.heard(Drawing, job.id)
        assert (drawing.step, drawing.steps) == (1, 4)
        assert drawing.preview is not None
        assert drawing.preview[:2] == b"\xff\xd8"
        gate.set()
        await world.heard(Rendered, job.id)


async def test_submit_same_interaction_twice_draws_once(world: World) -> None:
    world.hold("first")
    where = world.origin()
    first, second = await asyncio.gather(
        world.service.submit(request(prompt="first"), where), world.service.submit(request(prompt="first"), where)
    )
    assert first.id == second.id
    world.engine.gates["first"].set()
    await world.heard(Rendered, first.id)
    assert (await world.service.submit(request(prompt="first"), where)).id == first.id
    last = await world.submit("last")
    await world.heard(Rendered, last.id)
    assert world.engine.drawn == ["first", "last"]
    assert len(world.told(Queued)) == 2


async def test_submit_in_parallel_stops_exactly_at_the_limit(world: World) -> None:
    world.hold("held")
    await world.submit("held", user_id=1)
    await world.begun("held")
    done = await asyncio.gather(*(world.submit(f"p{n}") for n in range(MAX_WAITING + 15)), return_exceptions=True)
    refused = [item for item in done if isinstance(item, Exception)]
    assert len(refused) == 15
    assert all(isinstance(item, LimitReached) and "20 requests waiting" in str(item) for item in refused)
    assert world.service.overview(7).waiting == MAX_WAITING
    assert (await world.submit("another member's", user_id=8)).status is JobStatus.QUEUED


async def test_submit_repeated_at_the_limit_gives_the_known_job(world: World) -> None:
    world.hold("held")
    await world.submit("held", user_id=1)
    await world.begun("held")
    origins = [world.origin() for _ in range(MAX_WAITING)]
    jobs = [await world.service.submit(request(prompt="p"), where) for where in origins]
    assert (await world.service.submit(request(prompt="p"), origins[-1])).id == jobs[-1].id


async def test_submit_refused_frees_its_reservation(world: World) -> None:
    world.hold("held")
    await world.submit("held")
    await world.begun("held")
    jobs = [await world.submit(f"p{n}") for n in range(MAX_WAITING)]
    with pytest.raises(LimitReached):
        world.service.check_room(7)
    await world.service.cancel(jobs[0].id, ADA)
    world.service.check_room(7)
    await world.submit("fits")
    with pytest.raises(LimitReached):
        await world.submit("does not")


async def test_submit_taken_id_gets_another(tmp_path: Path) -> None:
    ids = iter(["same", "same", "other"])
    async with World(tmp_path, new_id=lambda: next(ids)) as world:
        world.hold("a cat")
        assert [(await world.submit()).id, (await world.submit()).id] == ["same", "other"]


async def test_submit_caller_cancelled_midway_still_draws(world: World) -> None:
    caller = asyncio.create_task(world.submit("orphan"))
    await asyncio.sleep(0)
    caller.cancel()
    rendered = await world.heard(Rendered)
    assert rendered.job.request.prompt == "orphan"


async def test_check_room_full_disk_refuses_new_and_keeps_old(world: World) -> None:
    world.hold("held")
    job = await world.submit("held")
    world.free_bytes = 10
    with pytest.raises(DiskFull):
        world.service.check_room(7)
    with pytest.raises(DiskFull):
        await world.submit("new")
    assert (await world.service.get(job.id)).id == job.id


async def test_check_room_before_start_and_after_stop_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(RequestError, match="restarting"):
        world.service.check_room(7)
    async with world:
        world.service.check_room(7)
    with pytest.raises(RequestError, match="restarting"):
        world.service.check_room(7)


async def test_stop_while_the_engine_starts_waits_for_nothing(tmp_path: Path) -> None:
    world, imported = World(tmp_path), threading.Event()
    start = world.engine.start
    world.engine.start = lambda: imported.wait(60.0) and start()  # type: ignore[method-assign]
    async with world:
        job = await world.submit("waits for the next start")
        async with asyncio.timeout(20):
            await world.service.stop(600.0)
        assert not world.gpu.ready.done()
        imported.set()
        assert (await world.service.get(job.id)).status is JobStatus.QUEUED


async def test_prepare_fills_in_and_refuses(world: World) -> None:
    made = world.service.prepare(GenerationOptions("a cat"))
    assert (made.model, made.seed, made.width) == ("pocket", 42, 64)
    with pytest.raises(RequestError):
        world.service.prepare(GenerationOptions(""))
    with pytest.raises(ModerationRefused):
        world.service.prepare(GenerationOptions("nude child"))


async def test_service_members_take_turns(world: World) -> None:
    world.hold("held")
    await world.submit("held", user_id=9)
    await world.begun("held")
    for n in range(3):
        await world.submit(f"ada {n}", user_id=1)
    last = [await world.submit(f"bob {n}", user_id=2) for n in range(2)]
    mine = world.service.overview(2).mine
    assert [place.position for _, place in mine] == [2, 4]
    place = world.service.place(last[0].id)
    assert place is not None
    assert place.next_user_id == 1
    world.engine.gates["held"].set()
    await world.heard(Rendered, times=6)
    assert world.engine.drawn == ["held", "ada 0", "bob 0", "ada 1", "bob 1", "ada 2"]


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ModelError("The model far is gone."), "The model far is gone."),
        (GenerationError("Too hot."), "Too hot."),
        (InvalidOutput("Only black came out."), "Only black came out."),
        (RuntimeError("a secret trace"), "Something went wrong while drawing this."),
    ],
    ids=["model", "generation", "output", "unexpected"],
)
async def test_service_engine_error_fails_one_request_and_goes_on(world: World, raised: Exception, words: str) -> None:
    world.engine.errors["bad"] = raised
    bad, good = await world.submit("bad"), await world.submit("good")
    failed = await world.heard(Failed, bad.id)
    assert failed.job.error is not None
    assert failed.job.error.startswith(words)
    assert "secret" not in failed.job.error
    assert failed.job.origin.interaction_token is not None  # to tell it with
    assert (await world.service.get(bad.id)).origin.interaction_token is None
    await world.heard(Rendered, good.id)


async def test_service_files_that_cannot_be_written_fail_the_request(world: World, monkeypatch) -> None:
    async def refused(*_: object) -> None:
        raise StorageError("The disk refused.")

    monkeypatch.setattr(world.archive, "write", refused)
    job = await world.submit()
    assert (await world.heard(Failed, job.id)).job.error == "The disk refused."
    monkeypatch.undo()
    await world.heard(Rendered, (await world.submit()).id)


async def test_service_disk_that_fills_while_drawing_keeps_the_pictures_until_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    async def no_room(*_: object) -> None:
        tried.set()
        raise DiskFull("The disk is full.")

    monkeypatch.setattr(dispatcher, "STORAGE_RETRY_S", 0.01)
    monkeypatch.setattr(world.archive, "write", no_room)
    job = await world.submit("kept")
    await asyncio.wait_for(tried.wait(), 10.0)
    monkeypatch.undo()
    await world.heard(Rendered, job.id)
    assert world.told(Failed) == []
    assert world.engine.drawn == ["kept"]


async def test_service_listener_that_fails_does_not_stop_the_others(world: World) -> None:
    failed: list[object] = []

    def broken(event: object) -> None:
        failed.append(event)
        raise ValueError

    world.service.subscribe(broken)
    rendered = await world.heard(Rendered, (await world.submit()).id)
    assert rendered in failed


async def test_service_engine_metrics_are_the_engines_own_of_now(world: World) -> None:
    world.engine.metrics = Metrics((ModelNumbers("pocket", passes=3, rows=6),))
    assert world.service.engine_metrics.models[0].rows_per_pass == 2.0
    world.engine.metrics = Metrics(memory_used_bytes=7)
    assert world.service.engine_metrics.memory_used_bytes == 7


async def test_service_engine_that_cannot_start_refuses_and_keeps_what_waits(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.engine.start_error = GenerationError("There is no CUDA device.")
    async with world:
        assert not world.service.engine_ready
        with pytest.raises(GenerationError, match="no CUDA device"):
            await world.submit()


async def test_service_as_many_are_with_the_engine_as_there_is_room_for(tmp_path: Path) -> None:
    async with World(tmp_path, room=4) as world:  # two pictures each
        for prompt in ("one", "two", "three"):
            world.hold(prompt)
            await world.submit(prompt, user_id=len(prompt))
        await world.begun("one")
        await world.begun("two")
        seen = world.service.overview(5)
        assert ([job.request.prompt for job in seen.running], seen.waiting) == (["one", "two"], 1)
        assert [place.position for _, place in seen.mine] == [1]
        world.engine.gates["two"].set()  # which of them ends first is the engine's choice
        await world.begun("three")
        await world.heard(Rendered)
        assert [job.request.prompt for job in world.service.overview(5).running] == ["one", "three"]
        assert world.engine.most_at_once == 2
        for prompt in ("one", "three"):
            world.engine.gates[prompt].set()
        await world.heard(Rendered, times=3)


async def test_service_quick_request_is_drawn_beside_a_long_one(tmp_path: Path) -> None:
    async with World(tmp_path, room=8) as world:
        world.hold("long")
        long = await world.submit("long")
        await world.begun("long")
        await world.heard(Rendered, (await world.submit("quick", user_id=8)).id)
        assert (await world.service.get(long.id)).status is JobStatus.RUNNING
        await world.service.cancel(long.id, ADA)
        await world.heard(Rendered, (await world.submit("next", user_id=8)).id)


async def test_service_error_of_one_leaves_those_beside_it(tmp_path: Path) -> None:
    async with World(tmp_path, room=8) as world:
        gate = world.hold("held")
        held = await world.submit("held")
        await world.begun("held")
        world.engine.errors["bad"] = InvalidOutput("The model gave a black picture.")
        bad = await world.submit("bad", user_id=8)
        await world.heard(Failed, bad.id)
        gate.set()
        await world.heard(Rendered, held.id)


async def test_service_lost_device_takes_no_more_and_leaves_the_rest_to_the_next_process(tmp_path: Path) -> None:
    async with World(tmp_path, room=4) as world:
        for prompt in ("one", "two"):
            world.hold(prompt)
        jobs = [await world.submit(prompt) for prompt in ("one", "two", "waiting")]
        await world.begun("two")
        world.engine.turn_error = DeviceLost("CUDA error: an illegal memory access was encountered")
        while not world.gpu.lost.done():
            await asyncio.sleep(0.01)
        with pytest.raises(GenerationError, match="starts anew"):
            await world.submit("too late")
    async with World(tmp_path, room=4) as again:
        for job in jobs:
            await again.heard(Rendered, job.id)
        assert again.told(Failed) == []
        assert again.engine.most_at_once == 1  # the two shared the GPU when it failed, so each is drawn alone
        attempts = {event.job.id: event.job.attempt for event in again.told(Rendered)}
        assert attempts == {job.id: 1 for job in jobs}  # two shared it, so it counts against neither


async def test_cancel_queued_leaves_the_line(world: World) -> None:
    world.hold("held")
    await world.submit("held", user_id=1)
    job = await world.submit("waiting")
    cancelled = await world.service.cancel(job.id, ADA)
    assert (cancelled.status, world.service.place(job.id)) == (JobStatus.CANCELLED, None)
    await world.heard(Cancelled, job.id)
    world.engine.gates["held"].set()
    await world.heard(Rendered, (await world.submit("later")).id)
    assert "waiting" not in world.engine.drawn


async def test_cancel_running_stops_the_engine_and_goes_on(world: World) -> None:
    world.hold("held")
    job = await world.submit("held")
    await world.begun("held")
    await world.service.cancel(job.id, MODERATOR)
    await world.heard(Rendered, (await world.submit("next")).id)
    assert world.told(Failed) == []
    assert world.told(Rendered, job.id) == []


async def test_cancel_running_engine_that_finishes_anyway_shows_nothing(world: World) -> None:
    gate = world.hold("held")
    world.engine.deaf = True
    job = await world.submit("held")
    await world.begun("held")
    await world.service.cancel(job.id, ADA)
    gate.set()
    after = await world.submit("next")
    await world.heard(Rendered, after.id)
    assert world.told(Rendered, job.id) == []
    assert all(after.id in name for name in world.picture_files())


async def test_cancel_while_files_are_written_shows_and_leaves_nothing(world: World, monkeypatch) -> None:
    writing, go_on = asyncio.Event(), asyncio.Event()
    write = world.archive.write

    async def slow(*args):
        writing.set()
        await go_on.wait()  # the cancel has removed the files by then, and these come after it
        return await write(*args)

    monkeypatch.setattr(world.archive, "write", slow)
    job = await world.submit()
    await writing.wait()
    assert [item.id for item in world.service.overview(7).running] == [job.id]
    await world.service.cancel(job.id, ADA)
    monkeypatch.undo()
    go_on.set()
    while world.service._dispatcher._finishing:
        await asyncio.wait(world.service._dispatcher._finishing)
    assert world.told(Rendered) == []
    after = await world.submit("next")
    await world.heard(Rendered, after.id)
    assert all(after.id in name for name in world.picture_files())


async def test_cancel_rendered_removes_its_files_and_cannot_be_posted(world: World) -> None:
    job = await world.submit()
    await world.heard(Rendered, job.id)
    await world.service.cancel(job.id, ADA)
    assert await world.service.begin_posting(job.id) is None
    assert world.picture_files() == []


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancel_against_begin_posting_has_one_winner(world: World, cancel_first: bool) -> None:
    job = await world.submit()
    await world.heard(Rendered, job.id)
    roads = [world.service.cancel(job.id, ADA), world.service.begin_posting(job.id)]
    done = await asyncio.gather(*(roads if cancel_first else reversed(roads)), return_exceptions=True)
    cancelled, posting = done if cancel_first else reversed(done)
    status = (await world.service.get(job.id)).status
    if isinstance(cancelled, Exception):
        assert "being shown right now" in str(cancelled)
        assert (posting is not None, status) == (True, JobStatus.POSTING)
    else:
        assert (posting, status) == (None, JobStatus.CANCELLED)


async def test_cancel_what_has_ended_says_why_not(world: World) -> None:
    world.engine.errors["bad"] = GenerationError("No.")
    bad = await world.submit("bad")
    await world.heard(Failed, bad.id)
    with pytest.raises(RequestError, match="failed already"):
        await world.service.cancel(bad.id, ADA)
    good = await world.submit("good")
    await world.heard(Rendered, good.id)
    await world.service.begin_posting(good.id)
    await world.service.mark_posted(good.id, PostedTo.CHANNEL, 5)
    with pytest.raises(RequestError, match="finished already"):
        await world.service.cancel(good.id, ADA)


async def test_cancel_and_delete_need_rights(world: World) -> None:
    world.hold("held")
    job = await world.submit("held")
    for road in (world.service.cancel, world.service.delete):
        with pytest.raises(NotPermitted, match="a moderator"):
            await road(job.id, STRANGER)
        with pytest.raises(JobNotFound):
            await road("unknown", ADA)
    assert (await world.service.get(job.id)).status in (JobStatus.QUEUED, JobStatus.RUNNING)


async def test_abandon_cancels_without_a_word(world: World) -> None:
    world.hold("held")
    await world.submit("held", user_id=1)
    job = await world.submit("unanswerable")
    await world.service.abandon(job.id)
    await world.service.abandon("unknown")
    world.engine.gates["held"].set()
    await world.heard(Rendered, (await world.submit("later")).id)
    assert "unanswerable" not in world.engine.drawn
    assert world.told(Cancelled) == []


async def test_delete_posted_removes_rows_and_files(world: World) -> None:
    job = await world.submit()
    await world.heard(Rendered, job.id)
    await world.service.begin_posting(job.id)
    await world.service.delete(job.id, ADA)
    await world.service.mark_posted(job.id, PostedTo.CHANNEL, 5)  # the message was on its way
    with pytest.raises(JobNotFound):
        await world.service.get(job.id)
    assert (await world.store.ids(), world.picture_files()) == (frozenset(), [])


async def test_delete_running_stops_it(world: World) -> None:
    world.hold("held")
    job = await world.submit("held")
    await world.begun("held")
    await world.service.delete(job.id, ADA)
    await world.heard(Rendered, (await world.submit("next")).id)
    assert world.told(Rendered, job.id) == world.told(Failed, job.id) == world.told(Cancelled, job.id) == []


async def test_fetching_a_model_lets_others_go_on_and_tells_progress(world: World) -> None:
    gate = world.weights.gates.setdefault("far", threading.Event())
    far = await world.submit("far away", model="far")
    near = await world.submit("near")
    await world.heard(Rendered, near.id)
    fetching = await world.heard(Fetching, far.id)
    assert (fetching.progress.done_bytes, fetching.progress.total_bytes, fetching.loading) == (1_000, 3_000, False)
    assert world.service.place(far.id) is not None
    gate.set()
    await world.heard(Rendered, far.id)
    assert world.weights.fetched == ["far"]
    await world.heard(Rendered, (await world.submit("far again", model="far")).id)
    assert world.weights.fetched == ["far"]


@pytest.mark.parametrize(
    ("raised", "words"),
    [(ModelError("Accept the licence."), "Accept the licence."), (OSError("x"), "The model could not be fetched.")],
    ids=["gated", "unexpected"],
)
async def test_fetching_that_fails_fails_its_requests_and_is_tried_again_later(
    world: World, raised: Exception, words: str
) -> None:
    world.weights.errors["far"] = raised
    first, second = await world.submit("a", model="far"), await world.submit("b", model="far")
    for job in (first, second):
        failed = await world.heard(Failed, job.id)
        assert failed.job.error is not None
        assert failed.job.error.startswith(words)
        assert failed.job.attempt == 0
    world.weights.errors.clear()
    await world.heard(Rendered, (await world.submit("c", model="far")).id)


async def test_sheet_over_models_waits_for_all_of_them_and_fails_where_one_cannot_be_had(world: World) -> None:
    gate = world.weights.gates.setdefault("far", threading.Event())
    sheet = {"count": 2, "variants": (Variant(), Variant(model="far")), "axes": (Axis("model", ("pocket", "far")),)}
    waiting = await world.submit("both", **sheet)
    assert (await world.heard(Fetching, waiting.id)).progress.model == "far"
    await world.heard(Rendered, (await world.submit("another's", user_id=8)).id)
    assert world.engine.drawn == ["another's"]
    gate.set()
    await world.heard(Rendered, waiting.id)
    world.weights.errors["farther"] = ModelError("Accept the licence.")
    refused = await world.submit("three", **{**sheet, "variants": (Variant(), Variant(model="farther"))})
    await world.heard(Failed, refused.id)
    assert (await world.service.get(refused.id)).error == "Accept the licence."
    assert not world.service._board.waits_for("farther")


async def test_fetching_ends_when_its_last_request_is_cancelled_and_begins_anew(world: World) -> None:
    world.weights.gates["far"] = threading.Event()
    job = await world.submit(model="far")
    await world.heard(Fetching, job.id)
    await world.service.cancel(job.id, ADA)
    assert await asyncio.to_thread(world.weights.ended_early.wait, 5.0)
    world.weights.gates.clear()
    await world.heard(Rendered, (await world.submit("again", model="far")).id)
    assert world.weights.fetched == ["far", "far"]


async def test_service_old_requests_go_with_their_files(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        job = await world.submit()
        await world.heard(Rendered, job.id)
        await world.service.begin_posting(job.id)
        await world.service.mark_posted(job.id, PostedTo.CHANNEL, 5)
        world.hold("held")
        waiting = await world.submit("held")
        world.now += timedelta(days=29)
        await world.service._tidying.remove_old()
        assert (await world.service.get(job.id)).status is JobStatus.POSTED
        world.now += timedelta(days=2)
        await world.service._tidying.remove_old()
        with pytest.raises(JobNotFound):
            await world.service.get(job.id)
        assert world.picture_files() == []
        assert (await world.service.get(waiting.id)).id == waiting.id


async def test_get_private_parts_stay_out_of_reprs(world: World) -> None:
    job = await world.service.submit(request(), replace(origin(5), interaction_token="sesame"))
    assert "sesame" not in repr(job)
