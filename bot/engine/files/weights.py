"""Finds and fetches the files of models. Any thread; no torch.

Downloads lie in huggingface_hub's own layout under `cache_dir`. The index of a model is fetched last, so a model whose
index is there is complete, and nothing but the first fetch asks the network.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from bot.catalogue.annotators import AnnotatorSpec
from bot.catalogue.entries import Entry
from bot.catalogue.models import UPSCALER_PREFIX, Catalogue, ModelSpec
from bot.catalogue.parts import PartSpec, find_part
from bot.engine.files.annotator_files import SETTINGS, check_folder, is_whole, wanted_annotator_files
from bot.engine.files.checksums import Checksums
from bot.engine.files.downloads import HUB, Download, Wanted, explain
from bot.engine.files.part_files import check_part, part_source, place_of, wanted_part, whole_part
from bot.engine.files.sources import (
    CONFIG_REPOSITORIES,
    INDEX,
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
from bot.engine.memory.plans import DENOISERS
from bot.errors import GenerationCancelled, ModelError
from bot.generation import FetchProgress

_POLL_S = 0.25


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
        self._endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
        self._free_bytes = free_bytes or _free_bytes
        self._checksums = Checksums(cache_dir / "checksums.json")

    def is_local(self, model_id: str) -> bool:
        """Whether the model can be loaded without a network. Touches the disk: not for the event loop.

        A folder or file of the operator's own counts as local even where it is broken, since fetching cannot help;
        loading says what is wrong.
        """
        if model_id.startswith(UPSCALER_PREFIX):
            return True
        annotator = self._catalogue.annotator(model_id)
        if annotator is not None:
            return self._has_annotator(annotator)
        spec = self._catalogue.get(model_id) or find_part(self._catalogue, model_id)
        if spec is None:
            return False
        try:
            if isinstance(spec, PartSpec):
                return all(self._has_part(each) for each in (spec, *spec.beside))
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

    def locate_annotator(self, annotator_id: str) -> Path:
        """Give a local annotator's folder, its checksums compared as `locate` does. Raises ModelError."""
        spec = self._catalogue.annotator(annotator_id)
        if spec is None:
            raise ModelError(f"The annotator {annotator_id!r} is not in the catalogue any more; choose another one.")
        source = find_source(spec, self._root)
        if source.kind is Kind.HUB:
            folder = self._cached(spec.source, spec.revision, SETTINGS)
            if folder is None or not is_whole(folder):
                raise _not_here(spec)
        else:
            folder = check_folder(spec, source)
        self._checksums.verify(spec.name, {folder / name: digest for name, digest in spec.sha256.items()})
        return folder

    def locate_part(self, part: PartSpec) -> Path:
        """Give the local folder or file of what a model has besides. Raises ModelError."""
        source = part_source(part, self._root)
        if source.kind is not Kind.HUB:
            return check_part(part, source)
        folder = self._part(part)
        if folder is None:
            raise _not_here(part)
        return folder

    def _part(self, part: PartSpec) -> Path | None:
        """Find a part's download."""
        place = place_of(part)
        found = self._cached_file(place.repository, part.revision, place.name)
        return None if found is None else whole_part(part, found)

    def _has_part(self, part: PartSpec) -> bool:
        return part_source(part, self._root).kind is not Kind.HUB or self._part(part) is not None

    def _has_annotator(self, spec: AnnotatorSpec) -> bool:
        try:
            if find_source(spec, self._root).kind is not Kind.HUB:
                return True
        except ModelError:
            return True
        folder = self._cached(spec.source, spec.revision, SETTINGS)
        return folder is not None and is_whole(folder)

    def _find(self, spec: ModelSpec) -> tuple[Path, Path | None]:
        source = find_source(spec, self._root)
        if source.kind is Kind.HUB:
            folder = self._downloaded(spec.source, spec.revision)
            if folder is None:
                raise _not_here(spec)
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
        annotator = self._catalogue.annotator(model_id)
        if annotator is not None:
            self._fetch_annotator(annotator, on_progress, stopped)
            return
        part = find_part(self._catalogue, model_id)
        if isinstance(part, PartSpec):
            for each in (part, *part.beside):
                self._fetch_part(each, on_progress, stopped)
            return
        spec = self._spec(model_id)
        source = find_source(spec, self._root)
        if source.kind is not Kind.HUB:
            check_local(spec, source)
        if self.is_local(model_id):
            return
        repository = spec.base or (spec.source if source.kind is Kind.HUB else CONFIG_REPOSITORIES[spec.family])
        settings_only = source.kind is Kind.FILE and spec.base is None

        def choose(names: Iterable[str], index: str) -> list[str]:
            parts = index_components(index)
            if settings_only:
                return wanted_settings(names, parts)
            return wanted_files(names, parts, spec.variant, DENOISERS if spec.base else ())

        revision = None if settings_only else spec.revision
        wanted = Wanted(spec, repository, revision, INDEX, choose, "no diffusers model", weightless=settings_only)
        self._carry_out(wanted, on_progress, stopped)

    def _fetch_part(
        self, part: PartSpec, on_progress: Callable[[FetchProgress], None], stopped: Callable[[], bool]
    ) -> None:
        source = part_source(part, self._root)
        if source.kind is not Kind.HUB:
            check_part(part, source)
        elif self._part(part) is None:
            self._carry_out(wanted_part(part), on_progress, stopped)

    def _fetch_annotator(
        self, spec: AnnotatorSpec, on_progress: Callable[[FetchProgress], None], stopped: Callable[[], bool]
    ) -> None:
        source = find_source(spec, self._root)
        if source.kind is not Kind.HUB:
            check_folder(spec, source)
        elif not self.is_local(spec.id):
            wanted = Wanted(
                spec, spec.source, spec.revision, SETTINGS, wanted_annotator_files, "no model of transformers"
            )
            self._carry_out(wanted, on_progress, stopped)

    def _carry_out(
        self, wanted: Wanted, on_progress: Callable[[FetchProgress], None], stopped: Callable[[], bool]
    ) -> None:
        entry = wanted.entry
        download = Download(
            wanted, cache=self._cache, endpoint=self._endpoint, token=self._token, free_bytes=self._free_bytes,
            checksums=self._checksums,
        )  # fmt: skip
        # On a thread of its own, because a transfer in the middle cannot be interrupted, only left behind.
        thread = threading.Thread(target=download.run, name=f"fetch-{entry.id}", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            if stopped():
                download.stop.set()
                raise GenerationCancelled("Cancelled.")
            if download.total_bytes is not None:
                on_progress(
                    FetchProgress(entry.id, min(download.done_bytes, download.total_bytes), download.total_bytes)
                )
        if download.error is not None:
            raise explain(entry, wanted.repository, self._endpoint, download.error) from download.error

    def _spec(self, model_id: str) -> ModelSpec:
        spec = self._catalogue.get(model_id) or find_part(self._catalogue, model_id)
        if spec is None or isinstance(spec, PartSpec):
            known = ", ".join(m.id for m in (*self._catalogue.models, *self._catalogue.annotators))
            raise ModelError(f"There is no model {model_id!r} in the catalogue; it has {known}.")
        return spec

    def _cached(self, repository: str, revision: str | None, index: str = INDEX) -> Path | None:
        found = self._cached_file(repository, revision, index)
        return None if found is None else found.parent

    def _cached_file(self, repository: str, revision: str | None, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repository, name, cache_dir=self._cache, revision=revision)
        return Path(found) if isinstance(found, str) else None

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


def _not_here(entry: Entry) -> ModelError:
    return ModelError(
        f"{entry.name} has not been downloaded yet; run `python -m bot models fetch {entry.id}` where there is a network."
    )


def _is_file(source: Source) -> bool:
    return source.path is not None and source.path.is_file()


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
