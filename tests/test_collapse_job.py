"""`srt collapse`: dumps of several trainers, the verdict, and rows that cannot be read."""

import collections
import dataclasses
import gzip
import json
import os
import pathlib
import re
import threading

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from srt_jax.config import base
from srt_jax.config.records import as_json
from srt_jax.config.versions import FORMAT
from srt_jax.errors import DataError
from srt_jax.grading.answers import Format
from srt_jax.jobs.collapse import (
    COLUMNS,
    IN_TABLE,
    Dump,
    base_votes,
    describe,
    fields_of,
    graded_steps,
    judge,
    main,
    read_dump,
    rows_of,
    table,
)
from srt_jax.run.collapse import Detector, Reading

STEPS = range(0, 110, 10)
PROMPTS = 12


def right(step):
    """The share of right answers: it rises until step 50, and 30 steps later nearly all answers are 7."""
    return 0.6 + 0.006 * step if step <= 50 else max(0.0, 0.9 - 0.03 * (step - 50))


def rows(step, share, samples, seed=0):
    """(prompt, response, score) of a step."""
    rng = np.random.default_rng((seed, step))
    for i in range(PROMPTS):
        for _ in range(samples):
            answer = 100 + i if rng.random() < share else 7 if step > 50 else int(rng.integers(0, 99))
            yield f"problem {i}", f"so \\boxed{{{answer}}}", float(answer == 100 + i)


def verl(step, prompt, response, score):
    return {"input": prompt, "output": response, "gts": "?", "score": score, "step": step}


def trl(step, prompt, response, score):
    return {
        "step": str(step),
        "prompt": [{"role": "user", "content": prompt}],
        "completion": response,
        "advantage": score,
    }


def own(step, prompt, response, score):
    return {"id": prompt, "problem": prompt, "response": response, "true_reward": score}


def write(folder, form=verl, steps=STEPS, damage=""):
    """The dumps of a run, a file per step, and the rows of its base."""
    folder.mkdir(exist_ok=True)
    for step in steps:
        text = "".join(json.dumps(form(step, *row)) + "\n" for row in rows(step, right(step), 8)) + damage
        if form is own:
            (folder / f"step_{step:06d}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        elif form is trl:
            table = pyarrow.Table.from_pylist(list(map(json.loads, text.splitlines())))
            parquet.write_table(table, folder / f"step_{step:05d}.parquet")
        else:
            (folder / f"step_{step}.jsonl").write_text(text)
    base = "".join(json.dumps(form(0, *row)) + "\n" for row in rows(0, 0.6, 64, seed=1))
    (folder / "base.jsonl").write_text(base)
    return folder


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory, grader):
    """{trainer: the verdict on its dumps}."""
    found = {}
    for form in (verl, trl, own):
        folder = write(tmp_path_factory.mktemp(form.__name__), form)
        dump = read_dump(sorted(folder.glob("step_*")), Format())
        votes = base_votes(read_dump([folder / "base.jsonl"], Format(), 0), grader)
        found[form.__name__] = judge(graded_steps(dump, grader), votes, grader)
    return found


def test_the_same_rollouts_have_the_same_verdict_in_the_form_of_each_trainer(verdicts):
    assert verdicts["verl"] == verdicts["trl"] == verdicts["own"]
    verdict = verdicts["verl"]
    assert verdict.step == 80 and verdict.choice.step == 50
    assert "(column agreement)" in verdict.alarm
    assert "agreement with the base's majority fell from" in verdict.alarm
    assert verdict.note == "12 prompts are in all judged steps, 12 of them in the probe, and the base is sure of 12"


