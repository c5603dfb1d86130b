"""Proposes the points of a study; imports `space` only.

A sampler is created for every point, from a seed of the study and the point's number, so that a continued sweep asks
for the same points. The identity of a study contains the dotted names of the classes below: they must not change."""

from dataecho_search.samplers.adaptive import Adaptive
from dataecho_search.samplers.factory import SamplerFactory
from dataecho_search.samplers.independent import Grid, QuasiRandom, Random

__all__ = ["Adaptive", "Grid", "QuasiRandom", "Random", "SamplerFactory"]
