"""Programs made of shapes alone: what lies on a device, and that they compile to what a run compiles."""

from __future__ import annotations

import dataclasses
import math

import jax
import pytest

from flaxdream.config import DreamBoothConfig, TextToImageConfig, VaeConfig
from flaxdream.data.streamed import StreamedRows
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.planning import compiling
from flaxdream.planning.image_size import largest_size
from flaxdream.planning.memory import kind_of
from flaxdream.planning.plan import make_plan
from flaxdream.planning.programs import (
    Assumed,
    abstract_model,
    assumed,
    encode_program,
    sample_program,
    train_program,
    vae_program,
)
from flaxdream.planning.request import Request
from flaxdream.planning.topologies import Topology, attached
from flaxdream.training.mesh import SMALLEST_SHARDED, make_mesh
from flaxdream.training.prefetch import AHEAD

CONFIGS = ARCHITECTURES["tiny"]
DOWNSCALE = 2 ** (len(CONFIGS["vae"]["block_out_channels"]) - 1)
ASSUMED = Assumed(captions=1, captions_vary=False, class_rows=False, latents_cached=False)
CACHED = dataclasses.replace(ASSUMED, latents_cached=True)
CELLS_AT_512 = (512 // DOWNSCALE) ** 2 * CONFIGS["vae"]["latent_channels"]
SMALL = DreamBoothConfig(resolution=32, train_batch_size=1, max_train_steps=1)


def kinds(config, devices=8, assumed=ASSUMED, configs=CONFIGS):
    """Bytes on a device by kind, of the arguments alone; nothing is compiled."""
    program = train_program(config, configs, make_mesh(config.fsdp, jax.devices()[:devices]), assumed)
    found = {}
    for path, size in program.arguments.items():
        found[kind_of(path)] = found.get(kind_of(path), 0) + size
    return found


def assume(config, captions=1, images=1):
    return assumed(Request("dreambooth", config, CONFIGS, "cpu", "train", captions, False, images))


def unet_bytes(shapes=None):
    model = abstract_model(SMALL, CONFIGS, make_mesh(1, jax.devices()[:1]))
    return sum(math.prod(leaf.shape) * 4 for leaf in jax.tree.leaves(model.trained["unet"]))


def test_parameters_are_float32_masters_and_adam_holds_them_twice_more():
    found = kinds(SMALL)
    assert found["parameters"] == unet_bytes()
    assert 0 <= found["optimizer"] - 2 * unet_bytes() <= 64  # and some counters


def test_bfloat16_parameters_take_half_and_adam_still_holds_float32():
    found = kinds(dataclasses.replace(SMALL, params_dtype="bfloat16", use_ema=True))
    assert found["parameters"] == unet_bytes() // 2
    assert 0 <= found["optimizer"] - 2 * unet_bytes() <= 64 and 0 <= found["EMA"] - unet_bytes() <= 64


def test_an_average_is_exactly_one_more_copy_and_half_of_it_in_bfloat16():
    assert "EMA" not in kinds(SMALL)
    assert 0 <= kinds(dataclasses.replace(SMALL, use_ema=True))["EMA"] - unet_bytes() <= 64
    half = kinds(dataclasses.replace(SMALL, use_ema=True, ema_dtype="bfloat16"))["EMA"]
    assert 0 <= half - unet_bytes() // 2 <= 64


def test_fsdp_divides_what_is_large_and_the_shards_make_up_the_whole():
    config = dataclasses.replace(SMALL, fsdp=8)
    mesh = make_mesh(8)
    total = 0
    for leaf in jax.tree.leaves(abstract_model(config, CONFIGS, mesh).trained):
        whole, part = math.prod(leaf.shape), math.prod(leaf.sharding.shard_shape(leaf.shape))
        assert part == (whole // 8 if whole >= SMALLEST_SHARDED and any(n % 8 == 0 for n in leaf.shape) else whole)
        total += 4 * part
    assert kinds(config)["parameters"] == total < unet_bytes()


def test_eight_bit_adam_needs_about_a_quarter():
    configs = CONFIGS | {"unet": CONFIGS["unet"] | {"block_out_channels": [64, 128]}}
    full, quarter = (kinds(dataclasses.replace(SMALL, use_8bit_adam=on), configs=configs) for on in (False, True))
    assert 0.25 <= quarter["optimizer"] / full["optimizer"] < 0.29


def test_what_is_frozen_is_held_in_the_type_that_is_computed_in():
    full, half = (kinds(dataclasses.replace(SMALL, mixed_precision=name))["frozen"] for name in ("no", "bf16"))
    assert half == full / 2


def test_cached_latents_take_the_vae_from_the_device():
    live, cached = kinds(SMALL), kinds(SMALL, assumed=CACHED)
    vae = abstract_model(SMALL, CONFIGS, make_mesh(1)).frozen["vae"]
    assert live["frozen"] - cached["frozen"] == sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(vae))


def test_a_batch_is_spread_over_the_devices_and_class_rows_double_it():
    one, eight = kinds(SMALL, devices=1)["batch"], kinds(SMALL, devices=8)["batch"]
    assert one == eight == (1 + AHEAD) * (32 * 32 * 3 * 4 + 4 + 4 + 4 + 1)
    assert kinds(SMALL, assumed=dataclasses.replace(ASSUMED, class_rows=True))["batch"] == 2 * one


def test_text_is_kept_as_states_as_ids_or_comes_with_the_rows():
    states = 5 * 77 * CONFIGS["text_encoder"]["hidden_size"] * 4
    five, four = (kinds(SMALL, assumed=dataclasses.replace(CACHED, captions=n))["frozen"] for n in (5, 4))
    assert five == states and four == states * 4 // 5
    trained = dataclasses.replace(SMALL, train_text_encoder=True)
    assert kinds(trained, assumed=dataclasses.replace(CACHED, captions=5))["frozen"] == 5 * 77 * 4
    varying = kinds(SMALL, assumed=dataclasses.replace(CACHED, captions_vary=True))
    ids = (1 + AHEAD) * 77 * 4
    assert varying["frozen"] > states and varying["batch"] == kinds(SMALL, assumed=CACHED)["batch"] + ids


def test_the_settings_say_what_is_assumed_of_the_pictures():
    assert assume(DreamBoothConfig()) == ASSUMED
    prior = DreamBoothConfig(center_crop=True, with_prior_preservation=True)
    assert assume(prior) == Assumed(2, False, True, True)
    assert assume(TextToImageConfig(shuffle_caption=True, cache_latents="yes"), 7) == Assumed(7, True, False, True)
    assert not assume(DreamBoothConfig(center_crop=True, cache_latents="no")).latents_cached


def test_latents_of_too_many_pictures_are_not_kept_unless_they_are_asked_for():
    config = TextToImageConfig(center_crop=True, resolution=512)
    many = 2**32 // (CELLS_AT_512 * 2 * 4)
    assert assume(config, images=many).latents_cached and not assume(config, images=many + 1).latents_cached
    assert assume(dataclasses.replace(config, cache_latents="yes"), images=many + 1).latents_cached


def test_buckets_are_planned_for_the_largest():
    config = TextToImageConfig(resolution=512, use_aspect_ratio_bucket=True, train_batch_size=1)
    square = dataclasses.replace(config, use_aspect_ratio_bucket=False)
    mesh = make_mesh(1, jax.devices()[:1])
    for make in (
        lambda one: train_program(one, CONFIGS, mesh, ASSUMED),
        lambda one: encode_program(one, CONFIGS, mesh),
    ):
        found, plain = (
            {path: n for path, n in make(one).arguments.items() if "pixels" in path} for one in (config, square)
        )
        assert sum(found.values()) == 1.5 * sum(plain.values()) > 0
    area = math.prod(largest_size(dataclasses.replace(config, bucket_table="sdxl")))
    assert area == 512 * 512 and largest_size(square) == (512, 512)


def test_the_held_out_loss_keeps_its_own_text_encoder():
    config = TextToImageConfig(resolution=32, train_batch_size=1, held_out_loss_steps=5)
    encoder = abstract_model(SMALL, CONFIGS, make_mesh(1)).frozen["text_encoder"]
    size = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(encoder))
    without = dataclasses.replace(config, held_out_loss_steps=0)
    assert kinds(config)["frozen"] - kinds(without)["frozen"] == size
    trained = dataclasses.replace(config, train_text_encoder=True)
    assert kinds(trained) == kinds(dataclasses.replace(without, train_text_encoder=True))


