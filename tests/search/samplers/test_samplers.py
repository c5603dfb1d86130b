"""Points are a function of the study's seed and their ordinal; every sampler searches."""

import math

import optuna
import pytest
from hydra_plugins.dataecho_sweeper.sweeper import _OPTIONS
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import qmc

from dataecho.build import build
from dataecho.errors import SettingError
from dataecho_search.samplers import Adaptive, Grid, QuasiRandom, Random, SamplerFactory
from dataecho_search.space.dimensions import at

SPACE = {
    "lr": FloatDistribution(0.01, 1.0, log=True),
    "momentum": FloatDistribution(0.8, 0.99),
    "kind": CategoricalDistribution(["a", "b", "c"]),
    "width": IntDistribution(1, 64, log=True),
}


def ask(factory, space, *, seed, ordinal, study=None):
    study = study or optuna.create_study()
    study.sampler = factory.sampler(space, seed=seed, ordinal=ordinal)
    return study.ask(dict(space)).params


@pytest.mark.parametrize(
    "factory", [QuasiRandom(), QuasiRandom(sequence="halton"), Random()], ids=["sobol", "halton", "random"]
)
def test_a_point_depends_on_seed_and_ordinal_only(factory):
    study = optuna.create_study()
    points = [ask(factory, SPACE, seed=7, ordinal=n, study=study) for n in range(5)]
    assert ask(factory, SPACE, seed=7, ordinal=3) == points[3]
    assert len({point["lr"] for point in points}) == 5
    assert ask(factory, SPACE, seed=8, ordinal=3) != points[3]


@pytest.mark.parametrize(("sequence", "engine"), [("sobol", qmc.Sobol), ("halton", qmc.Halton)])
def test_quasi_random_points_are_scipys_scrambled_sequence(sequence, engine):
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(10, 20)}
    cube = engine(2, scramble=True, rng=5).random(8)
    for n, (x, y) in enumerate(cube):
        assert ask(QuasiRandom(sequence=sequence), space, seed=5, ordinal=n) == {"x": x, "y": 10 + 10 * y}


def test_sixteen_sobol_points_have_one_in_each_sixteenth():
    values = [ask(QuasiRandom(), {"x": FloatDistribution(0, 1)}, seed=3, ordinal=n)["x"] for n in range(16)]
    assert sorted(int(16 * value) for value in values) == list(range(16))


def test_every_value_of_a_stepped_dimension_has_an_equal_share():
    shares = [at(IntDistribution(2, 8, step=3), (n + 0.5) / 300) for n in range(300)]
    assert [shares.count(value) for value in (2, 5, 8)] == [100, 100, 100]
    shares = [at(FloatDistribution(0.1, 0.3, step=0.1), (n + 0.5) / 300) for n in range(300)]
    assert [shares.count(value) for value in (0.1, 0.2, 0.3)] == [100, 100, 100]
    assert at(FloatDistribution(0.01, 1, log=True), 0.5) == pytest.approx(0.1)
    assert {at(IntDistribution(1, 64, log=True), x) for x in (0.0, 1 - 1e-12)} == {1, 64}


def test_a_grid_has_every_combination_once():
    space = {"kind": CategoricalDistribution(["a", "b"]), "n": IntDistribution(1, 3)}
    grid = Grid()
    assert grid.num_points(space) == 6
    points = [ask(grid, space, seed=0, ordinal=n) for n in range(6)]
    assert [(point["kind"], point["n"]) for point in points] == [(kind, n) for kind in "ab" for n in (1, 2, 3)]
    with pytest.raises(SettingError, match=r"lr=interval.*choice\(...\) or range.*A grid needs steps"):
        grid.check(SPACE, num_objectives=1)


