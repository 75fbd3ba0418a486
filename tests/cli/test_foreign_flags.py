"""Every flag of the scripts whose users come to us: supported, without effect and said so, or refused with advice."""

from __future__ import annotations

import dataclasses
import re
import shlex
import typing
from pathlib import Path

import pytest

from flaxdream.cli.flags import parse_training
from flaxdream.cli.foreign_flags import ALIASES, MANY, REFUSED, WITHOUT_EFFECT
from flaxdream.cli.translate import translate
from flaxdream.config import DreamBoothConfig, TextToImageConfig, dreambooth_problems, text_to_image_problems

LINE = re.compile(r"--(?P<name>\w+) \((?P<type>[^)]+)\) = (?P<default>.+?)( REQUIRED)?( choices=(?P<choices>.+))?")
OUR_OWN = ("config",)  # ccrcmcpe's --config is a YAML file, as ours

# Where a default is not that of the script, and why.
FOR_ALL = {
    "pretrained_model_name_or_path": "required: empty is a problem, so that all problems are told at once",
    "seed": "a run can always be repeated and resumed",
    "mixed_precision": "accelerate's configuration is asked there; its own default is no",
    "report_to": "tensorboard, where it is installed",
}
OTHER_DEFAULTS = {
    "diffusers_train_dreambooth": FOR_ALL | {"validation_prompt": "one or more"},
    "diffusers_train_text_to_image": FOR_ALL,
}


def scripts():
    """script -> flag -> (type, default, choices), as texts."""
    found, flags = {}, {}
    for line in (Path(__file__).parent / "script_flags.txt").read_text().splitlines():
        if line.startswith("["):
            flags = found.setdefault(line.strip("[]"), {})
        elif line.startswith("--"):
            match = LINE.fullmatch(line)
            flags[match["name"]] = (match["type"], match["default"], match["choices"])
    return found


SCRIPTS = scripts()


def config_of(script):
    """The config of the command that the script's users take."""
    return TextToImageConfig if "text_to_image" in script else DreamBoothConfig


def fields_of(cls):
    return {field.name: field.default for field in dataclasses.fields(cls)}


def field_of(name):
    return ALIASES[name].field if name in ALIASES else name


def dreambooth(argv):
    return parse_training(DreamBoothConfig, argv, "dreambooth", lambda config: [])


def test_the_list_of_flags_is_whole():
    assert [len(flags) for flags in SCRIPTS.values()] == [61, 34, 59, 72, 51, 47, 11, 57, 34, 51, 55, 59]


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_flag_is_in_exactly_one_class(script):
    fields = fields_of(config_of(script))
    refused = REFUSED.keys() - fields.keys()  # some are fields of one command and refused by another
    classes = (fields, ALIASES, WITHOUT_EFFECT, refused, OUR_OWN)
    counts = {name: sum(name in names for names in classes) for name in SCRIPTS[script]}
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_the_tables_know_each_flags_number_of_values():
    takes = {"flag": 0, "bool": 1, "str nargs='+'": MANY, "str": 1, "int": 1, "float": 1}
    for script, flags in SCRIPTS.items():
        hints = typing.get_type_hints(config_of(script))
        for name, (kind, _, _) in flags.items():
            entry = WITHOUT_EFFECT.get(name) or REFUSED.get(name)
            if entry:
                assert entry.takes == takes[kind], name
            elif name in ALIASES:
                is_switch = ALIASES[name].value is not None or hints[field_of(name)] is bool
                assert is_switch == (kind == "flag"), name
            elif name in hints:
                assert (hints[name] is bool) == (kind in ("flag", "bool")), name


@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined by ="])
@pytest.mark.parametrize("script", SCRIPTS)
def test_supported_flags_set_their_field(script, joined):
    argv, expected, hints = [], {}, typing.get_type_hints(config_of(script))
    for number, (name, (kind, _, choices)) in enumerate(SCRIPTS[script].items(), start=2):
        if name not in hints and name not in ALIASES:
            continue
        field = field_of(name)
        if kind == "flag":
            argv.append(f"--{name}")
            fixed = ALIASES[name].value if name in ALIASES else None
            expected[field] = True if fixed is None else float(fixed) if hints[field] is float else fixed
            continue
        values = {"int": number, "float": number / 4, "bool": False}
        values["str"] = re.findall(r"'(\w+)'", choices)[-1] if choices else f"a word {number}"
        value = values[kind.removesuffix(" nargs='+'")]
        for option in (hints[field], *typing.get_args(hints[field])):
            if typing.get_origin(option) is typing.Literal:
                value = typing.get_args(option)[-1]
        argv += [f"--{name}={value}"] if joined else [f"--{name}", str(value)]
        expected[field] = (value,) if hints[field] == tuple[str, ...] else value
    config = parse_training(config_of(script), argv, "x", lambda config: []).config
    got = {field: getattr(config, field) for field in expected}
    assert got == expected
    assert {field: type(value) for field, value in got.items()} == {f: type(v) for f, v in expected.items()}


