"""examples/real_model: its problems, and a run of the pretrained model that is killed and resumed."""

import pathlib
import runpy
import shutil
import signal
import tempfile

import pytest

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
    assert len(heldout) == additions["HELDOUT"] and len(train) == additions["TRAIN"]
    sums = [tuple(sorted(map(int, additions["terms"](row["problem"])))) for row in heldout + train]
    assert len({*sums}) == len(sums) and (7, 25) not in sums  # the example of the prompt
    assert all(sum(terms) == int(row["answer"]) for terms, row in zip(sums, heldout + train))
    assert "Calculate 7 + 25." in runpy.run_path(str(EXAMPLE / "real_config.py"))["TEMPLATE"]


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
