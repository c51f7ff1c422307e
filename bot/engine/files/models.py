"""The catalogue as this machine has it: the file read, the default chosen, the folders named. No torch."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from pathlib import Path

from bot.catalogue.models import Catalogue, ModelSpec, Style
from bot.catalogue.models_file import parse_catalogue
from bot.config import Settings
from bot.engine.base import Weights
from bot.engine.devices import gpu_present
from bot.engine.files.addons import EMBEDDINGS, LORAS, with_addons
from bot.engine.files.checkpoints import with_checkpoints
from bot.engine.files.part_files import on_the_hub
from bot.engine.files.sources import MAX_INDEX_BYTES, json_object, read_text
from bot.engine.files.weights import ModelFiles
from bot.engine.loading.vaes import find_vae
from bot.engine.upscaling.upscalers import installed
from bot.errors import ConfigError
from bot.prompts.choices import Wildcards
from bot.prompts.styles import SHIPPED, merged, parse_styles
from bot.prompts.wildcards import MAX_FILE_BYTES, MAX_FILES, parse_wildcards

log = logging.getLogger(__name__)

BUILT_IN = "pocket"


def load_catalogue(settings: Settings) -> Catalogue:
    """Read the models file and choose the default for this machine. Touches the disk; any thread, not the loop.

    Raises ConfigError naming the file.
    """
    path, root, data_dir = settings.models_file, models_root(settings), settings.data_dir
    catalogue = with_checkpoints(_read_file(path), data_dir)
    if settings.model is not None:
        if catalogue.get(settings.model) is None:
            known = ", ".join(spec.id for spec in catalogue.models)
            raise ConfigError(f"The default model {settings.model!r} is not in {path}; it knows {known}.")
        catalogue = replace(catalogue, default=settings.model)
    vaes = tuple(
        spec if spec.vae is None else replace(spec, vae=find_vae(spec.vae, root, data_dir)) for spec in catalogue.models
    )
    catalogue = with_addons(locate_parts(replace(catalogue, models=vaes), root), data_dir)
    catalogue = replace(
        catalogue,
        styles=load_styles(data_dir),
        negative=settings.negative_prompt or "",
        upscalers=installed(upscalers_dir(settings)),
    )
    if settings.model is not None:
        return catalogue
    return replace(catalogue, default=default_model(catalogue, model_files(catalogue, settings), settings.device))


def _read_file(path: Path) -> Catalogue:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"EASEL_MODELS_FILE is {path}, and there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"EASEL_MODELS_FILE {path} cannot be read: {error}.") from None
    return parse_catalogue(text, origin=str(path))


def load_styles(data_dir: Path) -> tuple[Style, ...]:
    """Read the styles that come with Easel, and the operator's `styles.toml`. Raises ConfigError naming file, style and key."""
    own = data_dir / "styles.toml"
    shipped = parse_styles(SHIPPED.read_text(encoding="utf-8"), str(SHIPPED))
    try:
        text = own.read_text(encoding="utf-8")
    except FileNotFoundError:
        return shipped
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{own} cannot be read: {error}.") from None
    return merged(shipped, parse_styles(text, str(own)))


def load_wildcards(data_dir: Path) -> Wildcards:
    """Read the operator's `wildcards/**/*.txt`, named by their paths; none where there are none. Raises ConfigError naming file and line."""
    folder = data_dir / "wildcards"
    paths = sorted(path for path in folder.rglob("*.txt") if path.is_file()) if folder.is_dir() else []
    if len(paths) > MAX_FILES:
        raise ConfigError(f"{folder} has {len(paths)} wildcard files; at most {MAX_FILES} are taken.")
    texts: dict[str, str] = {}
    for path in paths:
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES // 1000} kB; make it smaller.")
            texts[path.relative_to(folder).with_suffix("").as_posix()] = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}.") from None
    if texts:
        importlib.import_module(
            "bot.prompts.sampling"
        )  # the first choice should not keep the event loop waiting for it
    return parse_wildcards(texts, origin=str(folder))


def locate_parts(catalogue: Catalogue, root: Path) -> Catalogue:
    """Make the paths of what models have besides absolute, `root` being where relative ones count from.

    Without its files a model has no drafts, no inpainting weights, no control network of that kind, no IP-Adapter; what is on the Hub is
    fetched when it is first asked for.
    """
    missing: list[str] = []
    located = replace(catalogue, models=tuple(_located(spec, root, missing) for spec in catalogue.models))
    for sentence in missing:
        log.info("%s", sentence)
    return located


def missing_parts(settings: Settings) -> list[str]:
    """Say of each file or folder that a models file names besides its models and that is not there, what is without it. Touches the disk.

    Raises ConfigError naming the models file.
    """
    missing: list[str] = []
    for spec in _read_file(settings.models_file).models:
        _located(spec, models_root(settings), missing)
    return missing


def _located(spec: ModelSpec, root: Path, missing: list[str]) -> ModelSpec:
    """Make a model's paths absolute, and leave out what is not there, which is said in `missing`."""

    def there(path: str, what: str) -> str | None:
        found = (root / Path(path).expanduser()).resolve()
        if found.exists():
            return str(found)
        missing.append(f"no {what} of {spec.id}: {found} is not there")
        return None

    def there_or_on_the_hub(source: str, what: str) -> str | None:
        return source if on_the_hub(source, root) else there(source, what)

    draft = spec.draft
    if draft is not None:
        lora = there(draft.lora, "drafts")
        vae = None if draft.tiny_vae is None else there(draft.tiny_vae, "drafts")
        incomplete = lora is None or (draft.tiny_vae is not None and vae is None)
        draft = None if incomplete else replace(draft, lora=lora, tiny_vae=vae)
    inpainting = None if spec.inpainting is None else there_or_on_the_hub(spec.inpainting, "inpainting weights")
    controls = {kind: there_or_on_the_hub(source, f"{kind} control") for kind, source in spec.controls.items()}
    known = {kind: path for kind, path in controls.items() if path is not None}
    adapter = spec.ip_adapter
    if adapter is not None:
        weights = there_or_on_the_hub(adapter.weights, "IP-Adapter")
        encoder = there_or_on_the_hub(adapter.encoder, "image encoder")
        incomplete = weights is None or encoder is None
        adapter = None if incomplete else replace(adapter, weights=weights, encoder=encoder)
    own = {
        what: {name: at for name, path in files.items() if (at := there(path, f"{name} ({what})")) is not None}
        for what, files in ((LORAS, spec.loras), (EMBEDDINGS, spec.embeddings))
    }
    return replace(
        spec, draft=draft, inpainting=inpainting, controls=known, ip_adapter=adapter, loras=own[LORAS], embeddings=own[EMBEDDINGS],
        words_width=spec.words_width or _words_width(root / Path(spec.source).expanduser()),
    )  # fmt: skip


def _words_width(folder: Path) -> int | None:
    """Read how wide the words are that a folder's UNet reads; None where there is no such folder, or it does not tell."""
    try:
        width = json_object(read_text(folder / "unet" / "config.json", MAX_INDEX_BYTES)).get("cross_attention_dim")
    except (OSError, ValueError):
        return None
    return width if type(width) is int else None


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


def upscalers_dir(settings: Settings) -> Path:
    """Where the operator's own upscalers lie."""
    return settings.data_dir.resolve() / "upscalers"


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
