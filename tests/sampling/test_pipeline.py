"""The whole pipeline against PyTorch's, on one and on eight devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.jax_utils import replicate
from flax.training.common_utils import shard
from jax.experimental.compilation_cache import compilation_cache

from flaxdream import FlaxStableDiffusionPipeline
from tests.twins import psnr, torch_pipeline

PROMPTS = ["a photo of sks dog in a bucket", "wow!!! a red fox"]


@pytest.fixture(scope="module", params=["tiny", "tiny-v"])
def both(request, tmp_path_factory):
    """PyTorch's pipeline, and ours from the folder that PyTorch wrote."""
    folder = tmp_path_factory.mktemp("model")
    twin = torch_pipeline(request.param, folder / "tokenizer-files")
    twin.save_pretrained(folder / "model")
    twin.set_progress_bar_config(disable=True)
    return twin, *FlaxStableDiffusionPipeline.from_pretrained(folder / "model")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch_pipeline("tiny", folder / "tokenizer-files").save_pretrained(folder / "model")
    return FlaxStableDiffusionPipeline.from_pretrained(folder / "model")


def latents(rows, height=16, width=16):
    return np.random.default_rng(0).standard_normal((rows, 4, height, width), np.float32)


def drawn_by_torch(twin, x_T, **options):
    with torch.no_grad():
        return twin(latents=torch.from_numpy(x_T), output_type="np", **options).images


def test_the_same_latents_give_the_same_picture_as_torch(both):
    twin, pipeline, params = both
    x_T = latents(2, 16, 24)
    theirs = drawn_by_torch(
        twin, x_T, prompt=PROMPTS, num_inference_steps=10, negative_prompt=["blurry", ""], height=128, width=192
    )
    images = pipeline(
        pipeline.prepare_inputs(PROMPTS), params, jax.random.key(0), 10, 128, 192,
        latents=x_T, neg_prompt_ids=pipeline.prepare_inputs(["blurry", ""]),
    ).images  # fmt: skip
    assert psnr(images, theirs) > 50


