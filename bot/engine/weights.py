"""Finds and fetches the files of models. Any thread; no torch.

Downloads lie in huggingface_hub's own layout under `cache_dir`. The index of a model is fetched last, so a model whose
index is there is complete, and nothing but the first fetch asks the network.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bot.catalogue import UPSCALER_PREFIX, Catalogue, ModelSpec
from bot.engine.checksums import Checksums
from bot.engine.plans import DENOISERS
from bot.engine.sources import (
    CONFIG_REPOSITORIES,
    INDEX,
    MAX_INDEX_BYTES,
    Kind,
    Source,
    check_local,
    find_base,
    find_source,
    index_components,
    lacks_weights,
    wanted_files,
    wanted_settings,
)
from bot.errors import GenerationCancelled, ModelError
from bot.generation import FetchProgress

log = logging.getLogger(__name__)

_POLL_S = 0.25
_HUB = "https://huggingface.co"


class ModelFiles:
    """The files of a catalogue's models: local folders, single files and downloads from the Hub."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        models_root: Path,
        cache_dir: Path,
        hf_token: str | None,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        """Take note of the settings; touches nothing.

        Relative sources count from `models_root`. HF_ENDPOINT, where it is set, is the Hub's address.
        `free_bytes` tells the room on a folder's disk.
        """
        self._catalogue = catalogue
        self._root = models_root
        self._cache = cache_dir
        self._token = hf_token
        self._endpoint = (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
        self._free_bytes = free_bytes or _free_bytes
        self._checksums = Checksums(cache_dir / "checksums.json")

    def is_local(self, model_id: str) -> bool:
        """Whether the model can be loaded without a network. Touches the disk: not for the event loop.

        A folder or file of the operator's own counts as local even where it is broken, since fetching cannot help;
        loading says what is wrong.
        """
        if model_id.startswith(UPSCALER_PREFIX):
            return True
        spec = self._catalogue.get(model_id)
        if spec is None:
            return False
        try:
            source = find_source(spec, self._root)
            if source.kind is Kind.HUB:
                return self._downloaded(spec.source, spec.revision) is not None
            return source.kind is Kind.FOLDER or not _is_file(source) or self._settings(spec, source) is not None
        except ModelError:
            return True

    def locate(self, model_id: str) -> tuple[Path, Path | None]:
        """Give a local model's folder or file, and the folder with a single file's configuration, or a GGUF file's other parts.

        Files with a checksum in the catalogue are compared with it, once. Raises ModelError where it is not there, is no
        model or is not the file that is meant.
        """
        spec = self._spec(model_id)
        weights, settings = self._find(spec)
        self._checksums.verify(spec.name, {weights / name if name else weights: d for name, d in spec.sha256.items()})
        return weights, settings

    def _find(self, spec: ModelSpec) -> tuple[Path, Path | None]:
        source = find_source(spec, self._root)
        if source.kind is Kind.HUB:
            folder = self._downloaded(spec.source, spec.revision)
            if folder is None:
                raise ModelError(
                    f"{spec.name} has not been downloaded yet; run `python -m bot models fetch {spec.id}` first."
                )
            return folder, None
        check_local(spec, source)
        assert source.path is not None
        if source.kind is Kind.FOLDER:
            return source.path, None
        settings = self._settings(spec, source)
        if settings is None:
            what = "its family's configuration" if spec.base is None else f"the other parts, of {spec.base}"
            raise ModelError(f"{spec.name} needs {what}; run `python -m bot models fetch {spec.id}` once.")
        return source.path, settings

    def fetch(self, model_id: str, on_progress: Callable[[FetchProgress], None], stopped: Callable[[], bool]) -> None:
        """Download the model; blocks for as long as that takes, and does nothing where it is local.

        `on_progress` and `stopped` are called on this thread about four times a second. What has arrived when it
        stops is kept and not fetched again. Raises ModelError with what to do about it, GenerationCancelled where
        `stopped` says so.
        """
        spec = self._spec(model_id)
        source = find_source(spec, self._root)
        if source.kind is not Kind.HUB:
            check_local(spec, source)
        if self.is_local(model_id):
            return
        repository = spec.base or (spec.source if source.kind is Kind.HUB else CONFIG_REPOSITORIES[spec.family])
        settings_only = source.kind is Kind.FILE and spec.base is None
        download = _Download(
            spec, repository, self._cache, self._endpoint, self._token, settings_only, self._free_bytes, self._checksums,
        )  # fmt: skip
        # On a thread of its own, because a transfer in the middle cannot be interrupted, only left behind.
        thread = threading.Thread(target=download.run, name=f"fetch-{model_id}", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            if stopped():
                download.stop.set()
                raise GenerationCancelled("Cancelled.")
            if download.total_bytes is not None:
                on_progress(
                    FetchProgress(model_id, min(download.done_bytes, download.total_bytes), download.total_bytes)
                )
        if download.error is not None:
            raise explain(spec, repository, self._endpoint, download.error) from download.error

    def _spec(self, model_id: str) -> ModelSpec:
        spec = self._catalogue.get(model_id)
        if spec is None:
            known = ", ".join(m.id for m in self._catalogue.models)
            raise ModelError(f"There is no model {model_id!r} in the catalogue; it has {known}.")
        return spec

    def _cached(self, repository: str, revision: str | None) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repository, INDEX, cache_dir=self._cache, revision=revision)
        return Path(found).parent if isinstance(found, str) else None

    def _downloaded(self, repository: str, revision: str | None, without: Iterable[str] = ()) -> Path | None:
        """Find a download that has the weights of all its parts but those `without`."""
        folder = self._cached(repository, revision)
        return None if folder is None or lacks_weights(folder, without) else folder

    def _settings(self, spec: ModelSpec, source: Source) -> Path | None:
        """Find a single file's configuration: a folder of the same name beside it, else its family's; a GGUF file's base."""
        assert source.path is not None
        if spec.base is not None:
            base = find_base(spec, self._root)
            if base.kind is Kind.HUB:
                return self._downloaded(spec.base, spec.revision, DENOISERS)
            check_local(spec, base)
            return base.path
        beside = source.path.with_suffix("")
        if (beside / INDEX).is_file():
            return beside
        if spec.family not in CONFIG_REPOSITORIES:
            raise ModelError(
                f"{spec.name}: a single file can be of the family {', '.join(CONFIG_REPOSITORIES)}, "
                f"not {spec.family!r}; use the model's diffusers folder."
            )
        return self._cached(CONFIG_REPOSITORIES[spec.family], None)


class _NoRoom(Exception):
    def __init__(self, needed: int, free: int) -> None:
        super().__init__(needed, free)
        self.needed = needed
        self.free = free


class _Stopped(Exception):
    pass


class _Download:
    """One download on its own thread; its numbers are read from another, which needs no lock for an int."""

    def __init__(
        self,
        spec: ModelSpec,
        repository: str,
        cache: Path,
        endpoint: str,
        token: str | None,
        settings_only: bool,
        free_bytes: Callable[[Path], int],
        checksums: Checksums,
    ) -> None:
        self._spec = spec
        self._checksums = checksums
        self._repository = repository
        self._revision = (None if settings_only else spec.revision) or "main"
        self._cache = cache
        self._endpoint = endpoint
        self._token = token
        self._settings_only = settings_only
        self._free_bytes = free_bytes
        self.stop = threading.Event()
        self.done_bytes = 0
        self.total_bytes: int | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._run()
        except _Stopped:
            log.info("the download of %s was stopped", self._spec.id)
        except Exception as error:
            self.error = error

    def _run(self) -> None:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        info = api.model_info(self._repository, revision=self._revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if INDEX not in sizes:
            raise ModelError(
                f"{self._spec.name}: {self._repository} on the Hub is no diffusers model, it has no {INDEX}."
            )
        commit = info.sha or self._revision
        if sizes[INDEX] > MAX_INDEX_BYTES:
            raise ModelError(f"{self._spec.name}: {INDEX} of {self._repository} is larger than a list of parts can be.")
        index = self._read_text(INDEX, commit)
        try:
            components = index_components(index)
        except ValueError as error:
            raise ModelError(f"{self._spec.name}: {INDEX} of {self._repository} cannot be read ({error}).") from None
        names = (
            wanted_settings(sizes, components)
            if self._settings_only
            else wanted_files(sizes, components, self._spec.variant, DENOISERS if self._spec.base else ())
        )
        if not self._settings_only and not any(name.endswith(".safetensors") for name in names):
            raise ModelError(f"{self._spec.name}: {self._repository} has no .safetensors weights; others are refused.")
        self._check_room(sizes, names, commit)
        self.total_bytes = sum(sizes[name] for name in names)
        for name in names:
            self._fetch_file(name, commit, sizes[name])
        self._write_reference(commit)

    def _check_room(self, sizes: dict[str, int], names: list[str], commit: str) -> None:
        from huggingface_hub import try_to_load_from_cache

        here = sum(
            sizes[name]
            for name in names
            if isinstance(try_to_load_from_cache(self._repository, name, cache_dir=self._cache, revision=commit), str)
        )
        whole = sum(sizes[name] for name in names) or (self._spec.download_bytes or 0)
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
        if not self._settings_only and name in self._spec.sha256:
            self._compare(Path(path), self._spec.sha256[name])

    def _compare(self, path: Path, digest: str) -> None:
        """Compare what arrived with the catalogue; what is not the file that is meant does not stay."""
        try:
            self._checksums.verify(self._spec.name, {path: digest})
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


def explain(spec: ModelSpec, repository: str, endpoint: str, error: Exception) -> ModelError:
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
            f"{spec.name} is gated: accept the licence at {_HUB}/{repository}, then set HF_TOKEN "
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


def _is_file(source: Source) -> bool:
    return source.path is not None and source.path.is_file()


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 else f"{size / 1e9:.3f}"
