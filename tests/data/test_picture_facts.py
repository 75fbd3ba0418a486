"""Counts and ranges of a set of pictures."""

from __future__ import annotations

import json

import numpy as np

from flaxdream.data.examined import examine
from flaxdream.data.picture_facts import picture_facts, spread
from flaxdream.data.prompted_folder import PromptedFolder
from tests.data.photos import photo


def test_formats_sizes_and_shapes_are_counted(tmp_path):
    for name, (height, width) in {"a.png": (60, 90), "b.png": (80, 80), "c.jpg": (200, 100), "d.jpg": (81, 80)}.items():
        photo(0, height, width).save(tmp_path / name)
    (tmp_path / "e.jpg").write_text("x")
    facts = picture_facts(examine(PromptedFolder(tmp_path, "a dog"), 64))
    assert facts["formats"] == {"PNG": 2, "JPEG": 2} and facts["readable"] == 4
    assert facts["shorter_side"] == {"least": 60, "median": 80, "most": 100}
    assert facts["longer_side"]["most"] == 200
    assert facts["width_to_height"] == {"least": 0.5, "median": 0.99, "most": 1.5}
    assert facts["shapes"] == {"landscape": 1, "square": 2, "portrait": 1}
    json.dumps(facts)


def test_of_nothing_there_are_only_counts(tmp_path):
    (tmp_path / "e.jpg").write_text("x")
    assert picture_facts(examine(PromptedFolder(tmp_path, "a dog"), 64)) == {"readable": 0, "formats": {}}
    assert spread(np.zeros(0)) == {}
