"""The configs of a model's components, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxdream.weights.carry import CONFIG_NAMES, read_json, without_flax
from flaxdream.weights.hub import is_out_of_reach

_PATTERNS = ("model_index.json", "config.json", "*/config.json", "*/scheduler_config.json")


def component_configs(
    model: str | Path, *, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> dict[str, dict[str, Any]]:
    """By component, from a local folder or else from the Hub, of which a few kilobytes are fetched.

    Raises ValueError when there is no such folder and the Hub does not give the model.
    """
    folder = Path(model).expanduser()
    if not (str(model) and folder.is_dir()):
        folder = _fetched(str(model), revision, token, cache_dir)
    places = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    configs = {place.name: _config(place) for place in places}
    return {name: config for name, config in configs.items() if config is not None}


def component_config(
    source: str | Path, component: str, *, token: str | None = None, cache_dir: str | Path | None = None
) -> dict[str, Any]:
    """Of one component: of a folder or Hub id that is the component, or a model that has it."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _fetched(str(source), None, token, cache_dir)
    config = _config(folder / component) or _config(folder)
    if config is None:
        raise ValueError(f"{source} has no {component}/config.json and no config.json of its own.")
    return config


def _config(place: Path) -> dict[str, Any] | None:
    path = next((place / name for name in CONFIG_NAMES if (place / name).is_file()), None)
    return None if path is None else without_flax(read_json(path))


def _fetched(model: str, revision: str | None, token: str | None, cache_dir: str | Path | None) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "allow_patterns": _PATTERNS}
    try:
        return Path(hub.snapshot_download(model, token=token, **where))
    except errors.HFValidationError:
        raise ValueError(f"{model!r} is neither a folder that exists nor a Hub id.") from None
    except Exception as error:  # the HTTP library differs between versions of huggingface_hub
        known = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError)
        if not isinstance(error, known) and not is_out_of_reach(error):
            raise
        raise ValueError(
            f"{model} is no local folder, and the Hub does not give its configs: {str(error).splitlines()[0]}"
        ) from None
