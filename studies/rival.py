"""Votes beside labels of the frozen base on ten new `rival` bases: what five bases of studies/claims.py left undecided.

The runs are those of the setting `rival` of claims.py. Its five bases left open whether the majority gets better at
first and whether a frozen teacher's peak is below that of votes, because votes differ much from base to base. The
thresholds here were written after that study and before any run of this one.
"""

import dataclasses
import pathlib
import runpy

from srt_jax.study import Claim, Study

CLAIMS = runpy.run_path(str(pathlib.Path(__file__).with_name("claims.py")))


def get_study(quick: bool) -> Study:
    """100 steps on the bases 9 to 18. quick: 40 steps on the bases 9 to 11."""
    whole, setting = CLAIMS["get_study"](quick), CLAIMS["RIVAL"]
    maj = CLAIMS["maj"](whole.config.eval.samples)
    return dataclasses.replace(
        whole,
        name="rival",
        text=__doc__,
        arms={name: whole.arms[name] for name in ("votes", "frozen_teacher")},
        settings={setting: whole.settings[setting]},
        seeds=range(9, 12) if quick else range(9, 19),
        claims=(
            Claim("majority", "the majority gets better at first", "votes", step=20, column=maj, threshold=0.05),
            Claim("majority, at all", "by any amount", "votes", step=20, column=maj),
            Claim("rise", "votes raise the accuracy", "votes", threshold=0.1),
            Claim("teacher rises", "so do labels of the frozen base", "frozen_teacher", threshold=0.1),
            Claim(
                "flat",
                "the frozen teacher's peak is at least 0.05 below that of votes",
                "frozen_teacher",
                "votes",
                measure="peak",
                sign=-1,
                threshold=0.05,
            ),
            Claim(
                "not above",
                "and it is not 0.05 above it",
                "frozen_teacher",
                "votes",
                measure="peak",
                sign=-1,
                threshold=-0.05,
            ),
        ),
    )
