"""All pictures of a run, with captions, notes and problems."""

from __future__ import annotations

import pytest
from PIL import Image

from flaxdream.data.concept_pictures import gather
from flaxdream.data.concepts import Concept


@pytest.fixture
def concept(tmp_path):
    for folder, names in (("dog", "ab"), ("class", "xyz")):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.new("RGB", (4, 4)).save(tmp_path / folder / f"{name}.png")
    return Concept(str(tmp_path / "dog"), "sks dog", str(tmp_path / "class"), "a dog")


def described(gathered):
    return [(picture.path.name, picture.caption, picture.concept, picture.is_class) for picture in gathered.pictures]


def test_instances_come_with_their_prompt_and_class_pictures_only_when_asked_for(concept):
    instances = [("a.png", "sks dog", 0, False), ("b.png", "sks dog", 0, False)]
    assert described(gather([concept])) == instances
    classes = [(f"{name}.png", "a dog", 0, True) for name in "xyz"]
    assert described(gather([concept], with_prior_preservation=True)) == instances + classes


def test_class_pictures_may_bring_their_own_text(concept, tmp_path):
    (tmp_path / "class" / "y.txt").write_text("a dog in the snow")
    classes = described(gather([concept], with_prior_preservation=True))[2:]
    assert [caption for _, caption, _, _ in classes] == ["a dog", "a dog in the snow", "a dog"]


def test_no_more_class_pictures_are_used_than_asked_for(concept):
    assert len(gather([concept], with_prior_preservation=True, num_class_images=2).pictures) == 4
    own = Concept(**{**vars(concept), "num_class_images": 1})
    assert len(gather([own], with_prior_preservation=True, num_class_images=2).pictures) == 3


def test_broken_pictures_that_the_user_gave_up_are_left_out(concept, tmp_path):
    assert [name for name, *_ in described(gather([concept], leave_out=[tmp_path / "dog" / "a.png"]))] == ["b.png"]


def test_unused_caption_files_and_other_files_are_noted(concept, tmp_path):
    (tmp_path / "dog" / "a.txt").write_text("a dog")
    (tmp_path / "dog" / ".DS_Store").touch()
    skipped, unused = gather([concept]).notes
    assert "left out 1 other file: .DS_Store" in skipped
    assert "1 caption files are not used; --use_txt_as_label" in unused
    assert gather([concept], captions="txt_or_prompt").notes == (skipped,)


def test_problems_of_all_concepts_are_reported_at_once(concept, tmp_path):
    (tmp_path / "empty").mkdir()
    concepts = [concept, Concept(str(tmp_path / "gone"), "x"), Concept(str(tmp_path / "empty"), "x")]
    problems = gather(concepts, captions="txt").problems
    assert len(problems) == 4
    assert "a.png has no caption" in problems[0] and "b.png has no caption" in problems[1]
    assert problems[2].endswith("gone: there is no such folder")
    assert problems[3].endswith("empty: no instance picture in this folder")