def test_signals_that_are_missing_are_named(tmp_path, grader):
    dump = read_dump(sorted(write(tmp_path).glob("step_*")), Format())
    steps = graded_steps(dump, grader)
    verdict = judge(steps, {}, grader)
    assert "0 of them in the probe, and the base is sure of 0: fewer than 8, so the anchored" in verdict.note
    assert verdict.step == 90 and "answer information fell" in verdict.alarm
    assert "nats (column information)" in verdict.alarm
    apart = {step: {f"{step} {prompt}": g for prompt, g in graded.items()} for step, graded in steps.items()}
    verdict = judge(apart, {}, grader)
    assert verdict.note.startswith("0 prompts are in all judged steps") and verdict.note.endswith("each step decides")
    assert verdict.step is None
    assert describe(verdict).endswith("verdict: undecided. An alarm needs at least 13 steps, and there are 11.")
    longer = {step: apart[min(step, 100)] for step in range(0, 160, 10)}
    verdict = judge(longer, {}, grader)
    assert verdict.step == 120 and "have the same winning answer" in verdict.alarm and verdict.choice.step == 90
    assert "(column top_answer)" in verdict.alarm and set(IN_TABLE.values()) < set(COLUMNS)
    healthy = {step: graded for step, graded in steps.items() if step <= 50}
    assert judge(healthy, {}, grader).step is None and judge(healthy, {}, grader).choice.step == 50
    few = {step: healthy[step] for step in (0, 10, 20)}
    assert describe(judge(few, {}, grader)).endswith("undecided. An alarm needs at least 4 steps, and there are 3.")


def test_a_half_written_dump_is_named(tmp_path, grader):
    steps = graded_steps(read_dump(sorted(write(tmp_path).glob("step_*")), Format()), grader)
    cut = steps | {100: dict(list(steps[100].items())[:9])}
    note = judge(cut, {}, grader).note
    assert note.startswith(
        "9 prompts are in all judged steps (step 100 has 9, others up to 12: leave out an incomplete dump)"
    )
    apart = {s: {f"{s} {p}": g for p, g in graded.items()} for s, graded in cut.items()}  # as in training
    assert judge(apart, {}, grader).note.startswith("0 prompts are in all judged steps, ")


def part(graded, count):
    """The first prompts of a step."""
    return dict(list(graded.items())[:count])


def test_a_step_with_too_few_of_the_usual_prompts_does_not_hide_a_collapse(tmp_path, grader):
    """It is named and not judged; the other steps have the verdict that they have alone."""
    steps = graded_steps(read_dump(sorted(write(tmp_path).glob("step_*")), Format()), grader)
    votes = base_votes(read_dump([tmp_path / "base.jsonl"], Format(), 0), grader)
    whole = judge(steps, votes, grader)
    assert whole.step == 80 and whole.choice.step == 50 and not whole.left_out
    stray = graded_steps(Dump({55: {"zz": ["1"]}}, {}, collections.Counter()), grader)[55]
    for unusual, known in (
        ({55: stray}, steps),
        ({5: stray, 55: stray, 110: stray}, steps),
        ({110: part(steps[100], 3)}, steps),  # a short last dump
        ({100: part(steps[100], 7)}, {s: g for s, g in steps.items() if s != 100}),  # 7 prompts are below FEWEST
        ({-10: part(steps[0], 3)}, steps),  # a short first dump
        ({55: {f"other {p}": g for p, g in steps[50].items()}}, steps),  # the dump of another set
        ({110 + k: part(steps[100], 3) for k in range(20)}, steps),  # most dumps are short
    ):
        verdict = judge(dict(sorted((known | unusual).items())), votes, grader)
        alone = judge(known, votes, grader)
        assert alone.step == 80
        assert (verdict.step, verdict.alarm, verdict.choice) == (alone.step, alone.alarm, alone.choice)
        assert verdict.note == alone.note and verdict.left_out.keys() == unusual.keys()
    assert judge(steps | {100: part(steps[100], 7)}, votes, grader).left_out == {
        100: "7 of the 12 prompts of the other steps"
    }
    many = {s: {f"{k} {p}": g for k in range(2) for p, g in graded.items()} for s, graded in steps.items()}
    assert not judge(many | {100: part(many[100], 12)}, votes, grader).left_out
    assert judge(many | {100: part(many[100], 11)}, votes, grader).left_out.keys() == {100}
    training = {s: {f"{s} {p}": g for p, g in part(graded, 8 if s == 30 else 5).items()} for s, graded in steps.items()}
    assert not judge(training, {}, grader).left_out  # one step that happens to have 8 prompts
    few = {s: part(graded, 5) for s, graded in steps.items()}
    assert not judge(few | {55: stray}, votes, grader).left_out  # too few to compare in any case


