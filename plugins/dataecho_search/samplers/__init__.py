"""Proposes the points of a study; imports `space` only.

A sampler is made anew for every point, from a seed that is a function of the study and of the point's number, so that a
continued sweep asks for the same points. `_target_` in `hydra/sweeper/sampler` names the classes below, and the study's
identity records that name: it must not change.
"""

from dataecho_search.samplers.adaptive import Adaptive
from dataecho_search.samplers.factory import SamplerFactory
from dataecho_search.samplers.independent import Grid, QuasiRandom, Random

__all__ = ["Adaptive", "Grid", "QuasiRandom", "Random", "SamplerFactory"]
