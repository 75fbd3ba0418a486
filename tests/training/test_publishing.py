"""A finished run is uploaded with its card; an upload that fails leaves it finished."""

from __future__ import annotations

import json

from flaxdream.config import DreamBoothConfig
from flaxdream.config.yaml_file import write_yaml
from tests.weights.hub_uploads import READ_ONLY, TOKEN, receiving
from tests.weights.test_push import contents, in_new_process, make_model

PUBLISH = """
import json, sys
from pathlib import Path
from flaxdream.config import DreamBoothConfig
from flaxdream.training.recipes.publishing import NotUploadedError, publish
results = []
for settings in json.loads(sys.argv[1]):
    try:
        publish(DreamBoothConfig(**settings), Path(settings["output_dir"]), Path("nowhere"))
        results.append("published")
    except NotUploadedError as error:
        results.append(str(error))
print(json.dumps(results))
"""


def test_a_run_is_uploaded_with_a_card_that_names_its_repository(tmp_path):
    folder = make_model(tmp_path / "my-dog")
    settings = {"output_dir": str(folder), "instance_prompt": "a sks dog", "pretrained_model_name_or_path": "o/base"}
    write_yaml(folder / "config.yaml", DreamBoothConfig(**settings))
    for name in ("metrics.jsonl", "summary.json", "README.md"):
        (folder / name).unlink(missing_ok=True)
    before = contents(folder)
    with receiving() as server:
        push = settings | {"push_to_hub": True}
        results = in_new_process(
            PUBLISH,
            server.endpoint,
            tmp_path,
            [
                settings,
                push,
                push | {"hub_token": READ_ONLY, "hub_private_repo": True},
                push | {"hub_token": TOKEN, "hub_private_repo": True},
            ],
        )
        (repository,) = server.repositories.items()
    assert results[0] == results[3] == "published"
    assert "there is no token. Run `hf auth login`" in results[1]
    assert "the token may not write there" in results[2]
    for result in results[1:3]:
        assert f"The model in {folder} is complete; to upload it later: python -c" in result
    assert "'me/my-dog', private=True)" in results[2]
    name, found = repository
    card = (folder / "README.md").read_text()
    assert name == "me/my-dog" and found["private"] and found["files"]["README.md"].decode() == card
    assert "from_pretrained('me/my-dog')" in card and '"o/base"' in card
    assert "config.yaml" not in found["files"] and TOKEN not in json.dumps(card)
    assert {key: value for key, value in contents(folder).items() if key != "README.md"} == before
