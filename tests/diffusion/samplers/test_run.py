"""run: one scan that equals the steps one by one, its noise, and jit."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flaxdream.diffusion.samplers import CLASSES, make_sampler, run
from flaxdream.diffusion.samplers.run import draw_noise
from tests.diffusion.samplers.twin import CHANNELS_LAST, STABLE_DIFFUSION, Twin, model, normal, trajectory

CONFIGS = {
    name: STABLE_DIFFUSION | {"_class_name": name, "timestep_spacing": "trailing"} | options
    for name, options in {
        **{name: {} for name in CLASSES},
        "DDPMScheduler": {"thresholding": True},
        "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        "UniPCMultistepScheduler": {"solver_order": 3},
    }.items()
}


def denoise(x, t, i):
    return model(x, t.astype(jnp.float32))


@pytest.mark.parametrize("name", CLASSES)
def test_a_jitted_run_equals_its_steps(name):
    sampler = make_sampler(CONFIGS[name], 6)
    x = jnp.asarray(normal(0) * np.float32(sampler.init_noise_sigma))
    key = jax.random.split(jax.random.key(3), 2)
    whole = jax.jit(partial(run, sampler, denoise))(x, key)
    noises = [np.asarray(draw_noise(key, i, x.shape)) for i in range(len(sampler.timesteps))]
    state = sampler.init(x)
    for i in sampler.calls:
        out = denoise(sampler.model_input(state, i), jnp.asarray(sampler.timesteps[i]), i)
        state = sampler.step(state, i, out, jnp.asarray(noises[i]))
    np.testing.assert_allclose(whole, sampler.x(state), rtol=2e-5, atol=2e-5)
    assert whole.dtype == jnp.float32


def test_a_run_calls_the_model_with_timesteps_of_the_right_type_and_the_index():
    for name, kind in (("ddim", jnp.int32), ("euler", jnp.float32)):
        sampler = make_sampler(CONFIGS["DDIMScheduler"], 3, name=name)
        seen = []

        def spy(x, t, i, seen=seen):
            seen.append((t.dtype, t.shape, i.shape))
            return x

        run(sampler, spy, jnp.ones((1, 2)))
        assert set(seen) == {(jnp.dtype(kind), (), ())}


def test_a_picture_does_not_depend_on_the_rows_beside_it():
    sampler = make_sampler(STABLE_DIFFUSION, 5, name="dpmpp_2m_sde")
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (3, 4, 4, 2)) * sampler.init_noise_sigma
    together = run(sampler, denoise, x, keys)
    alone = run(sampler, denoise, x[1:2], keys[1:2])
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-6, atol=1e-6)


def test_one_key_gives_each_row_its_own_noise_whatever_the_number_of_rows():
    sampler = make_sampler(STABLE_DIFFUSION, 4, name="euler_a")
    together, alone = (run(sampler, denoise, jnp.ones((rows, 4)), jax.random.key(7)) for rows in (2, 1))
    np.testing.assert_allclose(together[:1], alone, rtol=1e-6, atol=1e-6)
    assert jnp.abs(together[0] - together[1]).max() > 0.1


def test_noise_differs_between_calls_and_rows_and_is_unit_normal():
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = draw_noise(keys, 0, (2, 64, 64)), draw_noise(keys, 1, (2, 64, 64))
    assert jnp.abs(first - second).min(axis=(1, 2)).max() >= 0 and not jnp.array_equal(first, second)
    assert not jnp.array_equal(first[0], first[1])
    assert abs(float(first.std()) - 1) < 0.05


def test_old_style_keys_are_taken():
    sampler = make_sampler(STABLE_DIFFUSION, 3, name="euler_a")
    x = jnp.ones((2, 3))
    old, new = (run(sampler, denoise, x, key) for key in (jax.random.PRNGKey(5), jax.random.key(5)))
    np.testing.assert_array_equal(old, new)
    rows = run(sampler, denoise, x, jnp.stack([jax.random.PRNGKey(1), jax.random.PRNGKey(2)]))
    assert rows.shape == x.shape


def test_a_missing_or_misshapen_key_is_refused():
    sampler = make_sampler(STABLE_DIFFUSION, 3, name="euler_a")
    with pytest.raises(ValueError, match="EulerAncestralDiscreteScheduler draws noise here, so it needs a random key"):
        run(sampler, denoise, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="one for each of 2 rows; got keys of shape"):
        run(sampler, denoise, jnp.ones((2, 3)), jax.random.split(jax.random.key(0), 3))
    run(make_sampler(STABLE_DIFFUSION, 3, name="ddim"), denoise, jnp.ones((2, 3)))


def test_equal_samplers_hit_the_jit_cache():
    traces = []

    @partial(jax.jit, static_argnames="sampler")
    def sample(x, *, sampler):
        traces.append(sampler)
        return run(sampler, denoise, x)

    config = STABLE_DIFFUSION | {"_class_name": "DDIMScheduler"}
    for steps, change in ((4, {}), (4, {}), (5, {}), (4, {"steps_offset": 1}), (4, {"_diffusers_version": "0.1"})):
        sample(jnp.ones((1, 2)), sampler=make_sampler(config | change, steps))
    assert len(traces) == 3
    assert make_sampler(config, 4) == make_sampler(config | {"_x": 1}, 4) != make_sampler(config, 4, begin=1)
    assert make_sampler(config, 4) != make_sampler(config, 4, name="euler")


def test_outputs_in_bfloat16_are_sampled_in_float32():
    sampler = make_sampler(STABLE_DIFFUSION, 4, name="dpmpp_2m")
    x = jnp.asarray(normal(0))
    low = run(sampler, lambda x, t, i: denoise(x, t, i).astype(jnp.bfloat16), x.astype(jnp.bfloat16))
    assert low.dtype == jnp.float32
    rounded = run(
        sampler,
        lambda x, t, i: denoise(x, t, i).astype(jnp.bfloat16).astype(jnp.float32),
        x.astype(jnp.bfloat16).astype(jnp.float32),
    )
    np.testing.assert_array_equal(low, rounded)


@pytest.mark.parametrize("shape", [(2,), (1, 3, 4, 5, 2)])
def test_samples_may_have_any_shape(shape):
    for name in CLASSES:
        sampler = make_sampler(CONFIGS[name], 5)
        state = sampler.init(jnp.ones(shape))
        for i in sampler.calls[:2]:
            after = sampler.step(state, i, sampler.model_input(state, i), jnp.ones(shape))
            assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
            state = after


def test_an_output_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"output has shape \(2, 1\); DDIMScheduler expects \(2, 3\)"):
        run(make_sampler(CONFIGS["DDIMScheduler"], 5), lambda x, t, i: x[:, :1], jnp.ones((2, 3)))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("begin", [0, 3])
def test_noise_is_added_as_diffusers_adds_it_at_the_first_call(name, begin):
    config = CONFIGS[name] | {"skip_prk_steps": True}
    sampler, twin = make_sampler(config, 6, begin=begin), Twin(config, 6, begin=begin)
    x0, eps = normal(4), normal(5)
    t = twin.scheduler.timesteps[sampler.calls[0]]
    theirs = twin.scheduler.add_noise(torch.from_numpy(x0), torch.from_numpy(eps), t[None])
    np.testing.assert_allclose(sampler.add_noise(x0, eps), theirs.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(sampler.add_noise(x0, eps), sampler.add_noise(x0, eps, sampler.calls[0]))


@pytest.mark.parametrize("name", CLASSES)
def test_a_run_from_the_middle_has_the_calls_of_the_steps_left(name):
    sampler = make_sampler(CONFIGS[name], 8, begin=3)
    assert len(sampler.calls) == (9 if name == "HeunDiscreteScheduler" else 5)
    assert sampler.calls.stop == len(sampler.timesteps)


def test_a_run_from_the_middle_scans_over_the_calls_left():
    sampler = make_sampler(CONFIGS["LMSDiscreteScheduler"], 8, begin=3)
    x = np.asarray(sampler.add_noise(normal(4), normal(5)))
    steps = trajectory(sampler, x, [None] * 8)
    whole = run(sampler, denoise, jnp.asarray(x.transpose(CHANNELS_LAST)))
    assert len(steps) == 5
    np.testing.assert_allclose(steps[-1].transpose(CHANNELS_LAST), whole, rtol=1e-5, atol=1e-5)


def test_a_true_denoiser_of_one_picture_brings_every_sampler_to_it():
    picture = jnp.asarray(np.tanh(normal(9)).transpose(CHANNELS_LAST))
    for name in CLASSES:
        sampler = make_sampler(CONFIGS[name] | {"set_alpha_to_one": True}, 12)
        state = sampler.init(normal(2).transpose(CHANNELS_LAST) * np.float32(sampler.init_noise_sigma))
        for i in sampler.calls:
            eps = (state.x - sampler.plan.signal[i] * picture) / sampler.plan.noise[i]
            state = sampler.step(state, i, eps, normal(1, i).transpose(CHANNELS_LAST))
        np.testing.assert_allclose(sampler.x(state), picture, atol=0.02, err_msg=name)
