import re
import subprocess
import sys

import ml_collections
import pytest

from srt_jax.data import prompts
from srt_jax.data.base import Problem
from srt_jax.data.problems import load
from srt_jax.data.prompts import Prompts, Report, encode, load_tokenizer, render
from srt_jax.errors import DataError

BOX = "Put the answer in \\boxed{}."
CHAT = {"template": "chat", "plain_template": "", "instruction": BOX, "system": None}
PLAIN = {"template": "plain", "plain_template": "Q: {problem}\n{instruction}\n", "instruction": BOX, "system": None}


def problems(*texts):
    return [Problem(f"id{index}", text, None, "test") for index, text in enumerate(texts)]


def decoded(tokenizer, ids):
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_chat_prompt(make_tokenizer):
    expected = f"<s><|im_start|>user\n1 + 1? {BOX}<|im_end|>\n<|im_start|>assistant\n"
    assert render("1 + 1?", make_tokenizer(), CHAT) == expected
    assert render("1 + 1?", make_tokenizer(), ml_collections.ConfigDict(CHAT)) == expected
    assert render("1 + 1?", make_tokenizer(), {**CHAT, "instruction": ""}) == expected.replace(f" {BOX}", "")


def test_system_message_only_when_configured(make_tokenizer):
    text = render("p", make_tokenizer(), {**CHAT, "system": "Be brief."})
    assert text.startswith("<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert render("p", make_tokenizer(), {**CHAT, "system": ""}) == render("p", make_tokenizer(), CHAT)


def test_a_template_that_prints_the_date_gets_a_fixed_one(make_tokenizer):
    template = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    tokenizer = make_tokenizer(chat_template=template + "{{ date_string }}: {{ messages[0]['content'] }}")
    assert render("p", tokenizer, {**CHAT, "instruction": ""}) == "26 Jul 2024: p"


THINKING = (
    "{% set ns = namespace(last=0) %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<no think>{% endif %}"
    "{%- generation -%}{{ messages[0]['content'] }}{% endgeneration %}{{ tag | default('') }}"
)


def test_chat_template_kwargs_reach_the_template(make_tokenizer):
    tokenizer, chat = make_tokenizer(chat_template=THINKING), {"template": "chat", "instruction": ""}
    for variables, text in (
        ({}, "p"),
        ({"enable_thinking": False}, "<no think>p"),
        ({"enable_thinking": True}, "p"),
        ({"enable_thinking": False, "tag": "!"}, "<no think>p!"),
    ):
        prompts = {**chat, "chat_template_kwargs": variables}
        assert render("p", tokenizer, prompts) == text
        assert render("p", tokenizer, ml_collections.ConfigDict(prompts)) == text
        _, [ids], _ = encode(problems("p"), tokenizer, ml_collections.ConfigDict(prompts), 100)
        assert decoded(tokenizer, ids) == text
    dated = make_tokenizer(chat_template="{{ date_string }}")
    assert render("p", dated, {**chat, "chat_template_kwargs": {"date_string": "today"}}) == "today"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("enable_thinkng", "which the tokenizer's chat template does not use; .* (enable_thinking, tag)"),
        ("ns", "does not use"),
        ("messages", "which the prompts set themselves"),
        ("tokenize", "set themselves"),
        ("add_generation_prompt", "set themselves"),
        ("chat_template", "set themselves"),
    ],
)
def test_a_template_variable_that_would_change_nothing_is_told(name, message, make_tokenizer):
    prompts = {"template": "chat", "chat_template_kwargs": {name: False}}
    with pytest.raises(DataError, match=message.replace("(", r"\(").replace(")", r"\)")):
        encode(problems("p"), make_tokenizer(chat_template=THINKING), prompts, 100)
    with pytest.raises(DataError, match=r"chat_template_kwargs is .* but prompts.template is 'plain'"):
        Prompts.of({**prompts, "template": "plain"})


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system role') }}", "TemplateError: no system role"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ messages[5].content + 'x' }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        ({"tool_use": "x"}, "ValueError"),
    ],
)
def test_a_template_that_fails_is_told(template, reason, make_tokenizer):
    for extra in ({}, {"chat_template_kwargs": {"x": 1}}, {"system": "s"}):
        if reason in ("TemplateSyntaxError", "ValueError") or "chat_template_kwargs" not in extra:
            with pytest.raises(DataError, match=f"chat template fails on a prompt .*{reason}.*'plain'") as caught:
                encode(problems("p"), make_tokenizer(chat_template=template), {"template": "chat", **extra}, 100)
            assert ("prompts.system" in str(caught.value)) is ("system" in extra)
    assert render("p", make_tokenizer(chat_template=template), {"template": "plain"})


def test_plain_prompt(make_tokenizer):
    tokenizer = make_tokenizer(chat_template=None)
    assert render("1 + 1?", tokenizer, PLAIN) == f"Q: 1 + 1?\n{BOX}\n"
    braces = {**PLAIN, "plain_template": "\\boxed{} {x} {problem}|{instruction}"}
    assert render("{instruction}", tokenizer, braces) == f"\\boxed{{}} {{x}} {{instruction}}|{BOX}"


def test_defaults(make_tokenizer):
    assert Prompts.of({}) == Prompts("chat", "{problem}\n{instruction}\n", "", None)
    assert render("p", make_tokenizer(), {"template": "plain", "instruction": "i"}) == "p\ni\n"


@pytest.mark.parametrize("post", [None, "<s> $A", "$A </s>", "<s> $A </s>"])
def test_chat_prompts_get_no_special_token_twice(make_tokenizer, post):
    tokenizer = make_tokenizer(post)
    _, [ids], _ = encode(problems("p"), tokenizer, CHAT, 100)
    assert decoded(tokenizer, ids) == render("p", tokenizer, CHAT)