@pytest.mark.parametrize(
    ("sampler", "twin_class", "settings"),
    [
        ("ddim", "DDIMScheduler", {}),
        ("dpmpp_2m_karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("euler", "EulerDiscreteScheduler", {}),
        ("heun", "HeunDiscreteScheduler", {}),
        ("unipc", "UniPCMultistepScheduler", {}),
    ],
)
def test_a_sampler_chosen_by_name_draws_what_its_twin_draws(both, sampler, twin_class, settings):
    import diffusers

    twin, pipeline, params = both
    x_T = latents(1)
    own = twin.scheduler
    twin.scheduler = getattr(diffusers, twin_class).from_config(own.config, **settings)
    try:
        # torch scales the latents that it is given by init_noise_sigma, as ours does
        theirs = drawn_by_torch(twin, x_T, prompt=PROMPTS[0], num_inference_steps=6)
    finally:
        twin.scheduler = own
    images = pipeline.generate(PROMPTS[0], params, latents=x_T, num_inference_steps=6, sampler=sampler, progress=False)
    assert psnr(np.asarray(images[0]) / 255, theirs[0]) > 48  # 8 bits alone leave 58.9 dB


def test_guidance_of_one_leaves_the_negative_prompt_out(both):
    twin, pipeline, params = both
    x_T = latents(1)
    theirs = drawn_by_torch(twin, x_T, prompt=PROMPTS[0], num_inference_steps=4, guidance_scale=1.0)
    images = pipeline.generate(
        PROMPTS[0],
        params,
        latents=x_T,
        num_inference_steps=4,
        guidance_scale=1.0,
        negative_prompts="no",
        progress=False,
    )
    assert psnr(np.asarray(images[0]) / 255, theirs[0]) > 48


def test_guidance_rescale_equals_torch(both):
    twin, pipeline, params = both
    x_T = latents(1)
    options = {"num_inference_steps": 4, "guidance_rescale": 0.7}
    theirs = drawn_by_torch(twin, x_T, prompt=PROMPTS[0], **options)
    images = pipeline.generate(PROMPTS[0], params, latents=x_T, progress=False, **options)
    assert psnr(np.asarray(images[0]) / 255, theirs[0]) > 48


def test_the_old_snippet_runs_on_eight_devices(ours):
    pipeline, params = ours
    assert jax.device_count() == 8
    prompt_ids = pipeline.prepare_inputs(jax.device_count() * ["A photo of sks dog in a bucket"])
    replicated = replicate(params)
    prng_seed = jax.random.split(jax.random.PRNGKey(0), jax.device_count())
    prompt_ids = shard(prompt_ids)
    images = pipeline(prompt_ids, replicated, prng_seed, 4, jit=True).images
    assert images.shape == (8, 1, 128, 128, 3)
    pictures = pipeline.numpy_to_pil(np.asarray(images.reshape((jax.device_count(),) + images.shape[-3:])))
    assert len(pictures) == 8 and pictures[0].size == (128, 128)
    # plain parameters and one key at a time draw the same
    alone = pipeline(prompt_ids[3], params, prng_seed[3], 4).images
    assert psnr(alone, images[3]) > 80


def test_the_old_call_draws_its_latents_as_the_diffusers_flax_pipeline_did(ours):
    pipeline, params = ours
    ids = pipeline.prepare_inputs(PROMPTS)
    x_T = jax.random.normal(jax.random.PRNGKey(5), (2, 4, 16, 16), jnp.float32)
    drawn = pipeline(ids, params, jax.random.PRNGKey(5), 3).images
    assert psnr(drawn, pipeline(ids, params, jax.random.PRNGKey(6), 3, latents=x_T).images) > 80
    assert pipeline(ids, params, jax.random.PRNGKey(5), 3, return_dict=False)[1] is None


def test_a_picture_depends_on_its_prompt_and_seed_alone(ours):
    pipeline, params = ours
    options = {"num_inference_steps": 3, "progress": False, "sampler": "euler_a"}
    together = pipeline.generate(["a fox"] * 11, params, seeds=5, **options)
    alone = pipeline.generate("a fox", params, seeds=[14], batch_size=2, **options)
    assert len(together) == 11
    difference = np.abs(np.asarray(together[9], int) - np.asarray(alone[0], int))
    assert difference.max() <= 1  # a rounding to 8 bits may fall either way
    assert np.abs(np.asarray(together[8], int) - np.asarray(alone[0], int)).max() > 10


def test_several_images_per_prompt_come_prompt_by_prompt(ours):
    pipeline, params = ours
    options = {"num_inference_steps": 2, "progress": False}
    many = pipeline.generate(["a fox", "a dog"], params, num_images_per_prompt=2, seeds=[1, 2, 3, 4], **options)
    dog = pipeline.generate("a dog", params, seeds=4, **options)[0]
    assert np.abs(np.asarray(many[3], int) - np.asarray(dog, int)).max() <= 1


def test_clip_skip_changes_the_text_and_tiling_of_a_small_picture_nothing(ours):
    pipeline, params = ours
    options = {"num_inference_steps": 2, "progress": False}
    plain, skipped, tiled = (
        np.asarray(pipeline.generate("a fox", params, **options, **extra)[0], int)
        for extra in ({}, {"clip_skip": 1}, {"vae_tiling": True})
    )
    assert np.abs(plain - skipped).max() > 2
    assert np.abs(plain - tiled).max() <= 1


def test_the_progress_bar_counts_every_network_call(ours, capsys):
    pipeline, params = ours
    pipeline.generate("a fox", params, num_inference_steps=5, sampler="ddim")
    assert "5/5" in capsys.readouterr().err


def test_a_picture_is_the_same_with_a_progress_bar(ours):
    pipeline, params = ours
    options = {"num_inference_steps": 4, "sampler": "dpmpp_2m_sde", "seeds": 3}
    shown, plain = (pipeline.generate("a fox", params, progress=on, **options)[0] for on in (True, False))
    assert np.abs(np.asarray(shown, int) - np.asarray(plain, int)).max() <= 1


def test_the_programs_behind_a_progress_bar_are_kept_for_the_next_start(ours, tmp_path):
    """JAX keeps no program that calls back to Python."""
    pipeline, params = ours
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    try:
        pipeline.generate("a fox", params, num_inference_steps=2, sampler="ddim", height=72, width=64)
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
        compilation_cache.reset_cache()
    kept = " ".join(path.name for path in tmp_path.iterdir())
    assert all(name in kept for name in ("jit__begin", "jit__advance", "jit__finish"))


def test_a_second_call_of_the_same_shape_compiles_nothing(ours):
    from flaxdream.sampling.generate import generate

    pipeline, params = ours
    options = {"num_inference_steps": 2, "progress": False, "sampler": "ddim"}
    pipeline.generate("a fox", params, **options)
    compiled = generate.plain._cache_size()
    pipeline.generate(["a dog", "a cat"], params, seeds=9, guidance_scale=3.0, negative_prompts="x", **options)
    assert generate.plain._cache_size() == compiled


def test_old_scheduler_configs_are_corrected_as_torch_corrects_them(tmp_path):
    import diffusers

    twin = torch_pipeline("tiny", tmp_path / "tokenizer-files")
    twin.scheduler = diffusers.DDIMScheduler()
    twin.save_pretrained(tmp_path / "model")
    (tmp_path / "model/scheduler/scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    pipeline, _ = FlaxStableDiffusionPipeline.from_pretrained(tmp_path / "model")
    with pytest.warns(FutureWarning):
        again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    for option in ("steps_offset", "clip_sample"):
        assert pipeline.scheduler[option] == again.scheduler.config[option]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, w: p.generate([], w), "empty"),
        (lambda p, w: p.prepare_inputs(3), "type int"),
        (lambda p, w: p.generate("a", w, height=100), "multiple of 8|multiples of 8"),
        (lambda p, w: p.generate("a", w, seeds=[1, 2]), "2 seeds for 1 pictures"),
        (lambda p, w: p.generate(["a", "b"], w, negative_prompts=["x"]), "1 negative_prompts for 2 prompts"),
        (lambda p, w: p.generate("a", w, sampler="eular"), "euler"),
        (lambda p, w: p(p.prepare_inputs("a"), w, jax.random.key(0), 2, jit=True), "shard"),
        (lambda p, w: p(p.prepare_inputs("a"), w, 0, 2), "prng_seed"),
        (lambda p, w: p(p.prepare_inputs("a"), w, jax.random.key(0), 2, latents=latents(2)), "latents have shape"),
        (lambda p, w: p.generate("a", w, latents=latents(2)), "latents have shape"),
        (lambda p, w: p.generate("a", w, clip_skip=5), "clip_skip"),
    ],
)
def test_bad_arguments_are_named(ours, call, message):
    with pytest.raises(ValueError, match=message):
        call(*ours)