@pytest.mark.parametrize("script", OTHER_DEFAULTS)
def test_defaults_are_those_of_diffusers_but_for_a_few_with_a_reason(script):
    convert = {
        "int": int, "float": float, "flag": lambda text: text == "True", "str": lambda text: text.strip("'"),
        "str nargs='+'": str,
    }  # fmt: skip
    others, fields = {}, fields_of(config_of(script))
    for name, (kind, default, _) in SCRIPTS[script].items():
        if name in fields:
            value = None if default == "None" else convert[kind](default)
            if fields[name] != value or (type(fields[name]) is not type(value) and value != 0):
                others[name] = (fields[name], value)
    assert set(others) == set(OTHER_DEFAULTS[script])


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_flag_without_effect_is_taken_with_its_value_and_a_reason(name):
    value = ["-1"] if WITHOUT_EFFECT[name].takes else []
    parsed = dreambooth([f"--{name}", *value, "--seed=4"])
    assert parsed.config == DreamBoothConfig(seed=4)
    assert parsed.notes == [f"--{name} has no effect: {WITHOUT_EFFECT[name].reason}"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_flag_says_what_to_do(name):
    value = {0: [], 1: ["8"], MANY: ["a.png", "b.png"]}[REFUSED[name].takes]
    argv, _, problems = translate([f"--{name}", *value, "--seed", "4"], DreamBoothConfig)
    assert argv == ["--seed", "4"]
    assert problems == [f"--{' '.join([name, *value[:1]])}: {REFUSED[name].instead}"]


def test_a_refused_flag_with_a_harmless_value_passes():
    assert translate(["--tokenizer_max_length=77"], DreamBoothConfig) == ([], [], [])


@pytest.mark.parametrize(
    ("words", "value"),
    [("", True), (" True", True), ("=true", True), (" False", False), ("=False", False), (" 0", False)],
)
def test_truth_values_may_be_written_out(words, value):
    config = dreambooth(shlex.split(f"--prodigy_decouple{words} --use_ema{words} --hflip{words} --seed 4")).config
    assert (config.prodigy_decouple, config.use_ema, config.random_flip, config.seed) == (value, value, value, 4)


def test_hyphens_are_underscores_in_names_but_not_in_values():
    parsed = dreambooth(["--train-batch-size=1", "--enable-xformers-memory-efficient-attention", "--output-dir=a-b"])
    assert (parsed.config.train_batch_size, parsed.config.output_dir) == (1, "a-b")


def test_stray_words_are_not_swallowed(capsys):
    for argv in (["--set_grads_to_none", "stray"], ["--local_rank=0", "stray"], ["--use_ema", "stray"], ["stray"]):
        with pytest.raises(SystemExit):
            dreambooth(argv)
        assert "stray" in capsys.readouterr().err


def test_prompts_keep_their_punctuation():
    config = dreambooth(["--instance_prompt=a=b -- c", "--validation_prompts", "sks, dog", "a - b"]).config
    assert (config.instance_prompt, config.validation_prompt) == ("a=b -- c", ("sks, dog", "a - b"))


COMMANDS = {
    "diffusers, prior preservation on 16 GB": (
        """accelerate launch train_dreambooth.py \
  --pretrained_model_name_or_path=CompVis/stable-diffusion-v1-4  \
  --instance_data_dir=path-to-instance-images \
  --class_data_dir=path-to-class-images \
  --output_dir=path-to-save-model \
  --with_prior_preservation --prior_loss_weight=1.0 \
  --instance_prompt="a photo of sks dog" \
  --class_prompt="a photo of dog" \
  --resolution=512 \
  --train_batch_size=1 \
  --gradient_accumulation_steps=2 --gradient_checkpointing \
  --use_8bit_adam \
  --enable_xformers_memory_efficient_attention --set_grads_to_none \
  --learning_rate=5e-6 \
  --lr_scheduler="constant" \
  --lr_warmup_steps=0 \
  --num_class_images=200 \
  --max_train_steps=800 --seed="0" --report_to="wandb" --push_to_hub""",
        {"gradient_accumulation_steps": 2, "use_8bit_adam": True, "num_class_images": 200, "max_train_steps": 800,
         "class_prompt": "a photo of dog", "lr_warmup_steps": 0, "report_to": "wandb", "push_to_hub": True},
    ),
    "diffusers, accelerate's own flags": (
        """accelerate launch --mixed_precision="fp16" --num_processes 8 train_dreambooth.py \
  --pretrained_model_name_or_path=m --instance_data_dir=i --instance_prompt "sks" --train_text_encoder""",
        {"mixed_precision": "fp16", "train_text_encoder": True},
    ),
    "diffusers, Flax": (
        """python3 examples/dreambooth/train_dreambooth_flax.py --pretrained_model_name_or_path=m \
  --instance_data_dir=i --instance_prompt="a photo of sks dog" --save_steps 100 --mixed_precision=bf16""",
        {"checkpointing_steps": 100, "mixed_precision": "bf16"},
    ),
    "Shivam Shrirao": (
        """accelerate launch train_dreambooth.py --pretrained_model_name_or_path=m \
  --pretrained_vae_name_or_path="stabilityai/sd-vae-ft-mse" --output_dir=o --revision="fp16" \
  --with_prior_preservation --prior_loss_weight=1.0 --seed=1337 --resolution=512 --train_batch_size=1 \
  --train_text_encoder --mixed_precision="fp16" --use_8bit_adam --gradient_accumulation_steps=1 \
  --learning_rate=1e-6 --lr_scheduler="constant" --lr_warmup_steps=0 --num_class_images=50 --sample_batch_size=4 \
  --max_train_steps=800 --save_interval=10000 --save_sample_prompt="photo of zwx dog" \
  --concepts_list="concepts_list.json" --not_cache_latents --hflip""",
        {"validation_prompt": ("photo of zwx dog",), "concepts_list": "concepts_list.json", "cache_latents": "no",
         "random_flip": True, "checkpointing_steps": 10000},
    ),
    "CrazyBoyM": (
        """accelerate launch tools/train_dreambooth.py --pretrained_model_name_or_path=m --instance_data_dir=i \
  --use_txt_as_label --save_model_every_n_steps=500 --auto_test_model --test_prompts_file=p.txt --test_seed=42 \
  --test_num_per_prompt=2 --log_with=wandb""",
        {"use_txt_as_label": True, "validation_prompts_file": "p.txt", "validation_seed": 42, "report_to": "wandb",
         "num_validation_images": 2},
    ),
}  # fmt: skip


def test_a_text_to_image_command_line_pasted_verbatim_is_understood():
    text = """accelerate launch --mixed_precision="fp16" train_text_to_image.py \
  --pretrained_model_name_or_path=$MODEL_NAME --dataset_name=lambdalabs/naruto-blip-captions --use_ema \
  --resolution=512 --center_crop --random_flip --train_batch_size=1 --gradient_accumulation_steps=4 \
  --gradient_checkpointing --max_train_steps=15000 --learning_rate=1e-05 --max_grad_norm=1 \
  --enable_xformers_memory_efficient_attention --lr_scheduler="constant" --lr_warmup_steps=0 \
  --validation_prompts "a" "b" --foreach_ema --output_dir="sd-naruto-model" --push_to_hub"""
    parsed = parse_training(TextToImageConfig, shlex.split(text), "text_to_image", text_to_image_problems)
    config = parsed.config
    assert (config.dataset_name, config.use_ema) == ("lambdalabs/naruto-blip-captions", True)
    assert (config.validation_prompt, config.mixed_precision) == (("a", "b"), "fp16")
    assert [note.split()[0] for note in parsed.notes] == [
        "--enable_xformers_memory_efficient_attention", "--validation_prompts", "--foreach_ema",
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_pasted_verbatim_is_understood(command):
    text, expected = COMMANDS[command]
    config = parse_training(DreamBoothConfig, shlex.split(text), "dreambooth", dreambooth_problems).config
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_launchers_flags_are_told_and_its_precision_is_overruled_by_the_scripts():
    text = "accelerate launch --mixed_precision fp16 --num_processes 8 train_dreambooth.py --mixed_precision bf16"
    parsed = dreambooth(text.split())
    assert parsed.config.mixed_precision == "bf16"
    assert parsed.notes == [
        "--num_processes of the launcher has no effect: all devices and hosts are found without it."
    ]


@pytest.mark.parametrize(
    ("script", "reason"), [("train_dreambooth_lora.py", "LoRA"), ("train_dreambooth_sdxl.py", "1.x and 2.x")]
)
def test_scripts_for_what_is_not_built_are_refused(script, reason):
    assert reason in translate(["python", script, "--seed=1"], DreamBoothConfig).problems[0]


def test_a_value_that_ends_like_a_script_is_a_value():
    assert dreambooth(["--output_dir", "model.py"]).config.output_dir == "model.py"