def test_a_stream_is_planned_with_live_pictures_and_captions_that_come_with_the_rows():
    stream = TextToImageConfig(streaming=True, center_crop=True, resolution=32, train_batch_size=1, max_train_steps=1)
    known = assume(stream)
    assert known == Assumed(1, captions_vary=True, class_rows=False, latents_cached=False)
    assert StreamedRows.captions_are_fixed is not known.captions_vary
    assert StreamedRows.random_access is known.latents_cached
    program = train_program(stream, CONFIGS, make_mesh(1, jax.devices()[:1]), known)
    assert {"batch['pixels']", "batch['ids']"} <= program.arguments.keys()
    assert any(path.startswith("frozen['vae']") for path in program.arguments)


def test_a_vaes_encoder_that_does_not_train_is_frozen_and_pictures_come_as_they_are():
    config = VaeConfig(resolution=32, train_batch_size=1, train_encoder=False)
    program = vae_program(config, CONFIGS, make_mesh(1))
    found = {kind: 0 for kind in ("parameters", "optimizer", "frozen", "batch")}
    for path, size in program.arguments.items():
        found[kind_of(path)] = found.get(kind_of(path), 0) + size
    vae = abstract_model(SMALL, CONFIGS, make_mesh(1)).frozen["vae"]
    sizes = {name: sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(part)) for name, part in vae.items()}
    still = sizes["encoder"] + sizes["quant_conv"]
    assert (found["frozen"], found["parameters"]) == (still, sum(sizes.values()) - still)
    assert found["batch"] == kinds(SMALL)["batch"] and program.images == 8


