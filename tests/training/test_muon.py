"""Muon's steps against a slower reference: momentum, and the singular value decomposition."""

import pytest
import torch

from adaptive_moe.training.muon import Muon

RATE, MOMENTUM, DAMPING = 0.01, 0.8, 1e-4
SHAPES = ((4, 32), (4, 6), (9, 5), (1, 7), (4, 32))  # several ranks; one factor taller than wide


def _step_by_decomposition(start, gradients, decay):
    """Every parameter on its own: U f(S) V' of the momentum ahead, f nearly 1."""
    value, momentum = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        momentum = MOMENTUM * momentum + gradient
        u, s, vh = torch.linalg.svd(gradient + MOMENTUM * momentum, full_matrices=False)
        shrunk = s / (s.square() + DAMPING * s.square().sum()).sqrt()
        size = RATE * 0.2 * max(start.shape) ** 0.5
        value = value * (1 - RATE * decay) - size * (u * shrunk) @ vh
    return value


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_steps_are_those_of_the_decomposition(decay):
    chance = torch.Generator().manual_seed(3)
    draw = {"generator": chance, "dtype": torch.float64}
    starts = [torch.randn(shape, **draw) for shape in SHAPES]
    gradients = [[torch.randn(shape, **draw) for shape in SHAPES] for _ in range(3)]
    parameters = [torch.nn.Parameter(start.clone()) for start in starts]
    muon = Muon(parameters, lr=RATE, weight_decay=decay, momentum=MOMENTUM)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        muon.step()
    for i, (parameter, start) in enumerate(zip(parameters, starts, strict=True)):
        expected = _step_by_decomposition(start, [step[i] for step in gradients], decay)
        torch.testing.assert_close(parameter.detach(), expected)


def test_a_step_has_the_size_of_adams_whatever_the_gradients():
    tiny, large = (torch.nn.Parameter(torch.zeros(4, 64)) for _ in range(2))
    torch.manual_seed(0)
    tiny.grad = torch.randn(4, 64) * 1e-25
    large.grad = tiny.grad * 1e35
    Muon([tiny, large], lr=RATE).step()
    assert tiny.detach().square().mean().sqrt() == pytest.approx(0.2 * RATE, rel=1e-2)
    torch.testing.assert_close(tiny, large)


def test_nothing_moves_without_a_gradient():
    zero, none = torch.nn.Parameter(torch.ones(2, 8)), torch.nn.Parameter(torch.ones(2, 8))
    zero.grad = torch.zeros(2, 8)
    Muon([zero, none], lr=RATE).step()
    assert torch.equal(zero, torch.ones(2, 8))
    assert torch.equal(none, torch.ones(2, 8))


def test_a_closure_gives_the_loss():
    parameter = torch.nn.Parameter(torch.ones(2, 8))
    muon = Muon([parameter], lr=RATE)

    def closure():
        muon.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert muon.step(closure).item() == 16.0
    assert muon.step(closure).item() < 16.0
