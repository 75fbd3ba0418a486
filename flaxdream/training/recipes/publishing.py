"""What makes a finished folder one to hand on: its model card, and the upload if one was asked for."""

from __future__ import annotations

from pathlib import Path

from flaxdream.config.run import RunConfig
from flaxdream.training.model_card import write_model_card
from flaxdream.weights.push import push_model, repository_id, upload_later


class NotUploadedError(RuntimeError):
    """The finished model could not be uploaded; its folder is complete."""


def publish(config: RunConfig, folder: Path, source: Path) -> None:
    """Writes the card of the model in `folder`, trained from the one in `source`, and uploads it with `push_to_hub`.

    Raises NotUploadedError when the upload fails; the folder is complete then too.
    """
    write_model_card(folder, config, source=source)
    if not config.push_to_hub:
        return
    wanted = config.hub_model_id or folder.resolve().name
    try:
        name = repository_id(wanted, config.hub_token)
    except ValueError as error:
        raise NotUploadedError(f"{error} {upload_later(folder, wanted, config.hub_private_repo)}") from error
    write_model_card(folder, config, source=source, name=name)
    try:
        address = push_model(folder, name, token=config.hub_token, private=config.hub_private_repo)
    except ValueError as error:
        raise NotUploadedError(str(error)) from error
    print(f"uploaded to {address}")
