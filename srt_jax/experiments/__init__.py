"""The parts that config files share, and the config files that ship with the project, by name."""

from srt_jax.experiments.common import COLLAPSE, experiment, figure
from srt_jax.experiments.shipped import load

__all__ = ["COLLAPSE", "experiment", "figure", "load"]
