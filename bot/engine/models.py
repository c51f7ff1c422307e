"""The catalogue as this machine has it: the file read, the default chosen, the folders named. No torch."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from bot.catalogue import Catalogue, ModelSpec, parse_catalogue
from bot.config import Settings
from bot.engine.base import Weights
from bot.engine.devices import gpu_present
from bot.engine.weights import ModelFiles
from bot.errors import ConfigError

log = logging.getLogger(__name__)

BUILT_IN = "pocket"


def load_catalogue(settings: Settings) -> Catalogue:
    """Read the models file and choose the default for this machine. Touches the disk; any thread, not the loop.

    Raises ConfigError naming the file.
    """
    path = settings.models_file
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"EASEL_MODELS_FILE is {path}, and there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"EASEL_MODELS_FILE {path} cannot be read: {error}.") from None
    catalogue = locate_drafts(parse_catalogue(text, origin=str(path), default=settings.model), models_root(settings))
    if settings.model is not None:
        return catalogue
    return replace(catalogue, default=default_model(catalogue, model_files(catalogue, settings), settings.device))


def locate_drafts(catalogue: Catalogue, root: Path) -> Catalogue:
    """Make the paths of drafts absolute, `root` being where relative ones count from; without its files a model has no drafts."""

    def located(spec: ModelSpec) -> ModelSpec:
        if spec.draft is None:
            return spec
        lora = (root / Path(spec.draft.lora).expanduser()).resolve()
        vae = None if spec.draft.tiny_vae is None else (root / Path(spec.draft.tiny_vae).expanduser()).resolve()
        missing = [path for path in (lora, vae) if path is not None and not path.exists()]
        if missing:
            log.info("no drafts of %s: %s is not there", spec.id, missing[0])
            return replace(spec, draft=None)
        draft = replace(spec.draft, lora=str(lora), tiny_vae=None if vae is None else str(vae))
        return replace(spec, draft=draft)

    return replace(catalogue, models=tuple(located(spec) for spec in catalogue.models))


def model_files(catalogue: Catalogue, settings: Settings) -> ModelFiles:
    """Make the finder and fetcher of the catalogue's files."""
    return ModelFiles(
        catalogue, models_root=models_root(settings), cache_dir=hub_cache(settings), hf_token=settings.hf_token
    )


def models_root(settings: Settings) -> Path:
    """Where relative sources of the catalogue count from."""
    return settings.models_file.resolve().parent


def hub_cache(settings: Settings) -> Path:
    """Where downloads from the Hub lie."""
    return settings.data_dir.resolve() / "models" / "hub"


def compiled_dir(settings: Settings) -> Path:
    """Where what was compiled for this machine lies, so that a restart need not compile it again."""
    return settings.data_dir.resolve() / "compiled"


def default_model(catalogue: Catalogue, weights: Weights, device: str) -> str:
    """Choose the model used where none is named.

    With a GPU it is the first model that is already here; without one, or with nothing else here, the built-in
    model. A catalogue without the built-in model falls back to its own default. `device` is EASEL_DEVICE.
    """
    built_in = catalogue.get(BUILT_IN)
    if built_in is None or gpu_present(device):
        for spec in catalogue.models:
            if spec.id != BUILT_IN and weights.is_local(spec.id):
                return spec.id
    return catalogue.default if built_in is None else BUILT_IN
