"""The study command: plans, the table that survives kills and machines, the report, and wrong study files."""

import collections
import dataclasses
import json
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from pyarrow import parquet

from srt_jax import levels
from srt_jax import train as train_module
from srt_jax.errors import ConfigError, DataError, TrainingStoppedError
from srt_jax.jobs import study as job
from srt_jax.miniature import bases
from srt_jax.runtime import programs
from srt_jax.study import Arm, Claim, Need, Study, load, report, runner, spec, table
from srt_jax.study.spec import planned
from srt_jax.study.stops import Bars
from tests.helpers import REPOSITORY, small_config

COLUMN = "eval/heldout/avg@4"
CHOSEN, OTHER = "votes-attractor-seed4", "runs/studies/claims/other.jsonl"  # its evaluation set chooses a step


def records(end, steps=20, tokens=10.0):
    """metrics.jsonl of a run whose curve is a straight line from 0.4 to `end`, evaluated at every second step."""
    found = [{"step": 0, COLUMN: 0.4, "eval/heldout/response_tokens": tokens, "time/eval": 9.0}]
    for step in range(1, steps + 1):
        record = {"step": step, "label/margin": step, "rollout/response_tokens": tokens, "time/update": 1.0}
        if step % 2 == 0:
            record |= {COLUMN: 0.4 + (end - 0.4) * step / steps, "eval/heldout/response_tokens": tokens}
        found.append(record)
    return found