@pytest.mark.parametrize(
    "name", ["tpe", "cmaes", "nsgaii", "random", "qmc", pytest.param("gp", marks=pytest.mark.slow)]
)
def test_every_sampler_searches_though_some_trials_miss_or_fail(name):
    factory = build(_OPTIONS["sampler"][name], SamplerFactory, key="hydra.sweeper.sampler")
    space = {key: SPACE[key] for key in ("lr", "momentum")}
    factory.check(space, num_objectives=1)
    study = optuna.create_study()
    for n in range(24):
        study.sampler = factory.sampler(space, seed=1, ordinal=n)
        trial = study.ask(space)
        cost = (math.log10(trial.params["lr"]) + 1) ** 2 + trial.params["momentum"]
        if n % 5 == 2:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, math.inf if n % 5 == 1 else cost)
    lrs = [trial.params["lr"] for trial in study.trials]
    assert len(set(lrs)) == 24 and all(0.01 <= lr <= 1 for lr in lrs)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_objectives", [1, 2])
def test_a_gaussian_process_that_knows_no_finite_value_draws_at_random_and_says_nothing(num_objectives):
    factory = build(_OPTIONS["sampler"]["gp"], SamplerFactory, key="hydra.sweeper.sampler")
    space = {key: SPACE[key] for key in ("lr", "momentum")}
    study = optuna.create_study(directions=["minimize"] * num_objectives)
    for n in range(14):
        study.sampler = factory.sampler(space, seed=3, ordinal=n)
        trial = study.ask(space)
        assert trial.relative_params == {}
        study.tell(trial, [math.inf, 0.5][:num_objectives])
    points = [tuple(trial.params.values()) for trial in study.trials]
    assert len(set(points)) == 14 and all(0.01 < lr < 1 and 0.8 < momentum < 0.99 for lr, momentum in points)
    study.tell(study.ask(space), [0.5] * num_objectives)
    study.sampler = factory.sampler(space, seed=3, ordinal=15)
    assert set(study.ask(space).relative_params) == {"lr", "momentum"}


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_what_learns_learns_though_it_is_made_anew_for_every_point(name):
    factory = build(_OPTIONS["sampler"][name], SamplerFactory, key="hydra.sweeper.sampler")
    space = {key: SPACE[key] for key in ("lr", "momentum")}
    study = optuna.create_study()
    for n in range(60):
        study.sampler = factory.sampler(space, seed=2, ordinal=n)
        trial = study.ask(space)
        study.tell(trial, (math.log10(trial.params["lr"]) + 1) ** 2 + trial.params["momentum"])
    # A random point is as near as that with a probability of 0.3.
    assert sum(0.05 < trial.params["lr"] < 0.2 for trial in study.trials[40:]) >= 12


@pytest.mark.parametrize("name", ["nsgaii", "tpe"])
def test_several_objectives_are_searched(name):
    factory = build(_OPTIONS["sampler"][name], SamplerFactory, key="hydra.sweeper.sampler")
    study = optuna.create_study(directions=["minimize", "maximize"])
    space = {"x": FloatDistribution(0, 1)}
    for n in range(15):
        study.sampler = factory.sampler(space, seed=1, ordinal=n)
        trial = study.ask(space)
        study.tell(trial, [math.inf if n == 3 else trial.params["x"], trial.params["x"] ** 2])
    assert len(study.best_trials) >= 5


def test_mistakes_are_told():
    with pytest.raises(SettingError, match="hydra.sweeper.sampler.sequence=sobel.*Allowed: sobol, halton"):
        QuasiRandom(sequence="sobel")
    with pytest.raises(SettingError, match="sampler.options.n_startup=3.*Did you mean .*n_startup_trials"):
        Adaptive(sampler="optuna.samplers.TPESampler", options={"n_startup": 3})
    with pytest.raises(SettingError, match="sampler.sequense=.*Did you mean hydra.sweeper.sampler.sequence"):
        build({**_OPTIONS["sampler"]["qmc"], "sequense": "x"}, SamplerFactory, key="hydra.sweeper.sampler")
    for name in ("optuna.samplers.Nothing", "math.sqrt", "nothing"):
        with pytest.raises(SettingError, match="hydra.sweeper.sampler.sampler=.*a class derived from optuna"):
            Adaptive(sampler=name, options={})
    cmaes = build(_OPTIONS["sampler"]["cmaes"], SamplerFactory, key="hydra.sweeper.sampler")
    with pytest.raises(SettingError, match="2 objectives cannot be used.*one with hydra/sweeper/sampler=cmaes"):
        cmaes.check(SPACE, num_objectives=2)
