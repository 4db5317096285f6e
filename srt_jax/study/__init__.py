"""Studies: runs of arms x settings x seeds, paired effects over seeds, and verdicts by thresholds set before the runs.

A study is a Python file with `get_study(quick)`; `python -m srt_jax study FILE` runs it (docs/laboratory.md).
"""

from srt_jax.study.rules import Claim
from srt_jax.study.spec import Arm, Need, Study, load
from srt_jax.study.stops import Bars

__all__ = ["Arm", "Bars", "Claim", "Need", "Study", "load"]
