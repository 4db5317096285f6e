r"""A frozen teacher's labels: the base model votes once, then plain RL follows (SRT v1, 5.2; SRT v2, I.2).

COMMAND   python -m srt_jax.main --config=configs/offline_labels.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/offline_labels.py:tiny
PAPER     The runs are as good as SRT and far more stable, yet they lack what an improving teacher adds. More than one
          epoch of MATH-12k collapsed all the same (v2, I.2).

The labels come first, from the config whose labels are votes:
          python -m srt_jax label --config=configs/srt.py:qwen25_math_7b,dapo \
              --out=runs/labels/qwen25_math_7b-dapo.jsonl
          python -m srt_jax label --config=configs/srt.py:tiny --out=runs/labels/tiny-sums.jsonl
"""

from srt_jax.experiments import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    config = experiment("offline_labels", arguments, {"labels.source": "file", "labels.path": "runs/labels/.jsonl"})
    config.labels.path = f"runs/labels/{config.name.removeprefix('offline_labels-')}.jsonl"
    return config
