"""Ridge regression in closed form is the solution of its equations, whichever side is longer."""

import pytest
import torch

from hubstore.stats.ridge import fit_ridge, indicators


def made(n, width, targets=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=g, dtype=torch.float64) * torch.logspace(-2, 2, width, dtype=torch.float64) + 5
    return x, x @ torch.randn(width, targets, generator=g, dtype=torch.float64) + torch.randn(
        n, targets, generator=g, dtype=torch.float64
    )


@pytest.mark.parametrize(("n", "width"), [(60, 12), (12, 60)])
def test_the_map_solves_the_normal_equations_of_standardized_columns(n, width):
    x, y = made(n, width)
    found = fit_ridge(x, y, torch.zeros(n, dtype=torch.bool), penalties=(0.1,))
    z = (x - x.mean(0)) / x.std(0, correction=0)
    weights = torch.linalg.solve(z.T @ z + 0.1 * n * torch.eye(width, dtype=x.dtype), z.T @ (y - y.mean(0)))
    torch.testing.assert_close(found(x), z @ weights + y.mean(0), rtol=1e-8, atol=1e-8)


def test_the_penalty_is_the_one_that_is_best_on_held_rows():
    x, y = made(80, 40)
    y += 40 * torch.randn(80, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * y.std()
    held = torch.arange(80) % 4 == 0
    found = fit_ridge(x, y, held)
    errors = {
        one: float((fit_ridge(x[~held], y[~held], held[~held], (one,))(x[held]) - y[held]).square().mean())
        for one in (1e-6, 1.0, 1000.0)
    }
    assert min(errors, key=errors.__getitem__) == 1000.0
    assert found.penalty >= 10.0


def test_columns_that_do_not_vary_are_left_alone():
    x, y = made(30, 4)
    x[:, 2] = 7.0
    assert torch.isfinite(fit_ridge(x, y, torch.zeros(30, dtype=torch.bool))(x)).all()
    assert indicators(torch.tensor([1, 0]), 2).tolist() == [[0, 1], [1, 0]]
