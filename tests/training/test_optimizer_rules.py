"""Sixty steps of each optimizer against its PyTorch twin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from flaxdream.training.learning_rate import make_schedule
from flaxdream.training.optimizer import make_optimizer
from flaxdream.training.optimizer_rules import OPTIMIZERS, canonical_name, make_rule
from tests.training import twins

STEPS = 60


def ours(name, learning_rate, **options):
    schedule = make_schedule("cosine", learning_rate, max_train_steps=STEPS + 5)
    optimizer = make_optimizer(name, schedule, max_grad_norm=None, **options)
    return twins.run_ours(optimizer, STEPS)[0]


def torchs(make):
    return twins.run_torch(make, STEPS, factor=twins.cosine(STEPS + 5))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "twin"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_adam_takes_the_steps_of_torch(name, twin, weight_decay):
    found = ours(name, 1e-2, beta1=0.8, beta2=0.99, eps=1e-4, weight_decay=weight_decay)
    options = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": weight_decay}
    twins.assert_same_path(found, torchs(lambda tensors: twin(tensors, **options)))


def test_the_defaults_of_adamw_are_those_of_torch():
    twins.assert_same_path(ours("adamw", 1e-3), torchs(lambda tensors: torch.optim.AdamW(tensors, lr=1e-3)))


def test_the_first_adam_step_is_exact_where_one_minus_beta2_in_float32_is_not():
    optimizer = make_optimizer("adamw", lambda step: jnp.float32(1.0), weight_decay=0.0, max_grad_norm=None)
    found, _ = twins.run_ours(optimizer, 1, params={"p": np.zeros(1, np.float32)}, grads=lambda i: {"p": np.ones(1)})
    np.testing.assert_allclose(found[0]["p"], -1, rtol=2e-7)


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "weight_decay": 0.1}]
)
def test_sgd_takes_the_steps_of_torch(options):
    twins.assert_same_path(ours("sgd", 1e-2, **options), torchs(lambda t: torch.optim.SGD(t, lr=1e-2, **options)))


def test_lion_takes_the_steps_of_the_paper():
    found = ours("lion", 1e-3, beta1=0.95, beta2=0.98, weight_decay=0.1)
    twins.assert_same_path(found, torchs(lambda t: twins.Lion(t, lr=1e-3, betas=(0.95, 0.98), weight_decay=0.1)))


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1, "beta1": 0.9}, {"scale_parameter": True, "weight_decay": 0.1}]
)
def test_adafactor_takes_the_steps_of_transformers_on_matrices(options):
    shape = (128, 160)
    params = {"w": np.random.default_rng(0).standard_normal(shape, np.float32), "b": np.ones(7, np.float32)}

    def grads(step):
        random = np.random.default_rng(step)
        return {"w": random.standard_normal(shape, np.float32), "b": random.standard_normal(7, np.float32)}

    optimizer = make_optimizer("adafactor", lambda step: jnp.float32(1e-2), max_grad_norm=None, **options)
    (found,) = twins.run_ours(optimizer, 50, params, grads)[0][-1:]
    make = lambda t: transformers.Adafactor(  # noqa: E731
        t, lr=1e-2, relative_step=False, **({"scale_parameter": False} | options)
    )
    (expected,) = twins.run_torch(make, 50, params, grads)[-1:]
    for name in params:
        moved = expected[name] - params[name]
        np.testing.assert_allclose(found[name] - params[name], moved, rtol=0, atol=1e-5 * np.abs(moved).max())


def noise(step):
    return twins.tree_of(step, scale=0.1)


PRODIGY_OPTIONS = [
    ({}, {}),
    ({"weight_decay": 0.1}, {"decay": 0.1}),
    ({"weight_decay": 0.1, "prodigy_decouple": False}, {"decay": 0.1, "decouple": False}),
    ({"prodigy_use_bias_correction": False, "prodigy_beta3": 0.9}, {"bias_correction": False, "beta3": 0.9}),
    ({"prodigy_safeguard_warmup": False}, {"safeguard": False}),
]


@pytest.mark.parametrize(
    ("options", "twin_options", "warmup"), [({}, {}, 0), *((*options, 10) for options in PRODIGY_OPTIONS)]
)
def test_prodigy_takes_the_steps_of_its_authors_also_in_a_warm_up_from_zero(options, twin_options, warmup):
    schedule = make_schedule("constant_with_warmup", 1.0, lr_warmup_steps=warmup)
    optimizer = make_optimizer("prodigy", schedule, max_grad_norm=None, **options)
    found, state = twins.run_ours(optimizer, STEPS, grads=noise, pull=1.0)
    make = lambda t: twins.Prodigy(t, **twin_options)  # noqa: E731
    factor = twins.warm_up(warmup) if warmup else None
    expected = twins.run_torch(make, STEPS, grads=noise, factor=factor, pull=1.0)
    assert state.rules.estim_lr > 2e-6, "the step size was not found"
    twins.assert_same_path(found, expected, rtol=1e-4)  # the step size feeds back on itself, 60 times


def test_prodigy_stands_still_until_there_is_a_gradient():
    optimizer = make_optimizer("prodigy", lambda step: jnp.float32(1), weight_decay=0.1)
    zeros = jax.tree.map(np.zeros_like, twins.START)
    found, state = twins.run_ours(optimizer, 3, grads=lambda step: zeros)
    assert jax.tree.all(jax.tree.map(np.array_equal, found[-1], twins.START))
    assert state.rules.count == 0 and state.steps == 3


@pytest.mark.parametrize("warmup", [0, 10])
def test_schedule_free_takes_the_steps_of_the_paper(warmup):
    schedule = make_schedule("constant_with_warmup", 1e-2, lr_warmup_steps=warmup)
    optimizer = make_optimizer("schedule_free", schedule, beta1=0.9, beta2=0.99, weight_decay=0.1, max_grad_norm=None)
    make = lambda t: twins.ScheduleFreeAdamW(t, lr=1e-2, betas=(0.9, 0.99), decay=0.1)  # noqa: E731
    expected = twins.run_torch(make, STEPS, factor=twins.warm_up(warmup) if warmup else None)
    twins.assert_same_path(twins.run_ours(optimizer, STEPS)[0], expected)


def test_diffusers_and_kohya_names_mean_ours():
    names = {"AdamW": "adamw", "Prodigy": "prodigy", "AdamW8bit": "adamw8bit", "AdaFactor": "adafactor", "Lion": "lion"}
    assert {name: canonical_name(name) for name in names} == names
    assert canonical_name("AdamWScheduleFree") == "schedule_free"
    assert canonical_name("AdamW", use_8bit_adam=True) == "adamw8bit"
    assert all(canonical_name(name) == name for name in OPTIMIZERS)


def test_what_an_optimizer_does_not_have_is_refused_with_what_it_has():
    with pytest.raises(ValueError, match="optimizer 'adamx' is not supported. Supported: adamw, adamw8bit, adam"):
        make_rule("adamx")
    with pytest.raises(ValueError, match="'lion' has no eps. Its options are beta1, beta2, weight_decay"):
        make_rule("lion", eps=1e-8)
    with pytest.raises(ValueError, match="use_8bit_adam goes with optimizer adamw"):
        canonical_name("prodigy", use_8bit_adam=True)
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        make_rule("sgd", nesterov=True)
    make_rule("lion", eps=None)  # None is the optimizer's own default
