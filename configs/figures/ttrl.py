"""TTRL's runs on AIME24, AMC (83 problems) and MATH-500: Qwen2.5-Math-1.5B, and the earlier previews with 7B.

COMMAND   python -m srt_jax.main --config=configs/figures/ttrl.py:aime
TINY      python -m srt_jax.main --config=configs/figures/ttrl.py:aime,tiny
HARDWARE  8 A100 with 80 GB in their runs
PAPER     pass@1 on AIME24 rises by 211% for Qwen2.5-Math-7B; three preview runs ended at 43.3, 43.3 and 46.7 (README).

NAME_7b is the previews' recipe (tag OpenRLHF, code/scripts): no KL, an update for every 16 samples, b2 0.95, no weight
decay, greedy evaluation after every step. The cosine to a tenth of the rate is laid out over whole epochs, while the
loader drops the incomplete last step, so that their runs end before it does. Differences: their labels are votes of the
16 kept samples alone (here all vote), they normalise the advantages once more over the step, and they evaluate on the
other two sets, too.
"""

from srt_jax.experiments import figure, load

PREVIEW = {
    **load("ttrl").LONG,
    "batch.samples_per_prompt": 16,
    "batch.microbatch_sequences": 16,
    "rl.kl_coef": 0.0,
    "rl.dual_clip": 0.0,
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.95,
    "optimizer.weight_decay": 0.0,
    "optimizer.final_fraction": 0.1,
    "eval.every": 1,
    "eval.temperature": 0.0,
    "eval.top_p": 1.0,
    "eval.samples": 1,
}


def _preview(prompts: int, votes: int, steps: int, updates: int) -> dict:
    """updates: their schedule's length, epochs x problems; 3% of them are warm-up."""
    return {
        **PREVIEW,
        "batch.prompts_per_step": prompts,
        "batch.minibatches_per_step": prompts,
        "batch.votes_per_prompt": votes,
        "steps": steps,
        "optimizer.schedule_steps": round(updates / prompts),
        "optimizer.warmup_steps": round(0.03 * updates / prompts),
    }


get_config = figure(
    "ttrl",
    {
        "aime": ("ttrl:qwen25_math_1_5b,test_aime24", {}, {}),
        "amc": ("ttrl:qwen25_math_1_5b,test_amc83", {}, {}),
        "math": ("ttrl:qwen25_math_1_5b,test_math500", {}, {}),
        "aime_7b": ("ttrl:qwen25_math_7b,test_aime24", _preview(16, 64, 60, 60 * 30), {}),
        "amc_7b": ("ttrl:qwen25_math_7b,test_amc83", _preview(64, 64, 50, 50 * 83), {}),
        "math_7b": ("ttrl:qwen25_math_7b,test_math500", _preview(128, 32, 120, 40 * 500), {}),
    },
)
