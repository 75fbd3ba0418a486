"""Models by their Hub id: only the files that are needed, through huggingface_hub's cache."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from flaxdream.weights import files
from flaxdream.weights.model_dir import NEEDED
from flaxdream.weights.replace import INDEX

logger = logging.getLogger(__name__)

BUILTIN = Path(__file__).parent.parent / "assets/builtin"  # the small model that ships inside the package
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def model_folder(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    components: Collection[str] | None = None,
) -> Path:
    """The folder of a model: a local one of this name if there is one, else the Hub's, downloaded as needed.

    `builtin` is the small model that ships inside the package.

    Of each component (all those of the model's index, or `components`) one set of weights is fetched: safetensors
    before msgpack, of the `variant` if there is one. With `local_files_only`, with HF_HUB_OFFLINE=1 or when the
    Hub is out of reach the cached copy is used. Raises ValueError that says what to do.
    """
    folder = Path(model).expanduser()
    if str(model) and folder.is_dir():
        return folder
    if str(model) == "builtin":
        return BUILTIN
    where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir}

    def choose(present: Collection[str]) -> list[str]:
        import huggingface_hub as hub

        if INDEX not in present:
            raise ValueError(f"{model} on the Hub is not a diffusers model: it has no {INDEX}.")
        index = hub.hf_hub_download(str(model), INDEX, token=token, **where)
        return files_to_fetch(present, json.loads(Path(index).read_text(encoding="utf-8")), variant, components)

    return _found(str(model), where, token, local_files_only, choose, (INDEX,))


def component_folder(
    source: str | Path,
    component: str,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of one component, a VAE or a tokenizer, that takes the place of a model's own.

    `source` is that folder, a model that has such a component, or the Hub id of either. Raises ValueError as
    `model_folder` does.
    """
    folder = BUILTIN if str(source) == "builtin" else Path(source).expanduser()
    if str(source) and folder.is_dir():
        return folder / component if (folder / component).is_dir() else folder
    if folder.is_file():
        raise ValueError(f"{source} is a file; expected the folder of a {component} with its config, or a Hub id.")

    def choose(present: Collection[str]) -> list[str]:
        inside = [name for name in present if name.startswith(f"{component}/")] if INDEX in present else []
        by_name = {name.rsplit("/", 1)[-1]: name for name in inside or present if inside or "/" not in name}
        weights = _weights(list(by_name), None)
        kept = weights.all if weights is not None else ()
        return [path for name, path in by_name.items() if name in kept or not files.is_weight_file(name)]

    config = "tokenizer_config.json" if component.startswith("tokenizer") else "config.json"
    where: dict[str, Any] = {"revision": None, "cache_dir": cache_dir}
    found = _found(str(source), where, token, local_files_only, choose, (f"{component}/{config}", config))
    return found / component if (found / component).is_dir() else found


def _found(
    model: str,
    where: dict[str, Any],
    token: str | bool | None,
    local_files_only: bool,
    choose: Callable[[Collection[str]], list[str]],
    expected: Sequence[str],
) -> Path:
    """The repository's folder in the cache, with the files that `choose` takes of all its files.

    Where nothing can be downloaded, the model is taken to be in the cache if one of the files `expected` is.
    """
    if not _ID.fullmatch(model):
        raise ValueError(
            f"{model!r} is neither a folder that exists nor a Hub id. "
            "Expected a path, or an id such as stable-diffusion-v1-5/stable-diffusion-v1-5."
        )
    from huggingface_hub import constants

    if local_files_only or constants.HF_HUB_OFFLINE:
        why = "local_files_only is set" if local_files_only else "HF_HUB_OFFLINE is set"
        return _cached(model, where, why, expected)
    return _fetched(model, where, token, choose, expected)


def files_to_fetch(
    present: Collection[str], index: dict[str, Any], variant: str | None, components: Collection[str] | None
) -> list[str]:
    """The files of a repository that make up the model, given all their names and the model's index.

    Raises ValueError when a network that we run has no weights that we read, before anything is downloaded.
    """
    listed = [name for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2 and entry[1]]
    listed = [name for name in listed if components is None or name in components]
    inside = {name: [f.split("/", 1)[1] for f in present if f.startswith(f"{name}/")] for name in listed}
    inside = {name: [entry for entry in entries if "/" not in entry] for name, entries in inside.items()}
    if variant is not None and not any(files.find_weights(entries, variant) for entries in inside.values()):
        known = sorted({found for entries in inside.values() for found in files.variants(entries)})
        choices = [f"variant={name!r}" for name in known] + ["no variant"]
        raise ValueError(f"the model has no weights of variant {variant!r}. Choose: {' or '.join(choices)}.")
    # The licence goes with what is made of the model; the card (README.md) often is where it is named.
    chosen = [INDEX, *(name for name in present if re.fullmatch(r"LICENSE[^/]*|README\.md", name))]
    for name, entries in inside.items():
        weights = _weights(entries, variant)
        if (
            name in NEEDED
            and (weights is None or weights.kind == files.TORCH)
            and any(map(files.is_weight_file, entries))
        ):
            raise ValueError(_unreadable(name, entries))
        chosen += [f"{name}/{entry}" for entry in entries if not files.is_weight_file(entry)]
        chosen += [f"{name}/{entry}" for entry in (weights.all if weights else ())]
    return [name for name in chosen if name in present]


def _weights(entries: list[str], variant: str | None) -> files.WeightFiles | None:
    for kind in (files.SAFETENSORS, files.MSGPACK, files.TORCH):
        for choice in dict.fromkeys((variant, None)):
            found = files.find_weights(entries, choice, (kind,))
            if found:
                return found
    return None


def _unreadable(name: str, entries: list[str]) -> str:
    known = files.variants(entries)
    weights = ", ".join(sorted(filter(files.is_weight_file, entries)))
    what = f"Pass variant={known[0]!r}." if known else files.CONVERT
    return f"the model's {name} has no weights that can be read. There is: {weights}. {what}"


def _fetched(
    model: str,
    where: dict[str, Any],
    token: str | bool | None,
    choose: Callable[[Collection[str]], list[str]],
    expected: Sequence[str],
) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        info = hub.HfApi(token=token).model_info(model, revision=where["revision"])
        wanted = choose([entry.rfilename for entry in info.siblings or ()])
        return Path(hub.snapshot_download(model, allow_patterns=wanted, token=token, **where))
    except errors.GatedRepoError:
        raise ValueError(
            f"{model} is gated: accept its licence on its page on the Hub, then pass `token` or run `hf auth login`."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{model} is neither a local folder nor a model that the Hub shows you. Check the spelling; "
            "for a private model pass `token` or run `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{model} has no revision {where['revision']!r}; expected a branch, tag or commit.") from None
    except ValueError:
        raise
    except Exception as error:  # the HTTP library differs between versions of huggingface_hub
        if not is_out_of_reach(error):
            raise
        folder = _cached(model, where, f"the Hub is out of reach ({type(error).__name__}: {error})", expected)
        logger.warning("the Hub is out of reach (%s): the cached copy %s is used", type(error).__name__, folder)
        return folder


def is_out_of_reach(error: Exception) -> bool:
    """Whether the error says that the Hub does not answer, or not now."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError | ConnectionError | TimeoutError):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HfHubHTTPError):
        return status is None or status >= 500 or status == 429
    return any(kind.__name__ in ("TransportError", "TimeoutException") for kind in type(error).__mro__)


def _cached(model: str, where: dict[str, Any], why: str, expected: Sequence[str]) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    for name in expected:
        try:
            file = hub.hf_hub_download(model, name, local_files_only=True, **where)
            return Path(file).parents[name.count("/")]
        except (errors.LocalEntryNotFoundError, OSError):
            continue
    at = where["cache_dir"] or hub.constants.HF_HUB_CACHE
    revision = f" at revision {where['revision']!r}" if where["revision"] else ""
    raise ValueError(
        f"{model}{revision} is not a local folder and not in the cache {at}, and nothing can be downloaded: {why}. "
        "Connect to the network and unset HF_HUB_OFFLINE and local_files_only, pass the `cache_dir` that has it, "
        "or copy the model's folder here and give its path."
    )