@pytest.mark.parametrize(("post", "start"), [(None, ""), ("<s> $A", "<s>"), ("$A </s>", ""), ("<s> $A </s>", "<s>")])
def test_plain_prompts_start_as_the_tokenizer_starts_a_text_and_never_end(make_tokenizer, post, start):
    tokenizer = make_tokenizer(post)
    _, [ids], _ = encode(problems("p"), tokenizer, PLAIN, 100)
    assert decoded(tokenizer, ids) == start + render("p", tokenizer, PLAIN)
    written = {**PLAIN, "plain_template": "<s>" + PLAIN["plain_template"]}
    _, [ids], _ = encode(problems("p"), tokenizer, written, 100)
    assert decoded(tokenizer, ids) == render("p", tokenizer, written)


def test_long_prompts_are_dropped_and_reported(make_tokenizer):
    tokenizer = make_tokenizer()
    plain = {"template": "plain", "plain_template": "{problem}", "instruction": ""}
    texts = ["a" * length for length in (5, 9, 10, 11, 4, 30, 12, 40)]
    kept, ids, report = encode(problems(*texts), tokenizer, plain, 10)
    assert [problem.id for problem in kept] == ["id0", "id1", "id2", "id4"]
    assert [decoded(tokenizer, row) for row in ids] == [problem.prompt for problem in kept]
    assert report == Report(4, 4, 10, 40, ("id3", "id5", "id6"))
    assert (
        str(report) == "4 prompts kept, 4 dropped for more than 10 tokens (longest 40; dropped ids id3, id5, id6, ...)"
    )
    report = encode(problems(*texts), tokenizer, plain, 40)[2]
    assert str(report) == "all 8 prompts fit in 40 tokens (longest 40)"
    report = encode(problems(*texts), tokenizer, plain, 30)[2]
    assert str(report) == "7 prompts kept, 1 dropped for more than 30 tokens (longest 40; dropped ids id7)"


def test_every_prompt_too_long(make_tokenizer):
    plain = {"template": "plain", "plain_template": "{problem}"}
    message = (
        "all 2 prompts are longer than max_prompt_tokens 3 (the shortest has 5 tokens); raise max_prompt_tokens to 9"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        encode(problems("a" * 9, "a" * 5), make_tokenizer(), plain, 3)


def test_prompt_without_any_token(make_tokenizer):
    tokenizer = make_tokenizer()
    with pytest.raises(DataError, match="problem id1 encodes to no token"):
        encode(problems("a", ""), tokenizer, {"template": "plain", "plain_template": "{problem}"}, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"template": "chatml"}, "prompts.template is 'chatml'; set it to 'chat' or 'plain'."),
        (
            {"templates": "chat"},
            "prompts.templates is unknown; its keys are template, plain_template, instruction, system, chat_",
        ),
        ({**PLAIN, "plain_template": "Q:"}, "prompts.plain_template 'Q:' lacks {problem}"),
        ({**PLAIN, "plain_template": "{problem}"}, "prompts.instruction would be ignored"),
        ({**PLAIN, "system": "Be brief."}, "prompts.system is set but prompts.template is 'plain'"),
    ],
)
def test_bad_configs(make_tokenizer, config, message):
    with pytest.raises(DataError, match=re.escape(message)):
        render("p", make_tokenizer(), config)


@pytest.mark.parametrize("variables", [{}, {"chat_template_kwargs": {"x": 1}}])
def test_chat_without_a_chat_template(make_tokenizer, variables):
    with pytest.raises(DataError, match="the tokenizer has no chat template; set it to 'plain'"):
        encode(problems("p"), make_tokenizer(chat_template=None), {**CHAT, **variables}, 100)


def test_load_tokenizer(make_tokenizer, tmp_path):
    make_tokenizer("<s> $A").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert render("p", tokenizer, CHAT) == render("p", make_tokenizer(), CHAT)
    assert (
        encode(problems("p"), tokenizer, PLAIN, 99)[1] == encode(problems("p"), make_tokenizer("<s> $A"), PLAIN, 99)[1]
    )


def test_tokenizers_that_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="the tokenizer folder '/no/such' does not exist"):
        load_tokenizer("/no/such")
    with pytest.raises(DataError, match=rf"loaded from the folder '{tmp_path}' \(.*\); check it and its files\.$"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"loaded from the hub name .* 'nobody/nothing' \(.*\); check it and its files\.$"
    ):
        load_tokenizer("nobody/nothing")


def test_real_problems(data_dir, make_tokenizer):
    rows = load({"kind": "jsonl", "path": str(data_dir / "math500.jsonl")})
    tokenizer = make_tokenizer()
    kept, ids, report = encode(rows, tokenizer, CHAT, 800)
    assert (report.kept, report.dropped) == (len(kept), len(rows) - len(kept)) == (len(ids), 500 - len(ids))
    frame = len(encode(problems("x"), tokenizer, CHAT, 800)[1][0]) - 1
    assert [len(row) for row in ids] == [len(problem.prompt) + frame for problem in kept]
    assert {problem.id for problem in rows} - {problem.id for problem in kept} == {
        problem.id for problem in rows if len(problem.prompt) + frame > 800
    }
    assert 0 < report.dropped < 50 and prompts._SHOWN_IDS == len(report.dropped_ids)


@pytest.mark.slow
def test_a_module_of_the_user_may_have_imported_transformers_before():
    """transformers then looks for PyTorch no more, and would fail if it were hidden only now."""
    code = "import transformers; from srt_jax.data.prompts import import_without_torch as hide; hide(); "
    subprocess.run([sys.executable, "-c", code + "from transformers import AutoTokenizer"], check=True)
