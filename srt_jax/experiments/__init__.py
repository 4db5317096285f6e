"""Code that the config files share, and a loader for the shipped config files."""

from srt_jax.experiments.common import experiment
from srt_jax.experiments.figures import COLLAPSE, Curve, Figure, figure_config
from srt_jax.experiments.shipped import load

__all__ = ["COLLAPSE", "Curve", "Figure", "experiment", "figure_config", "load"]
