"""Concepts from JSON and from kohya's folder names, and all their faults at once."""

from __future__ import annotations

import json

import pytest

from flaxdream.data.concepts import Concept, concept_problems, concepts_from_json, concepts_from_kohya


def concepts_file(tmp_path, value):
    path = tmp_path / "concepts.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_a_concepts_list_is_read_with_its_extras(tmp_path):
    entries = [
        {
            "instance_prompt": "photo of zwx dog",
            "class_prompt": "photo of a dog",
            "instance_data_dir": "data/alvan",
            "class_data_dir": "data/dog",
            "num_class_images": 50,
        },
        {"instance_data_dir": "data/x", "instance_prompt": "y", "repeats": 3, "class_prompt": None},
    ]
    concepts, problems = concepts_from_json(concepts_file(tmp_path, entries))
    assert problems == []
    assert concepts[0] == Concept("data/alvan", "photo of zwx dog", "data/dog", "photo of a dog", None, 50)
    assert concepts[1] == Concept("data/x", "y", repeats=3)


def test_all_faults_of_a_concepts_list_are_reported_at_once(tmp_path):
    entries = [
        {"instance_data_dir": "a", "instance_promt": "x"},
        {"instance_prompt": 3, "repeats": "two", "num_class_images": True},
        "data",
        {"instance_data_dir": "b", "instance_prompt": "fine"},
    ]
    concepts, problems = concepts_from_json(concepts_file(tmp_path, entries))
    text = "\n".join(problems)
    assert len(problems) == 6 and concepts == [Concept("b", "fine")]
    assert (
        "entry 1: unknown key 'instance_promt'; perhaps you meant 'instance_prompt' (known: instance_data_dir," in text
    )
    assert "entry 2: instance_prompt is 3; expected text" in text
    assert "entry 2: repeats is 'two'; expected a whole number" in text
    assert "entry 2: num_class_images is True; expected a whole number" in text
    assert "entry 2: instance_data_dir is missing" in text
    assert "entry 3: 'data' is not an object such as" in text


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "not valid JSON"), ("{}", "must hold a list"), ("[]", "must hold a list")]
)
def test_a_file_that_is_no_list_is_one_problem(tmp_path, content, reason):
    concepts, (problem,) = concepts_from_json(concepts_file(tmp_path, content))
    assert concepts == [] and reason in problem


def test_a_missing_concepts_list_is_one_problem(tmp_path):
    _, (problem,) = concepts_from_json(tmp_path / "nowhere.json")
    assert "nowhere.json cannot be read: No such file" in problem


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_kohya_folders_give_repeats_prompts_and_classes(tmp_path):
    instances = folders(tmp_path / "img", "10_sks dog", "5_ukj man", "2_zwx hot dog", ".cache")
    classes = folders(tmp_path / "reg", "1_dog", "1_man", "1_hot dog")
    (instances / "readme.md").touch()
    concepts, problems = concepts_from_kohya(instances, classes)
    assert problems == []
    assert concepts == [
        Concept(str(instances / "10_sks dog"), "sks dog", str(classes / "1_dog"), "dog", 10),
        Concept(str(instances / "2_zwx hot dog"), "zwx hot dog", str(classes / "1_hot dog"), "hot dog", 2),
        Concept(str(instances / "5_ukj man"), "ukj man", str(classes / "1_man"), "man", 5),
    ]


def test_an_underscore_belongs_to_a_kohya_prompt_after_the_first(tmp_path):
    concepts, problems = concepts_from_kohya(folders(tmp_path / "img", "10_sks_v2 dog"))
    assert (concepts, problems) == ([Concept(str(tmp_path / "img" / "10_sks_v2 dog"), "sks_v2 dog", repeats=10)], [])


def test_a_single_class_folder_serves_every_concept(tmp_path):
    concepts, problems = concepts_from_kohya(folders(tmp_path / "img", "1_rex"), folders(tmp_path / "reg", "1_dog"))
    assert problems == [] and concepts[0].class_prompt == "dog"


def test_all_faults_of_kohya_folders_are_reported_at_once(tmp_path):
    instances = folders(tmp_path / "img", "10_sks dog", "3_ukj cow", "dogs", "0_x", "10_")
    classes = folders(tmp_path / "reg", "1_dog", "1_man", "b")
    _, problems = concepts_from_kohya(instances, classes)
    text = "\n".join(problems)
    assert len(problems) == 6
    assert all(f"{instances / name}: expected a name such as" in text for name in ("dogs", "10_"))
    assert f"{instances / '0_x'}: its repeats are 0" in text
    assert f"{classes / 'b'}: expected a name" in text
    assert f"{instances / '3_ukj cow'}: 'ukj cow' ends with no class of {classes} (1_dog, 1_man)" in text
    assert f"{classes / '1_man'}: no instance folder is of this class" in text


def test_a_root_without_numbered_folders_is_a_problem(tmp_path):
    assert "no sub-folder named as '10_sks dog'" in concepts_from_kohya(tmp_path)[1][0]
    assert "cannot be read" in concepts_from_kohya(tmp_path / "nowhere")[1][0]


def test_all_that_concepts_lack_is_reported_at_once(tmp_path):
    concepts = [
        Concept("a", "", "a", "dog", repeats=0),
        Concept("a", "x", None, None, num_class_images=0),
    ]
    text = "\n".join(concept_problems(concepts, with_prior_preservation=True))
    assert "concept a: instance_prompt is missing" in text
    assert "repeats is 0" in text and "num_class_images is 0" in text
    assert "class_data_dir is missing" in text and "class_prompt is missing" in text
    assert "class_data_dir is the same folder" in text
    assert "two concepts have the same instance_data_dir" in text


def test_class_settings_are_not_asked_for_without_prior_preservation():
    assert concept_problems([Concept("a", "x")], with_prior_preservation=False) == []
    assert concept_problems([Concept("a")], with_prior_preservation=False, needs_prompt=False) == []