def test_steps_of_training_are_judged_without_one_that_has_few_prompts(tmp_path, grader):
    steps = graded_steps(read_dump(sorted(write(tmp_path).glob("step_*")), Format()), grader)
    votes = base_votes(read_dump([tmp_path / "base.jsonl"], Format(), 0), grader)
    apart = {step: {f"{step} {prompt}": g for prompt, g in graded.items()} for step, graded in steps.items()}
    known = {f"{step} {prompt}": vote for step in STEPS for prompt, vote in votes.items()}
    alone = judge(apart, known, grader)
    for stray in ({"zz": steps[0]["problem 0"]}, part(apart[60], 7)):
        verdict = judge(dict(sorted((apart | {55: stray}).items())), known, grader)
        assert verdict == dataclasses.replace(alone, left_out=verdict.left_out) and alone.step == 80
        assert re.search(r"^[07] prompts of which the base is sure, and 8 are needed$", verdict.left_out[55])
    half = {step: graded if step < 60 else part(graded, 7) for step, graded in apart.items()}
    assert judge(half, known, grader).left_out.keys() == set(range(60, 110, 10))
    most = {step: graded if step < 50 else part(graded, 7) for step, graded in apart.items()}
    assert not judge(most, known, grader).left_out and judge(most, known, grader).note.endswith("each step decides")


def test_the_steps_that_are_not_judged_are_named(tmp_path, capsys):
    write(tmp_path)
    arguments = ["--rollouts", f"{tmp_path}/step_*.jsonl", "--out", str(tmp_path / "c.png")]
    arguments += ["--probe", str(tmp_path / "base.jsonl")]
    assert main(arguments) == 0
    expected = capsys.readouterr().out.splitlines()
    with (tmp_path / "step_50.jsonl").open("a") as file:
        file.write(json.dumps({"input": "zz", "output": "\\boxed{1}", "step": 55}) + "\n")
    assert main(arguments) == 0
    printed, messages = capsys.readouterr()
    assert (
        "step 55 has 0 of the 12 prompts of the other steps, so this step is not judged: complete the dump, or"
        in messages
    )
    assert printed.splitlines()[-4:] == expected[-4:] and printed.splitlines()[7].split()[:2] == ["55", "1"]
    for step in (0, 100):
        path = tmp_path / f"step_{step}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:24]))
    assert main(arguments) == 0
    messages = capsys.readouterr().err
    assert (
        "steps 0, 100 have 3 of the 12 prompts of the other steps, so these steps are not judged: complete the dumps"
        in messages
    )


