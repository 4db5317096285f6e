"""The learning rates of studies/lora.py: its runs at several rates, on base 0 with other seeds.

studies/lora.py has no run with these seeds. For each arm it takes the rate with the highest held-out accuracy after the
last step.
"""

import pathlib
import runpy

from srt_jax.study import Arm, Study

LORA = runpy.run_path(str(pathlib.Path(__file__).with_name("lora.py")))


def get_study(quick: bool) -> Study:
    """The seeds 100 and 101. quick: only seed 100."""
    config = LORA["miniature"]("lora_rate")
    full = {f"full_at_{rate}": Arm({"optimizer.learning_rate": float(rate)}) for rate in ("2e-4", "4e-4")}
    adapters = {f"rank_8_at_{rate}": LORA["adapters"](float(rate)) for rate in ("1e-3", "2e-3", "4e-3")}
    return Study(
        name="lora_rate",
        config=config,
        arms=full | adapters,
        seeds=range(100, 101 if quick else 102),
        column=f"eval/heldout/avg@{config.eval.samples}",
    )