def test_a_saved_pipeline_loads_in_torch_and_here_unchanged(ours, tmp_path):
    import diffusers

    pipeline, params = ours
    pipeline.save_pretrained(tmp_path / "copy", params)
    again, read = FlaxStableDiffusionPipeline.from_pretrained(tmp_path / "copy")
    jax.tree.map(np.testing.assert_array_equal, params, read)
    assert again.scheduler == pipeline.scheduler
    twin = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "copy", safety_checker=None)
    theirs = drawn_by_torch(twin, latents(1), prompt="a fox", num_inference_steps=3)
    images = again.generate("a fox", read, latents=latents(1), num_inference_steps=3, progress=False)
    assert psnr(np.asarray(images[0]) / 255, theirs[0]) > 48


def test_bfloat16_draws_nearly_the_same(ours, tmp_path):
    pipeline, params = ours
    pipeline.save_pretrained(tmp_path / "copy", params)
    half, half_params = FlaxStableDiffusionPipeline.from_pretrained(tmp_path / "copy", dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half_params)} == {jnp.dtype(jnp.bfloat16)}
    a, b = (
        p.generate("a fox", w, num_inference_steps=4, progress=False, sampler="ddim")[0]
        for p, w in ((pipeline, params), (half, half_params))
    )
    assert psnr(np.asarray(a) / 255, np.asarray(b) / 255) > 20
