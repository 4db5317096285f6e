r"""SRT on the easiest third of the data, which delays the collapse (SRT v1, 5.3; SRT v2, I.3 to I.6).

COMMAND   python -m srt_jax.main --config=configs/curriculum.py:qwen25_math_7b,dapo_easy_by_vote_share
TINY      python -m srt_jax.main --config=configs/curriculum.py:tiny
PAPER     The third is chosen by pass rate, which uses answers, or by vote share, which does not. The runs do not
          collapse in three epochs, the pseudo-reward levels off at about 0.9, and the accuracy equals that of ground
          truth on all of DAPO. The released subsets are for Qwen2.5-Math-7B. B.3 does not say whether the vote share
          divides by all samples or by those with an answer. Ours divides by all.

`srt subset` selects such a third from a label file of any model. The tiny run needs one:
          python -m srt_jax label --config=configs/srt.py:tiny --out=runs/labels/tiny-sums.jsonl
          python -m srt_jax subset --config=configs/srt.py:tiny --labels=runs/labels/tiny-sums.jsonl \
              --by=vote_share --fraction=0.33333 --out=runs/labels/tiny-sums-easy.jsonl
"""

from srt_jax.experiments import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA, where DATA is an easy subset. --config.data.kind=jsonl --config.data.path=... uses another file."""
    return experiment(
        "curriculum",
        arguments,
        tiny={"data.path": "runs/labels/tiny-sums-easy.jsonl"},
        default="qwen25_math_7b,dapo_easy_by_vote_share",
    )
