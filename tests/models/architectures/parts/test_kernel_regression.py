from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from models.architectures.parts import kernel_regression
from models.architectures.parts.kernel_regression import KernelRegression


def points(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 4))).float()


def targets(features: torch.Tensor) -> torch.Tensor:
    return torch.stack([features.sin().sum(1), features[:, 0] * features[:, 1]], dim=1)


def fitted(n: int = 40) -> KernelRegression:
    model = KernelRegression(2, 4)
    model.fit(points(n), targets(points(n)))
    return model


def test_it_equals_the_textbook_formula() -> None:
    x, new = points(40).double().numpy(), points(7, seed=1).double().numpy()
    y = targets(points(40)).double().numpy()
    distance = cdist(x, x, "cityblock")
    reach = 0.5 * np.median(distance)
    dual = np.linalg.solve(np.exp(-distance / reach) + 0.03 * np.eye(40), y - y.mean(0))
    expected = np.exp(-cdist(new, x, "cityblock") / reach) @ dual + y.mean(0)
    np.testing.assert_allclose(fitted()(points(7, seed=1)).numpy(), expected, atol=2e-2)


def test_many_materials_are_fitted_by_the_textbook_formula_of_few_points() -> None:
    model = KernelRegression(2, 4, max_points=25)
    model.fit(points(90), targets(points(90)))
    x, new, carrying = (p.double().numpy() for p in (points(90), points(7, seed=1), model.points))
    y = targets(points(90)).double().numpy()
    assert len(np.unique(carrying, axis=0)) == 25
    assert (cdist(carrying, x).min(1) == 0).all()
    reach = 0.5 * np.median(cdist(carrying, carrying, "cityblock"))
    own, cross = (np.exp(-cdist(a, carrying, "cityblock") / reach) for a in (carrying, x))
    dual = np.linalg.solve(cross.T @ cross + 0.03 * own, cross.T @ (y - y.mean(0)))
    expected = np.exp(-cdist(new, carrying, "cityblock") / reach) @ dual + y.mean(0)
    np.testing.assert_allclose(model(points(7, seed=1)).numpy(), expected, atol=2e-2)


def test_blocks_of_materials_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, blocks = (KernelRegression(2, 4, max_points=25) for _ in range(2))
    whole.fit(points(90), targets(points(90)))
    monkeypatch.setattr(kernel_regression, "BLOCK", 7)
    blocks.fit(points(90), targets(points(90)))
    torch.testing.assert_close(blocks.coefficients, whole.coefficients)


def test_as_many_points_as_materials_are_exact() -> None:
    exact, all_points = fitted(), KernelRegression(2, 4, max_points=40)
    all_points.fit(points(40), targets(points(40)))
    torch.testing.assert_close(all_points.coefficients, exact.coefficients, atol=0, rtol=0)


def test_points_that_coincide_are_no_division_by_zero() -> None:
    model = KernelRegression(2, 4, max_points=25)
    model.fit(points(3).repeat(40, 1), targets(points(3)).repeat(40, 1))
    torch.testing.assert_close(model(points(3)), targets(points(3)), atol=5e-3, rtol=0)


def test_it_follows_the_training_points_and_is_their_mean_far_from_them() -> None:
    model = fitted()
    residual = (model(points(40)) - targets(points(40))).abs().mean()
    assert residual < 0.1 * targets(points(40)).std(0).mean()
    torch.testing.assert_close(model(torch.full((1, 4), 1e3))[0], targets(points(40)).mean(0))


def test_its_points_are_kept_with_the_weights() -> None:
    model, other = fitted(), KernelRegression(2, 4)
    assert model.fitted
    assert not other.fitted
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(points(3, seed=2)), model(points(3, seed=2)))


def test_points_of_other_features_do_not_fit() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        KernelRegression(2, 5).load_state_dict(fitted().state_dict())


def test_a_single_point_and_a_constant_feature_are_no_division_by_zero() -> None:
    model = KernelRegression(2, 4)
    model.fit(torch.ones(1, 4), torch.ones(1, 2))
    assert model(points(3)).isfinite().all()
