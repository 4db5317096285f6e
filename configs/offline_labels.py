r"""Labels of a fixed teacher: the base model votes once, then RL uses these labels (SRT v1, 5.2; SRT v2, I.2).

COMMAND   python -m srt_jax.main --config=configs/offline_labels.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/offline_labels.py:tiny
PAPER     The runs are as good as SRT and far more stable, but they do not profit from a teacher that improves. With
          more than one epoch of MATH-12k they collapsed, too (v2, I.2).

Make the labels first, with the config whose labels are votes:
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
