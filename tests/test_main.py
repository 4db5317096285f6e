"""The command line: wrong input is one sentence and exit status 2, before anything is computed."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from ml_collections import ConfigDict

from srt_jax import config as config_module
from srt_jax.config import base, describe, differing_fields, fingerprint_fields, source
from srt_jax.config.resolve import resolve
from srt_jax.config.validation import validate, validate_devices
from srt_jax.errors import ConfigError, DataError, ModelError
from srt_jax.model.config import similar_folder
from srt_jax.run.dry_run import check
from srt_jax.run.prepare import prepare
from tests.helpers import REPOSITORY, fast_cases, small_config


def run(*arguments, job="train"):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "srt_jax", job, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


QUICKSTART = "--config=configs/quickstart.py"


WRONG = {  # arguments: a part of the message
    "": "no --config given",
    "--config=configs/nothing.py": "neither a config file nor the name of a shipped config",
    f"{QUICKSTART} --config.batch.samples=3": "there is no config field 'batch.samples'",
    f"{QUICKSTART} --config.batch.prompt_per_step=3": "'batch.prompt_per_step': did you mean batch.prompts_per_step?",
    f"{QUICKSTART} --config.eval.sets.mine.path=x": "there is no evaluation set for 'eval.sets.mine.path': a ",
    f"{QUICKSTART} --confg.name=x": "there is no flag --confg.name: did you mean --config.name?",
    "--config=examples/real_model/real_config.py:vote": "there are no labels 'vote': give votes, guard or",
    f"{QUICKSTART} --config.steps=many": "--config.steps=many",
    f"{QUICKSTART} --config.steps.x=1": "there is no config field 'steps.x'",
    f"{QUICKSTART} --config.batch.samples_per_prompt=1": "batch.samples_per_prompt is 1: rloo",
    f"{QUICKSTART} --config.batch.microbatch_sequences=100": "does not divide the 512 sequences",
    f"{QUICKSTART} --config.mesh.fsdp=3": "does not equal the 2 devices",
    f"{QUICKSTART} --config.model.path=./nothing": "model.path './nothing' does not exist",
    f"stray {QUICKSTART}": "unexpected argument 'stray'",
}


@pytest.mark.parametrize("arguments", fast_cases(WRONG, *[*WRONG][:3], [*WRONG][-2]))
def test_wrong_commands(arguments):
    done, message = run(*arguments.split()), WRONG[arguments]
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.startswith("error: ")
    assert done.stderr.strip().count("\n") == 0, done.stderr


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("config.eval.sets.checked = 1", "{file}:6 adds the evaluation set 'checked': write `with config.eval"),
        (
            "config.step = 1",
            "{file}:6 sets a field that does not exist: there is no config field 'step': did you mean s",
        ),
        (
            "{'votes': 1}[labels]",
            "the config file fails at {file}:6 (KeyError: 'vote'): correct it, or correct the arg",
        ),
    ],
)
def test_a_mistake_in_a_config_file_names_its_line(tmp_path, body, message):
    text = "from srt_jax.config import base\n\n\ndef get_config(labels):\n    config = base()\n"
    file = tmp_path / "wrong.py"
    file.write_text(f"{text}    {body}\n    return config\n")
    done = run(f"--config={file}:vote", "--config.steps=10")  # the flag is right
    assert done.returncode == 2 and done.stderr.startswith("error: " + message.replace("{file}", str(file))), (
        done.stderr
    )


def test_a_model_folder_that_is_misspelled_is_named(tmp_path):
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "smollm3").touch()  # no folder
    assert similar_folder(str(tmp_path / "smolm2")) == str(tmp_path / "smollm2")
    assert similar_folder(str(tmp_path / "qwen")) is None and similar_folder(str(tmp_path / "x/smollm2")) is None


@pytest.mark.parametrize(("status", "shown"), [("1", "1"), ("0", "0"), ("'no GPU here'", "'no GPU here'")])
def test_a_config_file_that_ends_the_program_is_wrong_input(tmp_path, status, shown):
    (tmp_path / "ends.py").write_text(f"import sys\n\n\ndef get_config():\n    sys.exit({status})\n")
    done = run(f"--config={tmp_path}/ends.py")
    assert done.returncode == 2
    assert done.stderr == f"error: the config file ends the program ({shown}): let it return a config.\n"


def test_dry_run_prints_the_arithmetic_and_runs_nothing(miniature, tmp_path):
    started = time.monotonic()
    done = run(QUICKSTART, f"--config.out={tmp_path}", "--dry_run")
    assert time.monotonic() - started < 60  # 3 s on two free cores
    assert done.returncode == 0, done.stderr
    assert "  16 prompts x 32 samples = 512 sequences\n  1 update\n  8 micro-batches of 64 on 2" in done.stdout
    assert re.search(r"^  optimizer\.learning_rate +0\.0002  \(1e-06\)$", done.stdout, re.MULTILINE)
    assert "weight_decay" not in done.stdout  # it does not differ from base()
    assert "128 with an answer" in done.stdout and "248,192 parameters" in done.stdout
    assert f"A run writes all fields of its config to {tmp_path}/srt/config.json." in done.stdout
    assert "\nnot checked:" not in done.stdout and "\nnot checked by any dry run:\n  compilation" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_hub_model_says_what_it_did_not_check(miniature, tmp_path):
    arguments = [QUICKSTART, "--dry_run", f"--config.out={tmp_path}", f"--config.data.path={miniature}/train.jsonl"]
    done = run(*arguments, "--config.model.path=Qwen/Qwen2.5-Math-7B")
    assert done.returncode == 0, done.stderr
    assert "7,615,616,512 parameters" in done.stdout and "train.jsonl: 2048 problems" in done.stdout
    unchecked = done.stdout.partition("\nnot checked:\n")[2]
    assert "weights, tokenizer and prompt lengths of model.path: Qwen/Qwen2.5-Math-7B is not on this" in unchecked
    assert "labels and label files, overlap of training and evaluation data\n" in unchecked
    unknown = run(*arguments, "--config.model.path=nobody/nothing")
    assert unknown.returncode == 0 and ", shape and memory of model.path: nobody/nothing is not on" in unknown.stdout
    long = run(
        *arguments,
        "--config.model.path=Qwen/Qwen2.5-Math-7B",
        "--config.batch.max_response_tokens=8192",
        "--config.batch.length_buckets=(9000,)",
    )
    assert long.returncode == 2 and "has positions for 4096" in long.stderr


def test_a_dry_run_names_the_sets_that_are_not_here_and_checks_the_rest(miniature, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SRT_JAX_DATA", str(tmp_path))
    config = small_config(miniature, tmp_path, "run", 1)
    with config.eval.unlocked():
        config.eval.sets.aime24 = source(kind="set", name="aime24")
    report = check(config)
    assert any(re.match(r"data: .*: all 64 prompts fit", line) for line in report.checked)
    assert any(line.startswith("eval.sets.heldout: ") for line in report.checked)
    missing, rest = report.unchecked
    assert re.match(r"eval\.sets\.aime24: .*aime24.* is not on this machine", missing)
    assert rest == "labels and label files, overlap of training and evaluation data"
    config.model.path = str(tmp_path / "model")  # the same, with a tokenizer that does not read
    shutil.copytree(miniature, config.model.path)
    (tmp_path / "model/tokenizer.json").write_text("{")
    with pytest.raises((DataError, ModelError), match="tokenizer"):
        check(config)


@pytest.mark.slow
def test_a_dry_run_of_hard_generated_levels_is_quick():
    """The problems of the last two levels take minutes to make; that they are not all made is said."""
    started = time.monotonic()
    done = run("--config=configs/climb.py", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 100  # 12 s on two free cores
    assert "level qwen3_4b-knights_knaves/level_9" in done.stdout
    assert re.search(r"not checked:\n(  .*\n)*  data: \d+ of 2000 problems, which take long to make", done.stdout)
    assert "LEVEL/config.json" in done.stdout


def test_a_dry_run_says_what_followed_the_hardware(miniature, tmp_path):
    done = run(
        QUICKSTART, "--dry_run", f"--config.out={tmp_path}", "--config.model.dtype=auto", "--config.mesh.fsdp=-1"
    )
    assert done.returncode == 0, done.stderr
    decided = "  model.dtype: auto -> float32 on 2 CPU devices\n  mesh.fsdp: -1 -> 2 on 2 CPU devices\n"
    assert f"decided by this machine:\n{decided}" in done.stdout
    assert "micro-batches of 64" in done.stdout  # as the config says


def test_a_tilde_is_the_home_directory_in_fields_and_flags(miniature, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(miniature.parent))
    done = run(
        QUICKSTART,
        "--config.model.path=~/miniature",
        "--config.data.path=~/miniature/train.jsonl",
        f"--config.out={tmp_path}",
        "--dry_run",
    )
    assert done.returncode == 0, done.stderr
    assert f"model: {miniature} (" in done.stdout and f"data: {miniature}/train.jsonl" in done.stdout
    done = run("--model=~/nothing", "--data=~/miniature/heldout.jsonl", job="evaluate")
    assert done.returncode == 2 and f"'{miniature.parent}/nothing' does not exist" in done.stderr


def test_help_names_the_flags():
    done = run("--help")
    assert done.returncode == 0
    assert "--config" in done.stdout and "--[no]dry_run" in done.stdout and "--config.batch" in done.stdout


@pytest.mark.parametrize(
    "job, paths",
    [("evaluate", ("model", "data", "out")), ("label", ("out",)), ("subset", ("labels", "out")), ("replay", ("run",))],
)
def test_help_of_a_job_names_the_flags_that_are_paths(job, paths):
    done = run("--help", job=job)
    flags = [line.split(":")[0].strip() for line in done.stdout.splitlines()]
    assert {f"--{path}" for path in paths} < set(flags), done.stdout[-1000:]


def test_evaluate_scores_a_model_directory_and_writes_the_responses(miniature, tmp_path):
    data = tmp_path / "four.jsonl"
    data.write_text("".join(line + "\n" for line in (miniature / "heldout.jsonl").read_text().splitlines()[:4]))
    done = run(
        f"--model={miniature}",
        f"--data={data}",
        QUICKSTART,
        "--config.eval.samples=4",
        f"--out={tmp_path / 'responses.jsonl'}",
        job="evaluate",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])["sets"]["four"]
    rows = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert result["avg@4"] == pytest.approx(sum(r["true_reward"] for r in rows) / 16)
    assert run(f"--model={tmp_path / 'nothing'}", f"--data={data}", job="evaluate").returncode == 2


# ---- the same checks as functions


def test_the_base_config_is_locked_and_valid_but_for_its_two_blanks():
    config = base()
    with pytest.raises(AttributeError, match="learning_rate"):
        config.learning_rate = 1.0
    with pytest.raises(ConfigError, match="name is empty"):
        validate(config)
    config.name, config.model.path = "x", "y"
    validate(config)
    config, _ = resolve(config, "gpu", 8)
    assert describe(config, 8).startswith(
        "16 prompts x 32 samples = 512 sequences; 1 update; 16 micro-batches of 32 on 8 devices"
    )
    config.batch.votes_per_prompt = 64
    assert describe(config, 8).startswith("16 prompts x 32 of 64 samples = 512 sequences")
    assert describe(config, 8).endswith("16000 prompts, 1024000 rollouts")
    config.batch.length_buckets, config.batch.packing = (4096,), True
    validate(config)
    assert "; at most 16 micro-batches of 32 on 8 devices;" in describe(config, 8)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.dtype", "float16", "model.dtype is 'float16': choose one of 'auto', 'float32', 'bfloat16'"),
        ("labels.source", "votes", "labels.source is 'votes'"),
        ("labels.threshold", 1.5, "labels.threshold is 1.5"),
        ("rl.kl_coef", -0.1, "rl.kl_coef is -0.1"),
        ("rollout.temperature", 0.0, "rollout.temperature is 0.0: it must be positive"),
        ("batch.length_buckets", (1024,), "batch.length_buckets ends at 1024"),
        ("batch.length_buckets", (4096, 1024), "give increasing positive lengths"),
        (
            "batch.packing",
            True,
            "batch.packing is True, which .* batch.length_buckets is (512, 1024.*: set it to (4096,",
        ),
        ("rollout.prompt_buckets", (512,), "add a bucket of at least 1024"),
        ("batch.minibatches_per_step", 3, "batch.minibatches_per_step is 3: a mini-batch has whole prompts"),
        ("eval.top_p", 0.0, "eval.top_p is 0.0"),
        ("rl.temperature", 0.7, "rl.temperature is 0.7, but with rollout.old_logprobs 'sampler'"),
        ("rollout.vllm.dtype", "half", "rollout.vllm.dtype is 'half': choose one of"),
        ("log.shown", 0, "log.shown is 0: it must be at least 1"),
        ("optimizer.final_fraction", 0.1, "optimizer.final_fraction is 0.1, but a constant schedule ignores it"),
        ("optimizer.final_fraction", 1.5, r"optimizer.final_fraction is 1.5: a share lies in \[0, 1"),
        ("optimizer.schedule_steps", 9, "optimizer.schedule_steps is 9, but a constant schedule ignores it"),
        (
            "optimizer.learning_rate",
            5.0,
            "optimizer.learning_rate is 5.0: an update moves each weight by about this much",
        ),
        ("optimizer.b2", 1.5, r"optimizer.b2 is 1.5: it lies in \[0, 1"),
        ("rl.dual_clip", 0.9, "rl.dual_clip is 0.9: it limits ratios above 1, so give more than 1"),
        ("rl.dual_clip", -3.0, "rl.dual_clip is -3.0: it must not be negative"),
        (
            "rl.loss_scale",
            3072.0,
            "rl.loss_scale is 3072.0, but rl.loss_aggregation 'token-mean' divides by no constant",
        ),
        ("rl.clip_low", 0.0, "rl.clip_low is 0.0: it must be positive"),
        (
            "rl.advantage",
            "reinforce_pp",
            "batch.resample_rounds is 3, but rl.advantage 'reinforce_pp' also learns",
        ),
        ("labels.unlabelled", "penalty", "labels.penalty is 0.0 and labels.unlabelled 'penalty': give a positive"),
        ("labels.penalty", 0.2, "labels.penalty is 0.2 and labels.unlabelled 'discard': give a positive"),
        ("steps", 0, "steps is 0: it must be at least 1"),
    ],
)
def test_validate_names_field_value_and_remedy(field, value, message):
    config = base()
    config.name, config.model.path = "x", "y"
    config.rollout.old_logprobs, config.batch.resample_rounds = "sampler", 3
    validate(config)
    section, _, leaf = field.rpartition(".")
    with (config[section] if section else config).unlocked() as part:
        part[leaf] = value
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        validate(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"labels.source": "file", "labels.path": "x"},
            "with labels.source 'file' a missing label does not mean a low",
        ),
        (
            {"batch.resample_rounds": 3},
            "batch.resample_rounds is 3, but labels.unlabelled 'penalty' learns from prompts",
        ),
        ({"reward.shape": "self_certainty"}, "rewards from the confidence need no label, so no prompt would be"),
    ],
)
def test_a_penalty_without_a_label_needs_votes(fields, message):
    config = base()
    config.name, config.model.path = "x", "y"
    config.labels.unlabelled, config.labels.penalty = "penalty", 0.1
    validate(config)
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=message):
        validate(config)


def vllm_base(*servers):
    config = base()
    config.name, config.model.path, config.rollout.sampler, config.rollout.servers = "x", "y", "vllm", servers
    return config


def test_addresses_of_servers_are_checked_before_anything_is_loaded():
    validate(vllm_base("http://127.0.0.1:8000", "https://localhost/", "http://[::1]:80"))
    for url in ("127.0.0.1:8000", "http://host:8000x", "http://host:99999", "http://", "ftp://host", "http://a/v1", ""):
        with pytest.raises(ConfigError, match=r"rollout\.servers has .*: give addresses like 'http://127.0.0.1:8000'"):
            validate(vllm_base(url))
    with pytest.raises(ConfigError, match="has an address twice: name each server once"):
        validate(vllm_base("http://127.0.0.1:1", "http://127.0.0.1:1/"))
    config = vllm_base()
    config.rollout.prompt_buckets = (1,)  # the jax sampler's, which does not sample
    validate(config)


def test_servers_on_other_hosts_need_permission_because_everybody_could_load_weights_into_them():
    for url in ("http://node-2:8000", "http://10.0.0.2:8000", "http://[2001:db8::1]:80"):
        with pytest.raises(ConfigError, match=r"guards only the endpoints below /v1.*tunnel.*rollout\.allow_unauthent"):
            validate(vllm_base("http://127.0.0.1:8000", url))
        config = vllm_base(url)
        config.rollout.allow_unauthenticated = True
        validate(config)


def test_each_server_has_the_gpus_of_its_copies_and_parts():
    config = vllm_base()
    v = config.rollout.vllm
    v.num_servers, v.tensor_parallel, v.data_parallel, v.gpus = 2, 2, 1, (4, 5, 6, 7)
    validate(config)
    v.data_parallel = 2
    with pytest.raises(ConfigError, match=r"give the 8 GPUs of rollout.vllm.num_servers=2 x tensor_parallel=2 x data"):
        validate(config)


def test_a_run_may_go_on_at_other_servers_and_another_limit_but_not_in_another_dtype():
    before, config = fingerprint_fields(vllm_base()), vllm_base("http://host:1")
    config.rollout.max_logprob_gap, config.rollout.vllm.max_restarts = 0.2, 7
    assert fingerprint_fields(config) == before
    config.rollout.vllm.dtype = "float32"
    assert differing_fields(before, fingerprint_fields(config)) == ["rollout.vllm.dtype ('' there, 'float32' here)"]


def test_template_variables_are_part_of_a_run_s_identity():
    there, here = base(), base()
    with here.prompts.unlocked():
        here.prompts.chat_template_kwargs = ConfigDict({"enable_thinking": False})
    assert differing_fields(fingerprint_fields(there), fingerprint_fields(here)) == [
        "prompts.chat_template_kwargs.enable_thinking (None there, False here)"
    ]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("style", "boxed,nowhere", r"^answer\.style is 'boxed,nowhere': use one of boxed, hash, "),
        ("boxes", "first", r"^answer\.boxes is 'first': choose one of 'statement', 'last'\.$"),
        ("pattern", "(a)(b)", r"^answer\.pattern is '\(a\)\(b\)' with 2 groups"),
    ],
)
def test_how_answers_are_shown_is_checked(field, value, says):
    config = base()
    config.name, config.model.path, config.data.path = "x", "y", "z"
    config.answer.style = "regex" if field == "pattern" else "boxed"
    config.answer[field] = value
    with pytest.raises(ConfigError, match=says):
        validate(config)


def test_the_batch_must_fit_the_mesh():
    config = base()
    config.mesh.fsdp, config.mesh.tensor = 2, 2
    validate_devices(config, 8)
    with pytest.raises(ConfigError, match="does not equal the 6 devices"):
        validate_devices(config, 6)
    config.batch.microbatch_sequences = 2
    with pytest.raises(ConfigError, match="the 4 data x fsdp shards do not divide"):
        validate_devices(config, 8)


def test_a_file_that_would_not_be_read_is_refused():
    config = base()
    config.name, config.model.path, config.data.kind, config.data.name = "x", "y", "set", "dapo"
    validate(config)
    config.data.path = "own.jsonl"
    with pytest.raises(ConfigError, match=r"data\.path is 'own\.jsonl', but data\.kind is 'set'.*'jsonl' or 'parquet'"):
        validate(config)
    config.data.kind, config.data.path, config.data.levels = "gym", "", ("4",)
    with pytest.raises(ConfigError, match=r"data\.levels is \('4',\), but tasks of Reasoning Gym have none"):
        validate(config)


def copied(miniature, tmp_path):
    shutil.copytree(miniature, tmp_path / "model")
    return small_config(tmp_path / "model", tmp_path, name="x", steps=1)


def test_every_prompt_too_long(miniature, tmp_path):
    config = copied(miniature, tmp_path)
    config.batch.max_prompt_tokens = 2
    with pytest.raises(DataError, match="all 64 prompts are longer than max_prompt_tokens 2"):
        prepare(config)


def test_a_tokenizer_larger_than_the_embedding(miniature, tmp_path):
    config = copied(miniature, tmp_path)
    file = tmp_path / "model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["~"] = 500
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="ids up to 500, but the embedding only"):
        prepare(config)


def test_sequences_longer_than_the_model_s_positions(miniature, tmp_path):
    config = copied(miniature, tmp_path)
    config.batch.max_response_tokens = 503
    with pytest.raises(ConfigError, match=r"max_response_tokens is 513, but .* has positions for 512"):
        prepare(config)


@pytest.mark.parametrize("file", ["heldout.jsonl", "tokenizer.json"])
def test_an_evaluation_set_or_tokenizer_that_changed_is_another_run(miniature, tmp_path, file):
    config = copied(miniature, tmp_path)
    config.eval.sets.heldout.limit = 0
    before = prepare(config).identity
    path = tmp_path / "model" / file
    if file == "heldout.jsonl":
        path.write_text(path.read_text() + json.dumps({"problem": "1+1+1", "answer": "3"}) + "\n")
    else:
        tokenizer = json.loads(path.read_text())
        vocab = tokenizer["model"]["vocab"]
        vocab["1"], vocab["2"] = vocab["2"], vocab["1"]
        path.write_text(json.dumps(tokenizer))
    after = prepare(config).identity
    assert [name for name in before if before[name] != after[name]] == ["prompts"]


def test_other_stop_tokens_make_another_run(miniature, tmp_path):
    config = copied(miniature, tmp_path)
    before = prepare(config).identity
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1, 2]}))
    after = prepare(config).identity
    assert [name for name in before if before[name] != after[name]] == ["model"]


def test_ground_truth_without_answers(miniature, tmp_path):
    config = copied(miniature, tmp_path)
    config.labels.source, config.data.answer_column = "ground_truth", "solution"
    with pytest.raises(DataError, match=r"no problem has an answer: set data\.answer_column"):
        prepare(config)


def test_differing_fields_are_named_with_both_values():
    there, here = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}
    assert differing_fields(there, here) == ["a.c (2 there, 3 here)", "d (None there, 4 here)"]
    assert config_module.fingerprint_fields(base()) == config_module.fingerprint_fields(
        ConfigDict({**base(), "steps": 5, "name": "other"})
    )


def test_a_run_may_be_made_longer_where_its_learning_rate_does_not_depend_on_its_length():
    config = base()
    for schedule_steps, alike in ((0, False), (2000, True)):
        config.optimizer.schedule, config.optimizer.schedule_steps = "cosine", schedule_steps
        longer = config.copy_and_resolve_references()
        longer.steps = 1500
        assert (config_module.fingerprint_fields(longer) == config_module.fingerprint_fields(config)) is alike
