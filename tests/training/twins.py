"""Optimizers in PyTorch: what torch and transformers do not have is written out from the papers' algorithms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

SHAPES = {
    "unet": {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "norm": {"scale": (5,)}},
    "text_encoder": {"0": {"kernel": (4, 6)}},
}


def tree_of(seed, scale=1.0):
    """Normal numbers in a tree of SHAPES."""
    random = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda s: np.float32(scale * random.standard_normal(s)), SHAPES, is_leaf=is_shape)


START = tree_of(0, scale=0.05)


def gradients(step):
    """Gradients of very different sizes, the same for both sides."""
    return tree_of(1000 + step, scale=10.0 ** (step % 5 - 3))


def run_ours(optimizer, steps, params=None, grads=gradients, pull=0.0):
    """Parameters after each step, and the last state. `pull` adds the gradient of a bowl around 1."""
    params = jax.tree.map(jnp.asarray, START if params is None else params)
    state = jax.jit(optimizer.init)(params)

    @jax.jit
    def step(params, state, grads):
        grads = jax.tree.map(lambda g, p: g + pull * (p - 1), grads, params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    trail = []
    for i in range(steps):
        params, state = step(params, state, grads(i))
        trail.append(jax.tree.map(np.asarray, params))
    return trail, state


def run_torch(make, steps, params=None, grads=gradients, max_grad_norm=None, factor=None, pull=0.0):
    """The same with a torch optimizer that `make` builds from the list of tensors."""
    leaves, tree = jax.tree.flatten(START if params is None else params)
    tensors = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in leaves]
    optimizer = make(tensors)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor or (lambda _: 1.0))
    trail = []
    for i in range(steps):
        for tensor, grad in zip(tensors, jax.tree.leaves(grads(i)), strict=True):
            tensor.grad = torch.tensor(grad) + pull * (tensor.detach() - 1)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(tensors, max_grad_norm)
        optimizer.step()
        scheduler.step()
        trail.append(jax.tree.unflatten(tree, [t.detach().numpy().copy() for t in tensors]))
    return trail


def assert_same_path(found, expected, rtol=1e-5):
    """Every step's distance from the start is the same, to `rtol` of the largest distance in each tensor."""
    for steps, (ours, theirs) in enumerate(zip(found, expected, strict=True), 1):
        for p, q, p0 in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), jax.tree.leaves(START), strict=True):
            # The rounding of the parameters themselves, once a step, comes on top.
            rounding = 1.2e-7 * np.abs(q).max() * steps
            np.testing.assert_allclose(p - p0, q - p0, rtol=0, atol=rtol * np.abs(q - p0).max() + rounding)


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                direction = torch.sign(beta1 * m + (1 - beta1) * p.grad)
                p.sub_(group["lr"] * (direction + group["weight_decay"] * p))
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


class Prodigy(torch.optim.Optimizer):
    """Mishchenko and Defazio 2023, algorithm 4, with what their package adds: decay, corrections, safeguard."""

    def __init__(self, params, lr=1.0, decay=0.0, beta3=None, decouple=True, bias_correction=True, safeguard=True):
        super().__init__(params, {"lr": lr})
        self.options = decay, 0.999**0.5 if beta3 is None else beta3, decouple, bias_correction, safeguard
        self.d = self.d0 = 1e-6
        self.k, self.numerator = 0, 0.0

    @torch.no_grad()
    def step(self):
        decay, beta3, decouple, bias_correction, safeguard = self.options
        (group,) = self.param_groups
        lr, d = group["lr"], self.d
        if lr == 0:
            return
        correction = (1 - 0.999 ** (self.k + 1)) ** 0.5 / (1 - 0.9 ** (self.k + 1)) if bias_correction else 1.0
        dlr, numerator, denominator = d * lr * correction, beta3 * self.numerator, 0.0
        for p in group["params"]:
            state = self.state[p]
            if not state:
                state.update(p0=p.clone(), m=torch.zeros_like(p), v=torch.zeros_like(p), s=torch.zeros_like(p))
            grad = p.grad if decouple else p.grad + decay * p
            numerator += d / self.d0 * dlr * float((grad * (state["p0"] - p)).sum())
            state["m"].mul_(0.9).add_(grad, alpha=d * 0.1)
            state["v"].mul_(0.999).add_(grad * grad, alpha=d * d * 0.001)
            state["s"].mul_(beta3).add_(grad, alpha=d / self.d0 * (d if safeguard else dlr))
            denominator += float(state["s"].abs().sum())
        if denominator == 0:
            return
        self.numerator, self.k = numerator, self.k + 1
        self.d = max(d, numerator / denominator)
        for p in group["params"]:
            if decouple:
                p.sub_(decay * dlr * p)
            p.sub_(dlr * self.state[p]["m"] / (self.state[p]["v"].sqrt() + self.d * 1e-8))


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """Defazio et al. 2024, algorithm 1: y trains, z takes the steps, x is their average."""

    def __init__(self, params, lr, betas, decay):
        super().__init__(params, {"lr": lr})
        self.betas, self.decay = betas, decay
        self.k, self.weights, self.largest_lr = 0, 0.0, 0.0

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        beta1, beta2 = self.betas
        self.k += 1
        self.largest_lr = max(self.largest_lr, group["lr"])
        self.weights += self.largest_lr**2
        share = self.largest_lr**2 / self.weights if self.weights else 0.0
        for y in group["params"]:
            state = self.state[y]
            if not state:
                state.update(z=y.clone(), x=y.clone(), v=torch.zeros_like(y))
            state["v"].mul_(beta2).add_(y.grad * y.grad, alpha=1 - beta2)
            root = (state["v"] / (1 - beta2**self.k)).sqrt() + 1e-8
            state["z"].sub_(group["lr"] * (y.grad / root + self.decay * y))
            state["x"].lerp_(state["z"], share)
            y.copy_(beta1 * state["x"] + (1 - beta1) * state["z"])


def warm_up(steps):
    """A LambdaLR factor: linear from 0."""
    return lambda step: min(1.0, step / steps)


def cosine(steps):
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree)))


def equal(one, other):
    """Bit for bit, leaf by leaf."""
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), one, other))
