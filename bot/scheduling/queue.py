"""Who is next: round robin over members, arrival order within one. Pure; an index in memory, rebuilt from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator

_SINGLE_LOOKUPS = 4


class JobQueue:
    """A fair queue of job ids.

    Members stand in a ring. The one in front is served with their oldest job, then goes to the end. What is
    served in which order follows from the ring alone, so a position is exact until somebody joins or leaves.
    Event loop only; with 10,000 waiting every method takes a few milliseconds at most.
    """

    def __init__(self) -> None:
        self._ring: dict[int, dict[str, None]] = {}
        self._users: dict[str, int] = {}
        self._order: list[str] = []
        self._positions: dict[str, int] | None = None
        self._popped = 0
        self._lookups = 0
        self.version = 0
        """Grows with every change; whoever derives something from the order may keep it as long as this stays."""

    def __len__(self) -> int:
        return len(self._users)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._users

    def push(self, job_id: str, user_id: int) -> None:
        """Add a job at the end of its member's own line. Raises ValueError where it waits already."""
        if job_id in self._users:
            raise ValueError(f"{job_id} waits already")
        self._ring.setdefault(user_id, {})[job_id] = None
        self._users[job_id] = user_id
        self._changed()

    def first(self, skip: Callable[[str], bool] | None = None) -> str | None:
        """Name the next job, passing over those that `skip` names; None where none is left."""
        for line in self._ring.values():
            for job_id in line:
                if skip is None or not skip(job_id):
                    return job_id
        return None

    def pop(self, skip: Callable[[str], bool] | None = None) -> str | None:
        """Take the job that `first` names; those that are passed over keep their places."""
        job_id = self.first(skip)
        return None if job_id is None else self._serve(job_id, self._users[job_id])

    def remove(self, job_id: str) -> bool:
        """Take a job out; whether it waited."""
        user_id = self._users.pop(job_id, None)
        if user_id is None:
            return False
        line = self._ring[user_id]
        del line[job_id]
        if not line:
            del self._ring[user_id]
        self._changed()
        return True

    def position(self, job_id: str) -> int:
        """Tell how many jobs are served up to and including this one. Raises KeyError where it does not wait."""
        user_id = self._users[job_id]
        if self._positions is None and self._lookups < _SINGLE_LOOKUPS:
            self._lookups += 1
            return self._count_ahead(job_id, user_id) + 1
        return self._all_positions()[job_id] - self._popped + 1

    def next_user(self, job_id: str) -> int | None:
        """Tell whose job is served right before this one; None at the front. Raises KeyError where it does not wait."""
        user_id = self._users[job_id]
        if self._positions is None and self._lookups < _SINGLE_LOOKUPS:
            self._lookups += 1
            return self._user_before(job_id, user_id)
        index = self._all_positions()[job_id]
        return None if index <= self._popped else self._users[self._order[index - 1]]

    def waiting_of(self, user_id: int) -> int:
        """Count a member's jobs."""
        return len(self._ring.get(user_id, ()))

    def jobs_of(self, user_id: int) -> tuple[str, ...]:
        """List a member's jobs in their own order, which is also the order they are served in."""
        return tuple(self._ring.get(user_id, ()))

    def served(self) -> Iterator[str]:
        """Walk over the jobs in the order they will be served. The queue must not change meanwhile."""
        lines = [iter(line) for line in self._ring.values()]
        while lines:
            remaining: list[Iterator[str]] = []
            for line in lines:
                job_id = next(line, None)
                if job_id is not None:
                    remaining.append(line)
                    yield job_id
            lines = remaining

    def _serve(self, job_id: str, user_id: int) -> str:
        # Taking the first leaves the order of the others as it was; passing over somebody does not.
        first = next(iter(self._ring)) == user_id and next(iter(self._ring[user_id])) == job_id
        line = self._ring.pop(user_id)
        del line[job_id]
        del self._users[job_id]
        if line:
            self._ring[user_id] = line
        if first and self._positions is not None:
            self._popped += 1
            self.version += 1
        else:
            self._changed()
        return job_id

    def _changed(self) -> None:
        self.version += 1
        self._positions = None
        self._order = []
        self._popped = self._lookups = 0

    def _all_positions(self) -> dict[str, int]:
        """Number everybody once a few have asked; a change forgets it."""
        if self._positions is None:
            self._order = list(self.served())
            self._positions = {job_id: index for index, job_id in enumerate(self._order)}
        return self._positions

    def _count_ahead(self, job_id: str, user_id: int) -> int:
        """Count without numbering everybody: `turn` full rounds come first, then those before its member in the ring."""
        turn = self._turn(job_id, user_id)
        ahead, before = 0, True
        for other, line in self._ring.items():
            if other == user_id:
                before = False
                ahead += turn
            else:
                ahead += min(len(line), turn + before)
        return ahead

    def _user_before(self, job_id: str, user_id: int) -> int | None:
        turn = self._turn(job_id, user_id)
        previous: int | None = None
        seen = False
        for other, line in self._ring.items():
            if other == user_id:
                seen = True
                if previous is not None:
                    return previous
                if turn == 0:
                    return None
                previous = user_id  # alone in the rounds so far
            elif len(line) >= turn + (not seen):
                previous = other
        return previous

    def _turn(self, job_id: str, user_id: int) -> int:
        return next(index for index, other in enumerate(self._ring[user_id]) if other == job_id)
