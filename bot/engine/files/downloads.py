"""One download from the Hub, on a thread of its own, and in a sentence why it failed. No torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.catalogue.entries import Entry
from bot.engine.files.checksums import Checksums
from bot.engine.files.sources import MAX_INDEX_BYTES
from bot.errors import ModelError

log = logging.getLogger(__name__)

HUB = "https://huggingface.co"


class _NoRoom(Exception):
    def __init__(self, needed: int, free: int) -> None:
        super().__init__(needed, free)
        self.needed = needed
        self.free = free


class _Stopped(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched: an entry's files of a repository on the Hub, at a revision (None is the main one).

    `index` names the files there are and comes last, so that its presence says that a download is complete; None where one file is all.
    `choose` is told the names there are and the index's text, and gives those to fetch; it raises ValueError where the index is none.
    `no_index` says what a repository without one is not. `weightless`: the settings alone, whose checksums are of no weight.
    """

    entry: Entry
    repository: str
    revision: str | None
    index: str | None
    choose: Callable[[Iterable[str], str], list[str]]
    no_index: str
    weightless: bool = False


class Download:
    """One download on its own thread; its numbers are read from another, which needs no lock for an int."""

    def __init__(
        self, wanted: Wanted, *, cache: Path, endpoint: str, token: str | None, free_bytes: Callable[[Path], int],
        checksums: Checksums,
    ) -> None:  # fmt: skip
        """Take note; `free_bytes` tells the room on a folder's disk."""
        self._wanted = wanted
        self._entry = wanted.entry
        self._checksums = checksums
        self._repository = wanted.repository
        self._revision = wanted.revision or "main"
        self._cache = cache
        self._endpoint = endpoint
        self._token = token
        self._free_bytes = free_bytes
        self.stop = threading.Event()
        self.done_bytes = 0
        self.total_bytes: int | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Fetch; what went wrong is `error`."""
        try:
            self._run()
        except _Stopped:
            log.info("the download of %s was stopped", self._entry.id)
        except Exception as error:
            self.error = error

    def _run(self) -> None:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        info = api.model_info(self._repository, revision=self._revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        commit = info.sha or self._revision
        names = self._chosen(sizes, commit)
        if not self._wanted.weightless and not any(name.endswith(".safetensors") for name in names):
            raise ModelError(f"{self._entry.name}: {self._repository} has no .safetensors weights; others are refused.")
        self._check_room(sizes, names, commit)
        self.total_bytes = sum(sizes[name] for name in names)
        for name in names:
            self._fetch_file(name, commit, sizes[name])
        self._write_reference(commit)

    def _chosen(self, sizes: dict[str, int], commit: str) -> list[str]:
        """Choose the files to fetch by what the index says."""
        index, name = self._wanted.index, self._entry.name
        if index is None:
            return self._wanted.choose(sizes, "")
        if index not in sizes:
            raise ModelError(f"{name}: {self._repository} on the Hub is {self._wanted.no_index}, it has no {index}.")
        if sizes[index] > MAX_INDEX_BYTES:
            raise ModelError(
                f"{name}: {index} of {self._repository} is larger than a list of parts or settings can be."
            )
        try:
            return self._wanted.choose(sizes, self._read_text(index, commit))
        except ValueError as error:
            raise ModelError(f"{name}: {index} of {self._repository} cannot be read ({error}).") from None

    def _check_room(self, sizes: dict[str, int], names: list[str], commit: str) -> None:
        from huggingface_hub import try_to_load_from_cache

        here = sum(
            sizes[name]
            for name in names
            if isinstance(try_to_load_from_cache(self._repository, name, cache_dir=self._cache, revision=commit), str)
        )
        whole = sum(sizes[name] for name in names) or (self._entry.download_bytes or 0)
        self._cache.mkdir(parents=True, exist_ok=True)
        free = self._free_bytes(self._cache)
        if free < whole - here:
            raise _NoRoom(whole - here, free)

    def _read_text(self, name: str, commit: str) -> str:
        """Read a small text file of the repository without putting it into the cache."""
        from huggingface_hub import get_session, hf_hub_url, utils

        hub: Any = utils
        url = hf_hub_url(self._repository, name, revision=commit, endpoint=self._endpoint)
        headers = hub.build_hf_headers(token=self._token or False)
        response: Any = get_session().get(url, headers=headers, timeout=30, follow_redirects=True)
        hub.hf_raise_for_status(response)
        return str(response.text)

    def _fetch_file(self, name: str, commit: str, size: int) -> None:
        import huggingface_hub

        hub: Any = huggingface_hub
        if self.stop.is_set():
            raise _Stopped
        before = self.done_bytes
        download = self

        class Bar:
            """Stands in for tqdm: counts bytes, and stops the transfer when it should."""

            def __init__(self, *_: Any, initial: int = 0, **__: Any) -> None:
                download.done_bytes = before + int(initial or 0)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                return None

            def update(self, n: float | None = 1) -> None:
                download.done_bytes = min(download.done_bytes + int(n or 0), before + size)
                if download.stop.is_set():
                    raise _Stopped

            def __getattr__(self, _: str) -> Callable[..., None]:
                return lambda *args, **kwargs: None

        path = hub.hf_hub_download(
            self._repository, name, revision=commit, cache_dir=self._cache, endpoint=self._endpoint,
            token=self._token or False, tqdm_class=Bar,
        )  # fmt: skip
        self.done_bytes = before + size
        if not self._wanted.weightless and name in self._entry.sha256:
            self._compare(Path(path), self._entry.sha256[name])

    def _compare(self, path: Path, digest: str) -> None:
        """Compare what arrived with the catalogue; what is not the file that is meant does not stay."""
        try:
            self._checksums.verify(self._entry.name, {path: digest})
        except ModelError:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise

    def _write_reference(self, commit: str) -> None:
        """Note which commit the branch is, as huggingface_hub does, so that it is found without a network."""
        if commit == self._revision:
            return
        folder = self._cache / f"models--{self._repository.replace('/', '--')}" / "refs"
        target = folder / self._revision
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        part.write_text(commit, encoding="utf-8")
        part.replace(target)


def explain(spec: Entry, repository: str, endpoint: str, error: Exception) -> ModelError:
    """Say in a sentence why a download failed and what to do."""
    from huggingface_hub import errors

    if isinstance(error, ModelError):
        return error
    if isinstance(error, _NoRoom):
        return ModelError(
            f"{spec.name} needs {_gb(error.needed)} GB on disk and {_gb(error.free)} GB are free; "
            "make room or set EASEL_DATA_DIR to a larger disk."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or (status in (401, 403) and spec.gated):
        return ModelError(
            f"{spec.name} is gated: accept the licence at {HUB}/{repository}, then set HF_TOKEN "
            "to a token of that account and start again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(
            f"{spec.name}: {repository} has no revision {spec.revision!r}; correct it in the models file."
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return ModelError(
            f"{spec.name}: there is no model {repository} on the Hub and no folder of that name; correct its source "
            "in the models file, or set HF_TOKEN if it is private."
        )
    if status in (401, 403):
        return ModelError(
            f"{spec.name}: the Hub refuses access to {repository}; set HF_TOKEN to a token that may read it."
        )
    if isinstance(error, OSError) and error.errno == 28:
        return ModelError(f"The disk filled up while {spec.name} was fetched; make room or move EASEL_DATA_DIR.")
    if status is not None:
        return ModelError(f"{spec.name}: the Hub at {endpoint} answers with an error ({status}); try again later.")
    log.warning("fetching %s failed", repository, exc_info=error)
    return ModelError(
        f"{spec.name} is not on this machine and the Hub at {endpoint} cannot be reached; "
        f"connect it and try again, or run `python -m bot models fetch {spec.id}` when it is connected."
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 else f"{size / 1e9:.3f}"
