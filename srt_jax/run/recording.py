"""The rollouts of a step as arrays on disk, so that its update can be computed again bit for bit.

With vLLM the same seeds need not give the same samples again; with the recorded ones everything after sampling is
deterministic.
"""

import pathlib

import numpy as np

from srt_jax.files import replaced_file
from srt_jax.reward import labels
from srt_jax.rollout.sampler import ARRAYS, Rollouts
from srt_jax.run.rollouts import Collected, extract_answers


def recorded_path(directory: pathlib.Path, step: int) -> pathlib.Path:
    """rollouts/step_N.npz of a run."""
    return directory / "rollouts" / f"step_{step:06d}.npz"


def write(path: pathlib.Path, collected: Collected) -> None:
    """Token ids, log-probs, problem ids and what was labelled; equal rollouts give equal bytes."""
    rollouts = collected.rollouts
    with replaced_file(path) as file:
        np.savez_compressed(
            file,
            ids=np.array([problem.id for problem in collected.problems]),
            prompts=np.concatenate([np.asarray(prompt, np.int32) for prompt in rollouts.prompts]),
            prompt_lengths=np.array([len(prompt) for prompt in rollouts.prompts]),
            labelled=collected.graded.labelled,
            version=rollouts.version,
            rounds=collected.rounds,
            **{name: getattr(rollouts, name) for name in ARRAYS},
        )


def read(path: pathlib.Path, problems: dict, tokenizer, grader, form, settings) -> Collected:
    """The step's rollouts, graded again. `problems` by id. Raises KeyError for a problem that the data has no more."""
    with np.load(path) as saved:
        arrays = dict(saved)
    ends = np.cumsum(arrays["prompt_lengths"])[:-1]
    rollouts = Rollouts(
        [prompt.tolist() for prompt in np.split(arrays["prompts"], ends)],
        **{name: arrays[name] for name in ARRAYS},
        version=int(arrays["version"]),
    )
    chosen = [problems[id] for id in arrays["ids"].tolist()]
    answers = extract_answers(rollouts.responses(), rollouts.prompts, tokenizer, form)
    # One by one, as they were graded while the others were sampled.
    graded = labels.join(
        [labels.grade_rollouts([problem], [row], grader, settings) for problem, row in zip(chosen, answers)]
    )
    graded = labels.shaped(graded, rollouts.lengths, rollouts.stopped, settings)
    graded.labelled[:] = arrays["labelled"]  # resampling may have taken labels away
    return Collected(chosen, rollouts, graded, {"sample": 1.0, "grade": 0.0}, int(arrays["rounds"]))