def test_a_probe_with_other_prompts_is_a_warning(tmp_path, capsys):
    """Such as those of another chat template: without the base's votes, only a weaker signal is left."""
    write(tmp_path)
    arguments = ["--rollouts", f"{tmp_path}/*.jsonl", "--out", str(tmp_path / "c.png")]
    base = (tmp_path / "base.jsonl").read_text()
    for kept, count in (
        (0, "none of its 12 prompts are"),
        (1, "1 of its 12 prompts is"),
        (7, "7 of its 12 prompts are"),
    ):
        other = base
        for i in range(kept, PROMPTS):
            other = other.replace(f'"problem {i}"', f'"<user> problem {i}{" and more" * 20}"')
        (tmp_path / "base.jsonl").write_text(other)
        assert main([*arguments, "--probe", str(tmp_path / "base.jsonl")]) == 0
        messages = capsys.readouterr().err
        assert (
            f"--probe: {count} in --rollouts, so the base's votes are of no use. A prompt there is 'problem" in messages
        )
        assert re.search(r"one of the probe is '<user> problem .{20,60}': give rows of the base on the pr", messages)
    for text in (base, base.replace('"problem 0"', '"problem x"')):  # 11 prompts are enough
        (tmp_path / "base.jsonl").write_text(text)
        assert main([*arguments, "--probe", str(tmp_path / "base.jsonl")]) == 0
        assert "of no use" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (("global_step_10_rank0", "global_step_20_rank0", "global_step_10_rank1"), {10: 2, 20: 1}),
        (("10_a", "10_b", "20_a"), {10: 2, 20: 1}),
        (("10_rank0", "20_rank0"), None),
        (("10/rank_0", "20/rank_0"), None),
        (("lr0.1_10", "lr0.2_10"), None),
        (("10/part0", "10/part1"), {0: 1, 1: 1}),
    ],
)
def test_files_of_different_steps_do_not_become_one_step(names, steps, tmp_path):
    """In rows without a step, the name tells it."""
    paths = [tmp_path / f"{name}.jsonl" for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"input": path.stem, "output": "so \\boxed{1}"}) + "\n")
    if steps:
        found = read_dump(paths, Format()).answers
        assert {step: sum(map(len, answers.values())) for step, answers in found.items()} == steps
    else:
        cause = "and their folders differ" if paths[0].name == paths[1].name else "the last number of their names"
        with pytest.raises(DataError, match=rf"^--rollouts: .* would both be step \d+, {cause}: write the step"):
            read_dump(paths, Format())
    for number, path in enumerate(paths):
        path.write_text(json.dumps({"input": "p", "output": "so \\boxed{1}", "step": number}) + "\n")
    assert read_dump(paths, Format()).answers.keys() == set(range(len(paths)))


def test_no_number_is_a_negative_zero():
    assert table([{"step": 1, "prompts": 1, "information": -1e-9}]).splitlines()[1].split()[4] == "0.000"
    detector = Detector()
    for step, value in enumerate((1.0, 0.0, 0.0, 0.0)):
        detector.read(Reading(step, np.zeros(0), np.full(8, value - 1e-9)))
    assert "fell from 1.000 to 0.000 nats" in detector.alarm


def test_a_base_is_not_sure_of_a_prompt_with_few_responses(tmp_path, grader):
    """The majority of one response is that response, with a lead of 1."""
    dump = read_dump(sorted(write(tmp_path).glob("step_*")), Format())
    steps = graded_steps(dump, grader)
    for count, sure in ((1, 0), (7, 0), (8, 12)):
        base = read_dump([tmp_path / "base.jsonl"], Format(), 0)
        few = {prompt: [str(100 + i)] * count for i, prompt in enumerate(base.answers[0])}
        votes = base_votes(Dump({0: few}, {}, collections.Counter()), grader)
        note = judge(steps, votes, grader).note
        assert f"the base is sure of {sure}" in note
        assert ("(12 with fewer than 8 responses, which show nothing)" in note) == (sure == 0)


@pytest.mark.parametrize("copied", [False, True])
def test_a_step_whose_responses_gave_the_votes_is_not_judged(copied, tmp_path, capsys):
    """Its agreement would be that of a majority with itself, so a run that keeps its accuracy would fall."""
    write(tmp_path)
    probe = tmp_path / "step_0.jsonl"
    if copied:
        probe = tmp_path / "copy.jsonl"
        probe.write_bytes((tmp_path / "step_0.jsonl").read_bytes())
    arguments = ["--probe", str(probe), "--out", str(tmp_path / "c.png")]
    assert main(["--rollouts", f"{tmp_path}/step_[012]*.jsonl", *arguments]) == 0
    printed, messages = capsys.readouterr()
    assert "the responses of step 0 are those of --probe, so this step is not judged." in messages
    assert printed.splitlines()[1].split()[0] == "0" and "undecided. An alarm needs at least 4 steps" in printed
    assert main(["--rollouts", f"{tmp_path}/step_0.jsonl", *arguments]) == 2
    assert "has only the responses of --probe: give the dumps of other steps." in capsys.readouterr().err


