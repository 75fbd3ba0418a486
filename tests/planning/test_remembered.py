"""Plans that were made before."""

from __future__ import annotations

import dataclasses

import pytest

from flaxdream.config import DreamBoothConfig
from flaxdream.planning.remembered import remembering
from flaxdream.planning.request import Request, read_request
from tests.planning.test_table import PLAN


@pytest.fixture
def request_of(tmp_path):
    def make(topology="v5e-8", **changes):
        config = DreamBoothConfig(compilation_cache_dir=str(tmp_path), validation_prompt=("a", "b"), **changes)
        return Request("dreambooth", config, {"unet": {"sample_size": 8}}, topology, "train", 1, False)

    return make


def counting():
    asked = []
    return asked, lambda request: asked.append(request) or PLAN


def test_the_same_question_is_answered_from_the_file(request_of):
    asked, measure = counting()
    assert remembering(measure, request_of()) == remembering(measure, request_of()) == PLAN
    assert remembering(measure, request_of(output_dir="elsewhere", seed=3)) == PLAN
    assert len(asked) == 1


def test_another_question_is_asked(request_of):
    asked, measure = counting()
    for request in (
        request_of(), request_of(train_batch_size=2), request_of("v5e-4"), dataclasses.replace(request_of(), full=True),
        dataclasses.replace(request_of(), configs={"unet": {"sample_size": 16}}), request_of(fsdp=2),
    ):  # fmt: skip
        remembering(measure, request)
    assert len(asked) == 6


def test_this_machines_devices_and_runs_without_a_cache_are_always_asked(request_of):
    asked, measure = counting()
    without = request_of()
    without = dataclasses.replace(without, config=dataclasses.replace(without.config, compilation_cache_dir=""))
    for request in (request_of("cpu"), without) * 2:
        remembering(measure, request)
    assert len(asked) == 4


def test_a_plan_that_cannot_be_kept_is_given_all_the_same(request_of, tmp_path, capsys):
    (tmp_path / "plans").write_text("a file, where the folder should be")
    _, measure = counting()
    assert remembering(measure, request_of()) == PLAN
    (line,) = capsys.readouterr().err.splitlines()
    assert "not kept for another time" in line and str(tmp_path / "plans") in line and "File exists" in line


def test_a_request_comes_through_its_file_as_it_was_but_for_secrets(tmp_path, request_of):
    request = request_of(hub_token="secret", use_ema=True)
    (tmp_path / "request.json").write_text(request.as_json())
    assert "secret" not in request.as_json()
    assert read_request(tmp_path / "request.json") == dataclasses.replace(
        request, config=dataclasses.replace(request.config, hub_token=None)
    )