@pytest.fixture
def study(tmp_path):
    config = small_config(pathlib.Path("nowhere"), tmp_path, "unused", 20)
    return Study(
        name="test",
        config=config,
        arms={"low": Arm(), "high": Arm({"rl.kl_coef": 0.5})},
        seeds=range(3),
        column=COLUMN,
        by_run=lambda setting, seed: {"model.path": f"base-{seed}"},
        claims=(Claim("higher", "high ends higher", "high", "low", threshold=0.1),),
        text="A study of nothing.",
    )


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Training that writes down its curve at once, and the names of the runs that were made."""
    made = []

    def train(config):
        directory = pathlib.Path(config.out) / config.name
        directory.mkdir(parents=True, exist_ok=True)
        rows = records(0.5 + 0.3 * (config.rl.kl_coef == 0.5) + config.seed / 100)
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made.append(config.name.rpartition("-")[0])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_module, "train", train)
    monkeypatch.setattr(runner, "validate", lambda config: None)
    return made


def test_the_plan_has_every_run_once_shape_by_shape(study):
    runs = planned(study)
    assert [(run.arm, run.seed) for run in runs] == [
        ("low", 0),
        ("low", 1),
        ("low", 2),
        ("high", 0),
        ("high", 1),
        ("high", 2),
    ]
    assert [run.config.model.path for run in runs[:3]] == ["base-0", "base-1", "base-2"]
    assert len({run.config.name for run in runs}) == 6 and runs[0].config.name == f"low-seed0-{runs[0].key[:8]}"
    assert len({run.key for run in runs}) == 6 and len({run.shape for run in runs}) == 2
    longer = dataclasses.replace(study, config=study.config.copy_and_resolve_references())
    longer.config.steps = 30
    assert not {run.key for run in planned(longer)} & {run.key for run in runs}
    with pytest.raises(ConfigError, match=r"arm 'low'.*no_such"):
        planned(dataclasses.replace(study, arms={"low": Arm({"rl.no_such": 1})}))


def test_a_key_is_of_the_fields_that_a_study_sets(study):
    config = planned(study)[0].config
    fields = spec.own_fields(config)
    assert fields["model.path"] == "base-0" and fields["eval.sets.heldout.limit"] == 8
    assert "rl.clip_low" not in fields and "eval.sets.heldout.kind" not in fields
    assert not {name for name in fields if name.startswith(("out", "name", "log", "checkpoint", "grader"))}


def test_settings_change_all_arms(study):
    runs = planned(dataclasses.replace(study, settings={"slow": {"optimizer.learning_rate": 1e-5}, "": {}}))
    assert len(runs) == 12
    assert {run.config.optimizer.learning_rate for run in runs if run.setting == "slow"} == {1e-5}
    assert {run.name for run in runs} >= {"low-slow-seed0", "low-seed0"}
    arms = study.arms | {"low": Arm(settings=("slow",))}
    runs = planned(dataclasses.replace(study, settings={"slow": {}, "": {}}, arms=arms))
    assert {(run.arm, run.setting) for run in runs} == {("low", "slow"), ("high", "slow"), ("high", "")}


def test_an_arm_may_have_its_own_config_and_more_evaluation_sets(study):
    other = study.config.copy_and_resolve_references()
    other.rl.clip_low = 0.1
    second = {"eval.sets.second.path": "b.jsonl", "eval.sets.second.limit": 7}
    arms = {"low": Arm(second), "other": Arm({"rl.kl_coef": 0.5}, config=other)}
    low, run = (next(run for run in planned(dataclasses.replace(study, arms=arms)) if run.arm == a) for a in arms)
    assert (run.config.rl.clip_low, run.config.rl.kl_coef, run.config.model.path) == (0.1, 0.5, "base-0")
    assert {*run.config.eval.sets} == {"heldout"} and {*low.config.eval.sets} == {"heldout", "second"}
    assert spec.own_fields(low.config).items() >= second.items() and low.key != run.key


@pytest.mark.parametrize(
    "fields", [{"steps": 30}, {"batch.minibatches_per_step": 2}, {"batch.epochs_per_step": 2}], ids=str
)
def test_arms_of_unequal_updates_are_refused_where_their_steps_are_compared(study, fields):
    unequal = dataclasses.replace(study, arms={"low": Arm(), "more": Arm(fields)})
    assert len(planned(unequal)) == 6
    bars = Bars("eval/heldout/kl", "low", 0.95, 0.9, 0.2, 20, 4, 3.0, 0.03, ())
    assert len(planned(dataclasses.replace(study, bars=bars))) == 6
    with pytest.raises(
        ConfigError, match=r"^study test: arm 'more' makes \d\d updates and arm 'low' 20 .*: give them eq"
    ):
        planned(dataclasses.replace(unequal, bars=bars))
    apart = {"a": {"steps": 10}, "b": {"steps": 30}}  # settings are not compared
    assert len(planned(dataclasses.replace(study, settings=apart, bars=bars))) == 12


def test_rows_of_a_run():
    rows = table.rows_of_run(records(0.8), sequences=64, teacher_responses=800)
    assert [row["step"] for row in rows] == list(range(0, 21, 2))
    assert rows[0]["tokens"] == 8 * 100 * 10 and rows[-1]["tokens"] == 8000 + 20 * 64 * 10
    assert rows[-1]["seconds"] == 20  # evaluations do not count
    assert rows[3]["label/margin"] == 5.5  # the mean of steps 5 and 6
    assert "label/margin" not in rows[0] and rows[-1][COLUMN] == pytest.approx(0.8)
    taught = [record | {"teacher/response_tokens": 5.0} for record in records(0.8)]
    assert table.rows_of_run(taught, 64, 0, teacher_sequences=32)[-1]["tokens"] == 20 * (64 * 10 + 32 * 5)


def test_the_table_keeps_what_it_was_given(tmp_path):
    path = tmp_path / "t" / "table.csv"
    about = {"key": "k", "arm": "a", "setting": "", "commit": "c", "finished": "now"}
    first = [about | {"seed": 0} | row for row in table.rows_of_run(records(0.8), 64, 0)]
    table.add(path, first)
    table.add(path, [row | {"seed": 1, "label/other": 1 / 3} for row in first])
    found = table.read(path)
    assert len(found) == 22 and found[0] == {k: v for k, v in first[0].items() if v != ""}
    assert found[-1]["label/other"] == pytest.approx(1 / 3, rel=1e-5) and "label/other" not in found[0]
    table.add(path, first)  # the same run again takes the place of the first
    assert len(table.read(path)) == 22
    assert table.curves(found, COLUMN)["a", "", 0][-1] == (20, pytest.approx(0.8))


@pytest.mark.parametrize(
    "text", ["arm,seed\na,0\n", "key,arm,setting,seed,commit,finished,step,tokens,seconds\nk,a,,0,c,n,x,1,1\n"]
)
def test_a_damaged_table_is_refused(tmp_path, text):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match="restore it, or delete it"):
        table.read(tmp_path / "table.csv")


def test_a_study_goes_on_from_its_table_alone(study, trained, tmp_path, monkeypatch):
    path, whole = tmp_path / "results" / "test.csv", train_module.train

    def stopped_after_two(config):
        if len(trained) == 2:
            raise TrainingStoppedError("stopped")
        whole(config)

    monkeypatch.setattr(train_module, "train", stopped_after_two)
    with pytest.raises(TrainingStoppedError):
        runner.make_runs(study, path)
    assert [run.name for run in runner.missing(study, path)] == [
        "low-seed2",
        "high-seed0",
        "high-seed1",
        "high-seed2",
    ]
    monkeypatch.setattr(train_module, "train", whole)
    (tmp_path / "runs").rename(tmp_path / "lost")  # another machine: only the table is there
    runner.make_runs(study, path)
    assert trained == ["low-seed0", "low-seed1", "low-seed2", "high-seed0", "high-seed1", "high-seed2"]
    assert report.verdicts(study, runner.rows_of(study, path)) == {"higher": "holds"}
    runner.make_runs(study, path)
    assert len(trained) == 6


def test_the_steps_of_levels_follow_each_other(study, tmp_path, monkeypatch):
    config = study.config.copy_and_resolve_references()
    config.steps, config.out, config.name = 20, str(tmp_path), "climb"
    config.levels = ({"name": "one"}, {"name": "two", "steps": 4})

    def train_levels(config):
        for name, steps in (("one", 20), ("two", 4)):
            (tmp_path / "climb" / name).mkdir(parents=True)
            lines = [json.dumps(record) + "\n" for record in records(0.8, steps)]
            (tmp_path / "climb" / name / "metrics.jsonl").write_text("".join(lines))

    monkeypatch.setattr(levels, "train_levels", train_levels)
    found = runner.records_of(config)
    assert [record["step"] for record in found] == [*range(21), *range(20, 25)]
    rows = table.rows_of_run(found, sequences=64, teacher_responses=0)
    assert [row["step"] for row in rows] == [*range(0, 21, 2), 20, 22, 24]
    assert rows[-1]["tokens"] == 24 * 64 * 10 and rows[-1]["seconds"] == 24
    (curve,) = table.curves([{"arm": "climb", "seed": 0} | row for row in rows], COLUMN).values()
    assert [step for step, _ in curve] == [*range(0, 21, 2), 22, 24] and dict(curve)[20] == 0.4


def test_shards_share_the_runs_out(study, trained, tmp_path):
    path = tmp_path / "test.csv"
    runner.make_runs(study, path, (1, 4))
    assert trained == ["low-seed1", "high-seed2"]
    for i in (0, 2, 3):
        runner.make_runs(study, path, (i, 4))
    assert sorted(trained) == sorted(run.name for run in planned(study)) and not runner.missing(study, path)


def test_rows_of_another_plan_do_not_count(study, trained, tmp_path):
    path = tmp_path / "test.csv"
    runner.make_runs(study, path)
    changed = dataclasses.replace(study, arms=study.arms | {"high": Arm({"rl.kl_coef": 0.6})})
    assert {row["arm"] for row in runner.rows_of(changed, path)} == {"low"}
    assert report.verdicts(changed, runner.rows_of(changed, path)) == {"higher": "undecided"}


def test_needs_are_made_once_and_only_for_runs_that_are_missing(study, trained, tmp_path, monkeypatch):
    jobs = []

    def run(command, **_):
        jobs.append(command[3:])
        pathlib.Path(command[-1]).touch()
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(runner.subprocess, "run", run)
    monkeypatch.setattr(runner, "commit", lambda: "c")
    needing = dataclasses.replace(study, needs=lambda setting, seed: (Need(f"need{seed}", ("make", f"need{seed}")),))
    runner.make_runs(needing, tmp_path / "test.csv")
    assert jobs == [["make", f"need{seed}"] for seed in range(3)]
    (tmp_path / "need0").unlink()
    runner.make_runs(needing, tmp_path / "test.csv")
    assert len(jobs) == 3


def test_a_need_may_be_made_by_a_function(tmp_path):
    made = []

    def make(path):
        time.sleep(0.1)
        made.append(path)
        path.write_text("made")

    need = Need(str(tmp_path / "deep" / "need"), make)
    with ThreadPoolExecutor(3) as threads:  # several processes may need it at the same time
        list(threads.map(runner.provide, [need] * 3))
    assert made == [tmp_path / "deep" / "need"]
    runner.provide(dataclasses.replace(need, job=lambda path: path.write_text("again")))
    assert (tmp_path / "deep" / "need").read_text() == "made"


def test_a_need_that_fails_is_told(tmp_path, capfd):
    with pytest.raises(
        ConfigError, match=r"nothing could not be made: python -m srt_jax no_such_job ended with status 2"
    ):
        runner.provide(Need(str(tmp_path / "nothing"), ("no_such_job",)))


def test_the_report_is_made_from_the_table(study, trained, tmp_path, monkeypatch):
    path = tmp_path / "test.csv"
    monkeypatch.setattr(runner, "cpu_seconds", iter(range(0, 1000, 7)).__next__)
    runner.make_runs(study, path, (0, 2))  # low-seed0, low-seed2, high-seed1
    rows = runner.rows_of(study, path)
    text = report.markdown(study, rows, "the command", "test.png")
    assert "nan" not in text and "| - | - | 0 | > +0.100 | **undecided** |" in text
    assert "A study of nothing." in text and "`the command`; 3 of 6 runs" in text and "**undecided**" in text
    runner.make_runs(study, path)
    rows = runner.rows_of(study, path)
    text = report.markdown(study, rows, "the command", "test.png")
    assert (
        "CPU time of 6 runs: 42 s" in text
        and "6 of 6 runs" in text
        and "| +0.240 | +0.240 to +0.240 | 3 | > +0.100 | **holds** |" in text
    )
    report.draw(study, rows, tmp_path / "test.png")
    assert Image.open(tmp_path / "test.png").size[0] > 500
    report.write_parquet(rows, tmp_path / "deep" / "t.parquet")
    assert parquet.read_table(tmp_path / "deep" / "t.parquet").num_rows == len(rows) == 66


def test_an_untrained_base_does_not_set_the_budget_of_tokens(study, trained, tmp_path, monkeypatch):
    rows = []
    for arm, steps in (("short", 2), ("low", 20), ("high", 20)):
        for setting in ("s", "t"):
            about = {"key": "k", "arm": arm, "setting": setting, "seed": 0, "commit": "c"}
            rows += [about | row for row in table.rows_of_run(records(0.8, steps), 64, 0)]
    text = report.arms_table(study, rows)
    assert "| short | s | 1 | 0.400 | 0.600 | 0.600 |" in text and "| 0 of 1 | - | 1,280 |" in text
    assert "| 0 of 1 | 0.720 | 12,800 |" in text
    assert "short" not in report.survival_table(study, rows) and "low t" in report.survival_table(study, rows)
    report.draw(study, rows, tmp_path / "test.png")
    assert Image.open(tmp_path / "test.png").size[0] > 500


def test_survival_ends_with_the_last_step_of_each_setting(study):
    rows = []
    for setting, end, steps in (("long", 0.2, 20), ("short", 0.8, 10)):
        about = {"key": "k", "arm": "low", "setting": setting, "seed": 0, "commit": "c"}
        rows += [about | row for row in table.rows_of_run(records(end, steps), 64, 0)]
    found = report.survival_table(study, rows).splitlines()
    assert found[0] == "| arm | " + " | ".join(str(step) for step in range(0, 21, 2)) + " |"
    assert found[2] == "| low long |" + " 1.00 |" * 5 + " 0.00 |" * 6  # the mean of the steps 2 to 10 is 0.34
    assert found[3] == "| low short |" + " 1.00 |" * 6 + "  |" * 5


def test_a_set_that_chooses_the_step_has_no_problem_of_the_sets_that_are_judged_or_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (found,) = [run for run in planned(load(REPOSITORY / "studies" / "claims.py", False)) if run.name == CHOSEN]
    for need in found.needs[1:]:
        (tmp_path / need.path).parent.mkdir(parents=True, exist_ok=True)
        need.job(pathlib.Path(need.path))
    problems = [json.loads(line)["problem"] for line in (tmp_path / OTHER).read_text().splitlines()]
    assert found.config.eval.sets.other.path == OTHER and len(set(problems)) == 128
    for lines in bases.problem_files(bases.BASES["attractor"]).values():
        assert not {json.loads(line)["problem"] for line in lines.splitlines()} & set(problems)


FILE = '''"""Two arms."""
from srt_jax.config import base
from srt_jax.study import Arm, Claim, Study

def get_study(quick):
    return Study("two", base(), {"a": Arm()}, range(2), "eval/x/avg@4", claims=(CLAIM,))
'''


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("1 / 0", "fails \\(ZeroDivisionError"),
        ("x = 1", "has no get_study"),
        ("get_study = lambda quick: 3", "returns 3"),
        (FILE.replace("CLAIM", 'Claim("c", "", "b")'), "claim 'c' names the arm 'b'"),
        (FILE.replace("CLAIM", 'Claim("c", "", "a", setting="s")'), "claim 'c' names the setting 's'"),
    ],
)
def test_a_wrong_study_file_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "file.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path, quick=False)


def test_the_command_says_what_is_missing(tmp_path, monkeypatch, capsys):
    path = tmp_path / "file.py"
    path.write_text(FILE.replace("CLAIM,", ""))
    monkeypatch.setattr(sys, "argv", ["study", str(path), "--quick", "--dry_run", f"--results={tmp_path}"])
    with pytest.raises(SystemExit) as done:
        job.main()
    assert done.value.code == 0 and capsys.readouterr().out == "missing: a-seed0\nmissing: a-seed1\n"
    sharded = ["study", str(path), "--quick", "--dry_run", "--shard=1/2", f"--results={tmp_path}"]
    monkeypatch.setattr(sys, "argv", sharded)
    with pytest.raises(SystemExit) as done:
        job.main()
    assert done.value.code == 0 and capsys.readouterr().out == "missing: a-seed1\n"
    monkeypatch.setattr(sys, "argv", ["study", str(path), "--dry_run", "--arms=b", f"--results={tmp_path}"])
    with pytest.raises(SystemExit) as done:
        job.main()
    assert done.value.code == 2 and "has no arm 'b': give some of a." in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["study", str(path), "--shard=3/3"])
    with pytest.raises(SystemExit) as done:
        job.main()
    assert done.value.code == 2 and "'3/3' is no shard" in capsys.readouterr().err


def test_a_step_after_a_return_of_the_guard_is_no_evaluation():
    step = {"step": 7, "rollout/response_tokens": 3.0, "teacher/response_tokens": 2.0, "teacher/step": 5.0}
    assert table.rows_of_run([step], 16, 0, 32) == []
    evaluated = step | {"step": 8, COLUMN: 0.5, "eval/heldout/response_tokens": 3.0}
    assert table.rows_of_run([step, evaluated], 16, 0, 32)[0]["tokens"] == 2 * (16 * 3 + 32 * 2)


def test_only_some_arms_and_settings(study, trained, tmp_path):
    path = tmp_path / "table.csv"
    study = dataclasses.replace(study, settings={"one": {}, "two": {}})
    runner.make_runs(study, path, arms=["high"], settings=["two"])
    assert sorted(trained) == [f"high-two-seed{seed}" for seed in range(3)]
    assert len(runner.missing(study, path)) == 9 and len(runner.missing(study, path, settings=["two"])) == 3
    with pytest.raises(ConfigError, match=r"^study test has no setting 'three': give some of one, two\.$"):
        runner.make_runs(study, path, settings=["three"])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "studies").glob("*.py")), ids=lambda path: path.stem)
@pytest.mark.parametrize("quick", [True, False])
def test_shipped_studies_have_a_plan(path, quick):
    found = load(path, quick)
    runs = planned(found)
    assert found.text and len({run.name for run in runs}) == len(runs) >= len(found.arms)
    for run in runs:
        runner.validate(run.config)
        if not found.claims:
            continue
        assert found.column.endswith(f"avg@{run.config.eval.samples}")
        if all(claim.step is not None for claim in found.claims):  # it compares ways to train at one step
            continue
        assert run.config.rl.kl_coef == 0
        steps = run.config.steps * max(1, len(run.config.levels))
        assert steps // run.config.eval.every >= 5 or steps == 1  # the untrained base


@pytest.mark.slow
def test_a_whole_study_of_real_runs(untrained, tmp_path, monkeypatch):
    config = small_config(untrained, tmp_path, "unused", 2)
    config.eval.every = 1
    study = Study("real", config, {"votes": Arm(), "truth": Arm({"labels.source": "ground_truth"})}, (0,), COLUMN)
    monkeypatch.setattr(spec, "RUNS", tmp_path)
    calls, made, shared = [], [], programs.shared
    monkeypatch.setattr(programs, "_programs", collections.OrderedDict())

    def counted(key, make):
        calls.append(key)
        return shared(key, lambda: made.append(key) or make())

    monkeypatch.setattr(programs, "shared", counted)
    runner.make_runs(study, tmp_path / "real.csv")
    assert len(calls) == 2 * len(made) > 2  # the second run compiles nothing
    rows = runner.rows_of(study, tmp_path / "real.csv")
    assert len(rows) == 6 and {row["arm"] for row in rows} == {"votes", "truth"}
    assert all(0 <= row[COLUMN] <= 1 and row["tokens"] >= 0 for row in rows)
    assert "label/answer_information" in rows[-1] and rows[-1]["tokens"] > 64