def test_no_step_of_a_probe_with_several_steps_is_judged(tmp_path, capsys):
    write(tmp_path)
    probe = tmp_path / "probe.jsonl"
    probe.write_bytes(b"".join((tmp_path / f"step_{step}.jsonl").read_bytes() for step in (0, 10)))
    arguments = ["--rollouts", f"{tmp_path}/step_*.jsonl", "--out", str(tmp_path / "c.png")]
    assert main([*arguments, "--probe", str(probe)]) == 0
    messages = capsys.readouterr().err
    assert f"--probe: {probe} has 2 steps, and all of them count as the base." in messages
    assert "the responses of steps 0, 10 are those of --probe, so these steps are not judged." in messages


def test_a_probe_of_greedy_responses_is_refused(tmp_path, capsys):
    """They are one vote, and the base would look sure of every prompt."""
    write(tmp_path)
    probe, refusal = tmp_path / "greedy.jsonl", "all responses to each prompt are the same text"
    arguments = ["--rollouts", f"{tmp_path}/step_*.jsonl", "--out", str(tmp_path / "c.png"), "--probe", str(probe)]
    greedy = [verl(0, f"problem {i}", f"so \\boxed{{{100 + i}}}", 1.0) for i in range(PROMPTS)]
    sampled = verl(0, "problem 0", "thus \\boxed{100}", 1.0)  # the same answer in another text
    for responses, code in ((greedy * 8, 2), (greedy, 0), ([*greedy * 8, sampled], 0)):
        probe.write_text("".join(json.dumps(row) + "\n" for row in responses))
        assert main(arguments) == code
        assert (refusal in capsys.readouterr().err) == (code == 2)


def test_a_probe_may_come_from_a_pipe(tmp_path, capsys):
    """As in --probe <(zcat base.jsonl.gz)."""
    write(tmp_path)
    arguments = ["--rollouts", f"{tmp_path}/step_*.jsonl", "--out", str(tmp_path / "c.png"), "--probe"]
    assert main([*arguments, str(tmp_path / "base.jsonl")]) == 0
    expected, pipe = capsys.readouterr().out, tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes((tmp_path / "base.jsonl").read_bytes()), daemon=True)
    writer.start()
    assert main([*arguments, str(pipe)]) == 0
    assert capsys.readouterr().out == expected
    writer.join()


def test_rows_of_the_probe_are_no_samples_of_a_step(tmp_path, capsys):
    """The pattern may match its file, whose rows have a step of their own."""
    write(tmp_path, steps=range(0, 60, 10))
    arguments = ["--probe", str(tmp_path / "base.jsonl"), "--out", str(tmp_path / "c.png")]
    printed = {}
    for pattern in ("step_*.jsonl", "*.jsonl"):
        assert main(["--rollouts", str(tmp_path / pattern), *arguments]) == 0
        printed[pattern] = capsys.readouterr().out
    assert printed["*.jsonl"] == printed["step_*.jsonl"]
    assert printed["*.jsonl"].splitlines()[1].split()[:3] == ["0", "12", "96"]


def test_dumps_of_training_have_different_prompts_in_each_step(tmp_path, grader):
    """The base's votes on all of them are in the probe."""
    dump = read_dump(sorted(write(tmp_path).glob("step_*")), Format())
    votes = base_votes(read_dump([tmp_path / "base.jsonl"], Format(), 0), grader)
    steps = graded_steps(dump, grader)
    apart = {step: {f"{step} {prompt}": g for prompt, g in graded.items()} for step, graded in steps.items()}
    known = {f"{step} {prompt}": vote for step in STEPS for prompt, vote in votes.items()}
    verdict = judge(apart, known, grader)
    assert verdict.note.startswith("the steps have different prompts, and the base is sure of at least 12 of each")
    assert verdict.choice.step == 50 and verdict.step == 80 and verdict.alarm.endswith("fell since step 50.")
    healthy = {step: graded for step, graded in apart.items() if step <= 50}
    assert judge(healthy, known, grader).step is None and judge(healthy, known, grader).choice.step == 50


