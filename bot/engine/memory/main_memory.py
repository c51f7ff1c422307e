"""How much main memory there is, containers' limits counted. Reads the system's own files; any thread, no torch."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = (("memory.max", "memory.stat"), ("memory/memory.limit_in_bytes", "memory/memory.stat"))
"""A container's limit and what it uses, in version 2 and version 1 of the kernel's control groups."""


def main_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Tell how much main memory this program may use at most; None where the system does not tell."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit, _ = _container(cgroup)
    return physical if limit is None else min(physical, limit)


def free_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Tell how much main memory is free, with what the file cache would give back; None where the system does not tell."""
    free = _number_after(meminfo, "MemAvailable:")
    limit, used = _container(cgroup)
    if free is None:
        return None
    free *= 1024
    return free if limit is None or used is None else min(free, max(0, limit - used))


def _container(root: Path) -> tuple[int | None, int | None]:
    """A container's limit, and what it has of it that cannot be given back, in bytes; None where there is no limit."""
    for limit, used in _CGROUPS:
        try:
            text = (root / limit).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        # "max" in version 2, a number larger than any memory in version 1.
        if text.isdigit() and int(text) < 1 << 60:
            anonymous = _number_after(root / used, "anon ")
            return int(text), anonymous if anonymous is not None else _number_after(root / used, "total_rss ")
    return None, None


def _number_after(path: Path, word: str) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = next((line for line in lines if line.startswith(word)), None)
    return None if found is None else int(found.removeprefix(word).split()[0])
