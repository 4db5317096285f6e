"""examples/real_model: its problems, and a run of the pretrained model that is killed and resumed."""

import pathlib
import runpy
import shutil
import signal
import tempfile

import pytest

from srt_jax.config.validation import validate
from srt_jax.data.problems import load
from tests import chaos, golden
from tests.helpers import REPOSITORY

EXAMPLE = REPOSITORY / "examples/real_model"
SMALL = (
    f"--config={EXAMPLE}/real_config.py:votes",
    "--config.steps=3",
    "--config.batch.prompts_per_step=2",
    "--config.batch.samples_per_prompt=2",
    "--config.batch.microbatch_sequences=4",
    "--config.rollout.prompts_per_call=2",
    "--config.checkpoint.every=1",
    "--config.checkpoint.keep=1",  # a checkpoint has 1.5 GB
    "--config.eval.every=3",
    "--config.eval.samples=2",
    "--config.eval.sets.heldout.limit=2",
)


def test_no_heldout_sum_is_trained_on():
    additions = runpy.run_path(str(EXAMPLE / "additions.py"))
    heldout, train = additions["heldout"]({}), additions["train"]({})
    pairs = {row["problem"]: tuple(map(int, row["problem"].split(" + "))) for row in heldout + train}
    assert len(pairs) == len(heldout) + len(train) and len(heldout) == additions["HELDOUT"]
    apart = [{frozenset(pairs[row["problem"]]) for row in rows} for rows in (heldout, train)]
    assert not apart[0] & apart[1] and len(apart[0] | apart[1]) == 210  # 20 * 21 / 2: every sum, without its order
    assert all(sum(pairs[row["problem"]]) == int(row["answer"]) for row in heldout + train)
    assert runpy.run_path(str(EXAMPLE / "real_config.py"))["TEMPLATE"].startswith("7 + 25 = ")  # 25 is in no problem


def test_the_config_for_own_problems_is_valid_and_its_files_share_no_problem():
    config = runpy.run_path(str(EXAMPLE / "word_config.py"))["get_config"]()
    validate(config)
    train, checked = load(config.data), load(config.eval.sets.checked)
    assert len(train) == 30 and len(checked) == 16 and not {p.prompt for p in train} & {p.prompt for p in checked}
    assert all(problem.answer is None for problem in train) and all(problem.answer for problem in checked)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_killed_run_of_the_pretrained_model_equals_an_undisturbed_one(smollm2):
    with tempfile.TemporaryDirectory() as scratch:
        place = chaos.Place(pathlib.Path(scratch), (*SMALL, f"--config.model.path={smollm2}"))
        (place.out / "tmp").mkdir()
        place.finish("undisturbed")
        wanted = chaos.contents(place.out / "undisturbed")
        shutil.rmtree(place.out / "undisturbed")  # 3 GB
        assert place.start("killed", "SIGKILL", "update", 3).wait(place.limit) == -signal.SIGKILL
        place.finish("killed")
        assert "resuming from step" in place.log("killed").read_text()
        assert len(wanted) > 100 and golden.compare(wanted, chaos.contents(place.out / "killed"), 0.0) == []