@pytest.mark.parametrize(
    ("name", "row", "found"),
    [
        ("step_7.jsonl", {}, (7, None)),
        ("val.step.10.jsonl.gz", {}, (10, None)),
        ("global_step_10_rank0.jsonl", {}, (10, None)),
        ("Step=10-of-400.parquet", {}, (10, None)),
        ("100steps_7.jsonl", {}, (7, None)),
        ("two_step_run_7.jsonl", {}, (7, None)),
        ("lr0.5_step10.jsonl", {"step": 20.0}, (20, None)),  # as pandas writes it
        ("dump.parquet", {"step": 3, "score": 0.5}, (3, 0.5)),
        ("dump.jsonl", {}, "without a step"),
        ("dump.jsonl", {"step": 2.5}, "without a step"),
        ("dump.jsonl", {"step": 10**400}, "without a step"),
        ("dump.jsonl", {"step": "12"}, (12, None)),  # as TRL writes it
        ("dump.jsonl", {"step": " 12 "}, (12, None)),
        ("dump.jsonl", {"step": "last"}, "without a step"),
        ("dump.jsonl", {"step": "9" * 5000}, "without a step"),
        ("dump.jsonl", {"step": True}, "without a step"),
        ("step_7.jsonl", {"score": 10**400}, (7, None)),
        ("step_7.jsonl", {"score": float("nan")}, (7, None)),
    ],
)
def test_steps_and_scores_of_a_row(name, row, found):
    read = fields_of({"input": "p", "output": "r", **row}, pathlib.Path(name))
    assert read == (found if isinstance(found, str) else (found[0], "p", "r", found[1]))


def test_a_sign_in_the_steps_does_not_choose_a_collapsed_step(grader):
    """Half of the prompts share an answer: too little for the answer information, enough for the back-up sign."""
    shared = [f"p{i}" for i in range(9)]
    own = {f"p{i}": [str(100 + i)] * 4 for i in range(16)}
    collapsed = own | {prompt: ["0"] * 4 for prompt in shared}
    dump = Dump({step: (own if step < 12 else collapsed) for step in range(16)}, {}, collections.Counter())
    verdict = judge(graded_steps(dump, grader), {}, grader)
    assert "have the same winning answer" in verdict.alarm and verdict.choice.step < 12


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "<|eot_id|>\n", "</s>", "<eos><pad><pad>", "<pad>" * 5000, "<｜end▁of▁sentence｜>", ""]
)
def test_special_tokens_at_the_end_are_no_part_of_an_answer(end):
    for text in ("#### 5", "the answer is <b>5</b>", "<|im_start|> 5 <|x y|>", "a</s>b", ""):
        assert fields_of({"input": "p", "output": text + end, "step": 1}, pathlib.Path("x"))[2] == text


def test_rollouts_of_a_run_are_read_with_its_answer_format(tmp_path, capsys, monkeypatch):
    config = base()
    config.answer.style, config.answer.pattern = "regex", r"is (\d+)"
    (tmp_path / "config.json").write_text(json.dumps(as_json(config) | {"format": FORMAT}))
    (tmp_path / "rollouts").mkdir()
    rows = [{"step": step, "problem": "2+2", "response": "It is 4."} for step in range(1, 6)]
    (tmp_path / "rollouts/step_1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--rollouts", f"{tmp_path}/rollouts/*.jsonl", "--out", f"{tmp_path}/c.png"]
    assert main(arguments) == 0
    assert "1.000" in capsys.readouterr().out.splitlines()[1].split()[-1]
    monkeypatch.chdir(tmp_path / "rollouts")
    assert main(["--rollouts", "*.jsonl", "--out", "c.png", "--boxes", "last"]) == 0
    assert main([*arguments, "--style", "boxed"]) == 2  # it replaces the format of the run
    (tmp_path / "config.json").write_text("{")
    assert main(arguments) == 2 and "config.json is damaged" in capsys.readouterr().err