def compiled(program):
    lowered, facts = compiling.lower(program)
    done = compiling.compile_lowered(lowered)
    return make_plan(facts, done, Topology("cpu", attached("cpu", "cpu", 8, None).chip, 8, "cpu"), "no")


@pytest.fixture(scope="module")
def plain():
    return compiled(train_program(SMALL, CONFIGS, make_mesh(1), CACHED))


@pytest.mark.slow
def test_the_plan_of_a_step_has_its_arguments_by_kind_and_reduces_each_gradient_once(plain):
    assert plain.fits is None and plain.has_code and plain.images == 8
    assert plain.memory.kinds["parameters"] == unet_bytes()
    assert plain.memory.kinds["optimizer"] >= 2 * unet_bytes()
    assert plain.memory.temporaries > unet_bytes()  # the gradients, at least
    _, size = plain.collectives["all-reduce"]
    assert 1.0 <= size / unet_bytes() < 1.01  # and the loss


@pytest.mark.slow
def test_the_sampler_runs_its_network_once_a_step_for_both_prompts():
    config = dataclasses.replace(SMALL, validation_num_inference_steps=2, validation_guidance_scale=7.5)
    few = compiled(sample_program(config, CONFIGS, make_mesh(1)))
    more = compiled(
        sample_program(dataclasses.replace(config, validation_num_inference_steps=6), CONFIGS, make_mesh(1))
    )
    plain = compiled(sample_program(dataclasses.replace(config, validation_guidance_scale=1.0), CONFIGS, make_mesh(1)))
    network = (more.estimate.flops - few.estimate.flops) / 4
    assert network > 0 and more.memory.kinds == few.memory.kinds
    # Guidance runs a second row in each of the two calls, as much as one guided call, and encodes one more prompt.
    prompt = few.estimate.flops - plain.estimate.flops - network
    assert 0 < prompt < network / 2


@pytest.mark.parametrize("changes", [{}, {"use_ema": True}, {"fsdp": 8}, {"optimizer": "schedule_free"}])
def test_the_state_lies_beside_the_sampler_and_its_parameters_are_drawn_with_where_they_lie_whole(changes):
    config = dataclasses.replace(SMALL, **changes)
    devices = config.fsdp
    held = sample_program(config, CONFIGS, make_mesh(config.fsdp, jax.devices()[:devices])).arguments
    parts = ("params", "opt_state", "ema")
    of = {part: sum(n for path, n in held.items() if path.startswith(f"state['{part}']")) for part in parts}
    state = kinds(config, devices=devices)
    assert of["opt_state"] == state["optimizer"]
    assert of["params"] == (0 if changes == {} else state["parameters"]) and of["ema"] == 0


@pytest.mark.slow
def test_encoding_reads_the_encoder_beside_all_that_lies_there_then():
    found = compiled(encode_program(SMALL, CONFIGS, make_mesh(1)))
    model = abstract_model(SMALL, CONFIGS, make_mesh(1))
    idle = [model.frozen["vae"]["decoder"], model.frozen["vae"]["post_quant_conv"], model.frozen["text_encoder"]]
    others = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(idle))
    state = kinds(SMALL)
    assert found.memory.unused == others + state["parameters"] + state["optimizer"] + state["counters"]
    assert found.images == 8 and "all-reduce" not in found.collectives
