r"""Labels of a frozen teacher: the base model's majority votes, made once, then plain RL (v1, 5.2; v2, I.2).

COMMAND   python -m srt_jax.main --config=configs/offline_labels.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/offline_labels.py:tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     as good as SRT and far more stable, yet without what an improving teacher adds; more than one epoch of
          MATH-12k collapsed all the same (v2, I.2).

The labels come first, from the same config with the labels voted for:
          python -m srt_jax.label --config=configs/srt.py:qwen25_math_7b,dapo \
              --out=runs/labels/qwen25_math_7b-dapo.jsonl
          python -m srt_jax.label --config=configs/srt.py:tiny --out=runs/labels/tiny-sums.jsonl
"""
from configs.common import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    config = experiment("offline_labels", arguments, {"labels.source": "file", "labels.path": "runs/labels/.jsonl"})
    config.labels.path = f"runs/labels/{config.name.removeprefix('offline_labels-')}.jsonl"
    return config