DAMAGE = '{"input": "x", "outp\n[1]\n\n{"input": "x"}\n{"output": "y"}\n\xff\n{"input": {"a": 1}, "output": "y"}\n'


def test_the_command_prints_the_signals_and_the_verdict_and_counts_damaged_rows(tmp_path, capfd):
    folder = write(tmp_path, damage=DAMAGE)
    code = main(["--rollouts", f"{folder}/step_*.jsonl", "--probe", f"{folder}/base.jsonl", "--out", f"{folder}/c.png"])
    printed, messages = capfd.readouterr()
    assert code == 0 and (folder / "c.png").read_bytes().startswith(b"\x89PNG")
    lines = printed.splitlines()
    assert lines[0].split()[:4] == ["step", "prompts", "samples", "agreement"] and lines[0].split()[-1] == "score"
    assert [line.split()[0] for line in lines[1:12]] == [str(step) for step in STEPS]
    first = dict(zip(lines[0].split(), lines[1].split()))
    assert first["agreement"] == first["score"]  # here the base's majority is right
    assert "verdict: it collapses, seen at step 80" in printed and "Use the checkpoint of step 50 (the step" in printed
    assert (
        "--rollouts: 66 of 1122 rows are left out: 22 that are no JSON, 11 that are no JSON object, "
        "22 without a prompt, 11 without a response." in messages
    )


ANSWER = json.dumps(verl(1, "p", "so \\boxed{3}", 1.0)) + "\n"


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({}, (), r"--rollouts=.*step_\*\.jsonl matches no file: give the dumps"),
        ({"step_1.jsonl": ANSWER}, ("--rollouts", "none*.jsonl"), r"--rollouts=none\*\.jsonl matches no file"),
        ({"step_1.jsonl": ANSWER}, ("--rollouts", ""), r"--rollouts= matches no file"),
        ({"step_1.jsonl": ANSWER}, ("--rollouts", "."), r"--rollouts=\. is a folder: give its files, e\.g\. '\./\*"),
        ({"step_1.jsonl": ANSWER}, ("--probe", "none.jsonl"), r"--probe=none\.jsonl is no file: name the file with"),
        ({"step_1.jsonl": ANSWER}, ("--probe", ""), r"--probe= is no file"),
        ({"step_1.jsonl": ANSWER}, ("--probe", "."), r"--probe=\. is no file"),
        ({"step_1.jsonl": ANSWER, "b.jsonl": ""}, ("--probe", "b.jsonl"), r"--probe: b\.jsonl has no response that"),
        ({"step_1.jsonl": ANSWER}, ("--style", "box"), r"--style is 'box'; use one of boxed"),
        ({"step_1.jsonl": ANSWER}, ("--style", "regex"), r"--pattern is '' with 0 groups; put one group around"),
        ({"step_1.jsonl": ANSWER}, ("--style", "json", "--field", ""), r"--field is empty; style json needs"),
        (
            {"step_1.jsonl": ANSWER},
            ("--style", "hash"),
            r"no response with an answer in the style 'hash': set --style to that of the responses\.$",
        ),
        (
            {"step_1.jsonl": ANSWER, "b.jsonl": ANSWER.replace("boxed", "")},
            ("--probe", "b.jsonl"),
            r"--probe: b\.jsonl has no response with an answer .*: set --style to .*, or leave --probe out\.$",
        ),
        ({"step_1.jsonl": ""}, (), r"step_1\.jsonl has no response that can be used \(they are empty\): give JSON l"),
        ({"step_1.jsonl": "[" + ANSWER.strip() + "]"}, (), r"\(1 that are no JSON object\): give JSON lines"),
        (
            {"step_1.jsonl": "{\n", "step_2.jsonl": "3\n"},
            (),
            r"and the other files have no response that can be used \(1 that are no JSON, 1",
        ),
        (
            {"step_.jsonl": ANSWER.replace('"step": 1', '"step": null')},
            (),
            r"\(1 without a step\): .* and a step \(in `step`, or in the file's name, as in step_10\.jsonl\)",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_sentence(files, arguments, message, tmp_path, monkeypatch, capsys):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["--rollouts", f"{tmp_path}/step_*.jsonl", "--out", f"{tmp_path}/c.png", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and error.endswith(".") and re.search(message, error), error
    assert not (tmp_path / "c.png").exists()


def test_other_columns_of_a_parquet_file_are_not_read(tmp_path):
    """They may have values that Python has not."""
    path = tmp_path / "completions_00007.parquet"
    odd = {"day": pyarrow.array([10**7], pyarrow.date32()), "time": pyarrow.array([1], pyarrow.timestamp("ns"))}
    text = {name: pyarrow.array(["x"]) for name in ("prompt", "completion")}
    parquet.write_table(pyarrow.table({**odd, **text}), path)
    assert [fields_of(row, path) for row in rows_of(path)] == [(7, "x", "x", None)]
    for column, missing in (({}, "prompt"), ({"completion": ["x"]}, "prompt"), ({"input": ["x"]}, "response")):
        parquet.write_table(pyarrow.table(odd | column), path)
        assert list(rows_of(path)) == [f"in a Parquet file without a column for the {missing}"]
    wrong = pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"prompt": wrong, "completion": wrong}), path)
    assert list(rows_of(path)) == ["in a damaged Parquet file"]
    parquet.write_table(pyarrow.table({"prompt": pyarrow.array([None, "x"]), "completion": ["x", None]}), path)
    assert [fields_of(row, path) for row in rows_of(path)] == ["without a prompt", "without a response"]


