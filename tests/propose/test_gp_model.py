"""The Gaussian process's numerical parts against scikit-learn, finite differences and integrals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from luthier.propose.gaussian_process import fit as fitting
from luthier.propose.gaussian_process.acquisition import log_expected_improvement, log_h
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.linear import JITTER
from luthier.propose.gaussian_process.posterior import posterior
from luthier.propose.gaussian_process.transform import transform
from luthier.space import Choice, Float, Int, Space
from luthier.space.encoder import Encoding

RNG = np.random.default_rng(0)


def plain(dimensions: int, lengths: list[float], scale: float, noise: float) -> tuple[Kernel, np.ndarray]:
    """A kernel whose warps are the identity, and its parameters."""
    kernel = Kernel(np.arange(dimensions), np.arange(dimensions))
    theta = np.zeros(kernel.size)
    theta[kernel.at_length] = np.log(lengths)
    theta[kernel.at_scale], theta[kernel.at_noise] = np.log(scale), np.log(noise)
    return kernel, theta


def reference(lengths: list[float], scale: float, noise: float) -> GaussianProcessRegressor:
    matern = ConstantKernel(scale, "fixed") * Matern(lengths, "fixed", nu=2.5)
    return GaussianProcessRegressor(matern + WhiteKernel(noise + JITTER, "fixed"), alpha=0.0, optimizer=None)


def test_posterior_and_likelihood_are_those_of_scikit_learn() -> None:
    lengths, scale, noise = [0.3, 1.5, 0.7], 1.7, 0.02
    x, y, new = RNG.random((40, 3)), RNG.normal(size=40), RNG.random((25, 3))
    kernel, theta = plain(3, lengths, scale, noise)
    process, sklearn = posterior(kernel, theta, x, y), reference(lengths, scale, noise).fit(x, y)
    mean, deviation = process.predict(new)
    expected, covariance = sklearn.predict(new, return_cov=True)
    np.testing.assert_allclose(mean[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(deviation**2, np.diag(covariance) - noise - JITTER, atol=1e-6)
    prior, _ = fitting.log_prior(kernel, theta)
    value, _ = fitting.objective(kernel, x, y, theta)
    assert -value - prior == pytest.approx(sklearn.log_marginal_likelihood_value_, abs=1e-6)


def test_imagined_worlds_have_the_joint_posterior_and_their_own_posteriors() -> None:
    lengths, scale, noise = [0.4, 0.9], 1.2, 0.05
    x, y, running, new = RNG.random((20, 2)), RNG.normal(size=20), RNG.random((3, 2)), RNG.random((7, 2))
    kernel, theta = plain(2, lengths, scale, noise)
    process = posterior(kernel, theta, x, y)
    sklearn = reference(lengths, scale, noise).fit(x, y)
    expected, covariance = sklearn.predict(running, return_cov=True)
    many = process.imagine(running, RNG.normal(size=(3, 20_000))).y[20:]
    np.testing.assert_allclose(many.mean(axis=1), expected, atol=0.03)
    np.testing.assert_allclose(np.cov(many), covariance, atol=0.03)
    worlds = process.imagine(running, RNG.normal(size=(3, 4)))
    mean, deviation = worlds.predict(new)
    for world in range(4):
        told = reference(lengths, scale, noise).fit(np.concatenate([x, running]), worlds.y[:, world])
        expected, covariance = told.predict(new, return_cov=True)
        np.testing.assert_allclose(mean[:, world], expected, atol=1e-6)
        np.testing.assert_allclose(deviation**2, np.diag(covariance) - noise - JITTER, atol=1e-6)
        at_seen = told.predict(np.concatenate([x, running]))
        np.testing.assert_allclose(worlds.means()[:, world], at_seen, atol=1e-6)
        mark = min(0.5 * (y.min() + at_seen[:20].min()), at_seen[20:].min())
        assert worlds.incumbents()[world] == pytest.approx(mark, abs=1e-6)
    with pytest.raises(ValueError, match="once"):
        worlds.imagine(running, np.zeros((3, 4)))


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = Space(a=Float(0, 1), b=Int(1, 9), c=Choice(["x", "y", "z"]), d=Choice([True, False]), e=Float(0, 1))
    encoding = Encoding(space)
    kernel = Kernel(encoding.groups, encoding.warped)
    features = encoding.features(encoding.points(space.sample(rng, 25)))
    features[0, encoding.warped] = [0.0, 0.5, 1.0]  # the warp's slopes have limits at the ends
    y, theta = rng.normal(size=25), rng.normal(size=kernel.size) * 0.4
    _, gradient = fitting.objective(kernel, features, y, theta)
    for i in range(kernel.size):
        step = np.zeros(kernel.size)
        step[i] = 1e-5
        high, low = (fitting.objective(kernel, features, y, theta + sign * step)[0] for sign in (1, -1))
        assert gradient[i] == pytest.approx((high - low) / 2e-5, rel=1e-5, abs=1e-6), i


def test_a_fit_is_a_local_optimum_inside_the_bounds_and_recovers_what_matters() -> None:
    x = RNG.random((60, 3))
    y = transform(np.sin(6 * x[:, 0]) + 0.1 * x[:, 1] + 0.01 * RNG.normal(size=60))
    kernel, _ = plain(3, [1, 1, 1], 1, 1)
    first = fitting.start(kernel)
    theta = fitting.fit(kernel, x, y, first, iterations=200)
    limits = fitting.bounds(kernel)
    assert np.all((limits[:, 0] <= theta) & (theta <= limits[:, 1]))
    value, gradient = fitting.objective(kernel, x, y, theta)
    inside = (limits[:, 0] < theta) & (theta < limits[:, 1])
    assert value < fitting.objective(kernel, x, y, first)[0] - 10
    assert np.abs(gradient[inside]).max() < 1.0
    lengths = np.exp(theta[kernel.at_length])
    assert lengths[0] < 0.5 * lengths[1] < lengths[2]


def test_log_expected_improvement_is_that_of_the_integral() -> None:
    for mean, deviation, best in [(0.3, 0.5, 0.0), (-1.0, 0.2, 0.0), (2.0, 1.0, 0.1), (1.0, 0.2, 0.0)]:
        improvement, _ = quad(
            lambda f, m=mean, s=deviation, b=best: (b - f) * norm.pdf(f, m, s),
            best - 40 * deviation,
            best,
            epsabs=1e-14,
        )
        found = log_expected_improvement(np.array([[mean]]), np.array([deviation]), np.array([best]))
        assert found[0] == pytest.approx(np.log(improvement), rel=1e-5)
    worlds = log_expected_improvement(np.array([[0.3, 0.3, 2.0]]), np.array([0.5]), np.array([0.0, 0.1, 0.0]))
    each = [
        log_expected_improvement(np.array([[m]]), np.array([0.5]), np.array([b]))[0]
        for m, b in [(0.3, 0.0), (0.3, 0.1), (2.0, 0.0)]
    ]
    assert worlds[0] == pytest.approx(np.log(np.mean(np.exp(each))))


def test_log_h_is_exact_far_below_and_smooth_where_its_forms_meet() -> None:
    from mpmath import mp, mpf

    with mp.workdps(60):
        for z in (-2e6, -999_999.0, -1e4, -38.0, -1.5, -1.0, -0.99, 0.0, 5.0, 1e3):
            exact = mp.log(mp.npdf(mpf(z)) + mpf(z) * mp.erfc(-mpf(z) / mp.sqrt(2)) / 2) if z > -1e3 else None
            # the first terms of the asymptotic series of φ(z) + z Φ(z) = φ(z) / z² (1 - 3 / z² + …)
            exact = exact if exact is not None else mp.log(mp.npdf(mpf(z)) / mpf(z) ** 2 * (1 - 3 / mpf(z) ** 2))
            assert log_h(np.array([z]))[0] == pytest.approx(float(exact), rel=1e-9), z
    z = -np.geomspace(1e-3, 1e7, 2000)
    assert np.all(np.diff(log_h(z)) < 0) and np.all(np.isfinite(log_h(z)))


def test_the_transform_keeps_order_and_shape_and_survives_anything() -> None:
    values = np.concatenate([RNG.normal(size=30), [1e6, 1e12, np.inf, np.nan]])
    y = transform(values)
    order = np.argsort(values[:32])
    assert np.all(np.diff(y[:32][order]) > 0)
    assert y[32] == y[33] == y[31] == y.max()
    assert y.mean() == pytest.approx(0) and y.std() == pytest.approx(1) and np.abs(y).max() < 4
    # the better half keeps its metric up to the slow logarithm: distances have nearly the ratios they had
    good = np.sort(values[:32])[:16]
    ratios = np.diff(transform(good)) / np.diff(transform(good * 1000 + 5))
    np.testing.assert_allclose(ratios, 1.0)
    for odd in (
        [1.0],
        [2.0, 2.0],
        [1.0, 1.0, 1.0, 2.0, 3.0],
        [-1e300, 1e300, 0.0],
        [-1e308, np.nan],
        [1e-300, 0.0, 3e-300],
    ):
        found = transform(np.array(odd))
        assert np.all(np.isfinite(found))
    assert np.all(np.diff(transform(np.array([1.0, 1.0, 1.0, 2.0, 3.0]))[2:]) > 0)
    assert np.all(transform(np.array([2.0, 2.0])) == 0)
