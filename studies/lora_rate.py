"""The learning rate of adapters on the miniature: the runs of studies/lora.py at several rates, with other seeds.

Two runs per rate, both on base 0. studies/lora.py has no run with these seeds. It takes the rate with the highest
held-out accuracy after the last step.
"""

import pathlib
import runpy

from srt_jax.study import Study

RATES = ("1e-3", "2e-3", "4e-3")
LORA = runpy.run_path(str(pathlib.Path(__file__).with_name("lora.py")))


def get_study(quick: bool) -> Study:
    """The seeds 100 and 101. quick: only seed 100."""
    config = LORA["miniature"]("lora_rate")
    return Study(
        name="lora_rate",
        config=config,
        arms={f"rank_8_at_{rate}": LORA["adapters"](float(rate)) for rate in RATES},
        seeds=range(100, 101 if quick else 102),
        column=f"eval/heldout/avg@{config.eval.samples}",
    )