def test_hostile_files_cost_bounded_memory_and_raise_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("srt_jax.jobs.collapse.LONGEST_LINE", 100)
    path = tmp_path / "1.jsonl"
    path.write_text('{"a": 1}\n' + "x" * 950 + "\n" + "[" * 90 + '\n{"b": 2}')
    found = list(rows_of(path))
    assert found == [{"a": 1}, "with a line that is too long", "that are no JSON", {"b": 2}]
    cut = tmp_path / "2.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps({"a": list(range(999))}).encode() + b"\n")[:-20])
    assert list(rows_of(cut))[-1] == "in a damaged end of a compressed file"
    plain = tmp_path / "4.jsonl.gz"
    plain.write_text("{}")
    assert list(rows_of(plain)) == ["in a damaged end of a compressed file"]
    damaged = tmp_path / "3.parquet"
    damaged.write_bytes(b"PAR1 no")
    assert list(rows_of(damaged)) == ["in a damaged Parquet file"]


def test_fields_of_rows(tmp_path):
    path = tmp_path / "run7_step_000012.jsonl.gz"
    assert fields_of({"problem": "p", "response": "r", "score": float("nan")}, path) == (12, "p", "r", None)
    assert fields_of({"input": "p", "output": "r", "step": 3, "score": True}, path) == (3, "p", "r", 1.0)
    long = fields_of({"prompt": "p", "completion": "x" * (1 << 20) + "end"}, path)
    assert long[2].endswith("end") and len(long[2]) == 1 << 18
    assert fields_of({"prompt": [{"role": "user"}], "completion": "r"}, path) == "without a prompt"
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "p"}]}]
    assert fields_of({"prompt": parts, "completion": "r"}, path) == (12, "p", "r", None)
    only_image = [{"role": "user", "content": [{"type": "image"}]}]
    assert fields_of({"prompt": only_image, "completion": "r"}, path) == "without a prompt"
    for content in ([{"type": "image"}], None):
        beside = [{"role": "user", "content": content}, {"role": "user", "content": "p"}]
        assert fields_of({"prompt": beside, "completion": "r"}, path) == (12, "p", "r", None)
    assert isinstance(read_dump([write(tmp_path / "a", steps=[0]) / "step_0.jsonl"], Format()), Dump)
