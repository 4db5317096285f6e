r"""The easiest third of the data, which delays the collapse (v1, 5.3; v2, I.3 to I.6).

COMMAND   python -m srt_jax.main --config=configs/curriculum.py:qwen25_math_7b,dapo_easy_by_vote_share
TINY      python -m srt_jax.main --config=configs/curriculum.py:tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     chosen by pass rate (uses answers) or by vote share (does not): no collapse in three epochs, pseudo-reward
          levels off at about 0.9, accuracy as with ground truth on all of DAPO. The released subsets are
          Qwen2.5-Math-7B's.

A third of one's own, by any model, is a label file cut by srt_jax.subset; so is the tiny one:
          python -m srt_jax.label --config=configs/srt.py:tiny --out=runs/labels/tiny-sums.jsonl
          python -m srt_jax.subset --config=configs/srt.py:tiny --labels=runs/labels/tiny-sums.jsonl \
              --by=vote_share --fraction=0.33333 --out=runs/labels/tiny-sums-easy.jsonl
"""
from configs.common import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA with one of the easy subsets, or with --config.data.kind=jsonl --config.data.path=... one's own"""
    return experiment("curriculum", arguments, tiny={"data.path": "runs/labels/tiny-sums-easy.jsonl"},
                      default="qwen25_math_7b,dapo_easy_by_vote_share")
