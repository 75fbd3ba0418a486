"""A finished model to the Hugging Face Hub, without what else lies in its folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from glob import escape
from pathlib import Path
from typing import TypeVar

from flaxdream.weights.hub import is_out_of_reach
from flaxdream.weights.model_dir import read_model_dir
from flaxdream.weights.replace import INDEX

_GRID = re.compile(r"validation/step-(\d+)/grid\.png")
_TOKENS = "https://huggingface.co/settings/tokens"
_T = TypeVar("_T")


def push_model(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    token: str | None = None,
    private: bool = False,
    commit_message: str = "Model trained with flaxdream",
    extra: Iterable[str] = (),
) -> str:
    """Uploads the final files of a model folder as one commit and returns the address of the repository.

    `repo_id` as in `repository_id`; a repository that does not exist is made, `private` if asked. `extra` names
    more files or folders, as paths or patterns relative to `folder` ("metrics.jsonl", "checkpoint-*"). Nothing in
    `folder` changes. Raises ValueError that says what to do.
    """
    path = Path(folder).expanduser()
    files = final_files(path, extra)
    wanted = repo_id or path.resolve().name

    def upload() -> str:
        import huggingface_hub

        api = huggingface_hub.HfApi(token=token)
        name = _with_owner(wanted, token)
        # None, not False: some organizations make every new repository private.
        address = api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise ValueError(f"{name} is there already and public; make it private on its page, or name another one")
        patterns = [escape(file) for file in files]
        api.upload_folder(repo_id=name, folder_path=path, allow_patterns=patterns, commit_message=commit_message)
        return str(address)

    return _explained(upload, wanted, upload_later(path, wanted, private))


def upload_later(folder: str | Path, repo_id: str, private: bool) -> str:
    """The sentence that ends the message about a failed upload."""
    call = f"push_model({str(folder)!r}, {repo_id!r}{', private=True' if private else ''})"
    command = f'python -c "from flaxdream.weights.push import push_model; {call}"'
    return f"The model in {folder} is complete; to upload it later: {command}"


def repository_id(name: str, token: str | None = None) -> str:
    """`name` as owner/name; without an owner it is the user that the token belongs to (that of `hf auth login` if
    none is given). Raises ValueError for what can be no id, and where the Hub knows no user."""
    return _explained(lambda: _with_owner(name, token), name, "")


def final_files(folder: str | Path, extra: Iterable[str] = ()) -> list[str]:
    """Names of the files that are the model: components, index, model card, licence, last validation grid; `extra`."""
    path = Path(folder)
    model = read_model_dir(path, needed=())
    found = [path / INDEX, path / "README.md", *path.glob("LICENSE*")]
    found += [entry for name in model.components for entry in (path / name).glob("*")]
    grid = last_grid(path)
    found += [path / grid] if grid else []
    for pattern in extra:
        found += _matching(path, pattern)
    names = {entry.relative_to(path).as_posix() for entry in found if entry.is_file()}
    return sorted(name for name in names if not name.rsplit("/", 1)[-1].startswith("."))


def last_grid(folder: str | Path) -> str | None:
    """The last step's validation/step-XXXXXX/grid.png, relative to the folder; None where there is none."""
    names = [grid.relative_to(folder).as_posix() for grid in Path(folder).glob("validation/step-*/grid.png")]
    steps = {name: int(match[1]) for name in names if (match := _GRID.fullmatch(name))}
    return max(steps, key=lambda name: steps[name], default=None)


def _with_owner(name: str, token: str | None) -> str:
    import huggingface_hub
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(name)
    return name if "/" in name else f"{huggingface_hub.HfApi(token=token).whoami()['name']}/{name}"


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """The files that a pattern names, and those in the folders that it names."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not Path(pattern).parts:
        raise ValueError(f"extra {pattern!r} leads out of {folder}: give a path or pattern relative to it.")
    entries = list(folder.glob(pattern))
    if not entries:
        raise ValueError(f"extra {pattern!r} matches nothing in {folder}.")
    for entry in entries:
        yield from entry.rglob("*") if entry.is_dir() else (entry,)


def _explained(action: Callable[[], _T], name: str, after: str) -> _T:
    """The result of the action; whatever it raises becomes one ValueError."""
    try:
        return action()
    except Exception as error:  # huggingface_hub, its HTTP library and hf_xet each have their own
        raise ValueError(f"{name} cannot be uploaded: {_reason(error, name)}. {after}".strip()) from error


def _reason(error: Exception, name: str) -> str:
    """What went wrong and what to do, without a full stop."""
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"there is no token. Run `hf auth login`, set HF_TOKEN or give a token with write access from {_TOKENS}"
    if isinstance(error, errors.HFValidationError):
        return f"{name!r} can be no repository: expected owner/name or name of letters, digits, '-', '_' and '.'"
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set. Unset it"
    if is_out_of_reach(error):
        return f"the Hub is out of reach ({type(error).__name__}: {error}). Connect to the network and upload again"
    if status == 401:
        return f"the Hub does not accept the token. Make one with write access at {_TOKENS}, then `hf auth login`"
    if status in (403, 404):
        return (
            f"the token may not write there. Give it write access to that repository at {_TOKENS}, "
            "or name a repository of your own"
        )
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
