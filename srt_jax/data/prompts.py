"""Turns problems into prompt tokens: chat template or plain template, instruction, length limit."""

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from srt_jax.data.base import Problem
from srt_jax.errors import DataError
from srt_jax.files import shown

# Llama 3 templates print a date, today's by default. With a fixed date a resumed run has the same prompts.
TEMPLATE_DATE = "26 Jul 2024"
_SHOWN_IDS = 3


@dataclass(frozen=True)
class Prompts:
    """How a problem becomes a prompt.

    template: "chat" (the tokenizer's chat template; the user's message is the problem and the instruction) or "plain".
    plain_template: text with {problem} and, unless `instruction` is '', {instruction}. Other braces are plain text.
    instruction: a request. The chat template gets it after the problem and a space. '' for none.
    system: the system message of the chat template. With None or '' the template decides.
    chat_template_kwargs: further variables of the chat template, e.g. {"enable_thinking": False}.
    """

    template: str = "chat"
    plain_template: str = "{problem}\n{instruction}\n"
    instruction: str = ""
    system: str | None = None
    chat_template_kwargs: Mapping = field(default_factory=dict)

    @classmethod
    def of(cls, prompts_config) -> "Prompts":
        """Prompts from a dict or ConfigDict with these keys; missing keys take the defaults."""
        if isinstance(prompts_config, cls):
            return prompts_config
        known = [f.name for f in fields(cls)]
        for name in prompts_config:
            if name not in known:
                raise DataError(f"prompts.{name} is unknown; its keys are {', '.join(known)}.")
        values = {name: prompts_config[name] for name in prompts_config}
        variables = values.get("chat_template_kwargs") or {}
        values["chat_template_kwargs"] = variables.to_dict() if hasattr(variables, "to_dict") else dict(variables)
        return cls(**values)

    def __post_init__(self):
        if self.template not in ("chat", "plain"):
            raise DataError(f"prompts.template is {self.template!r}; set it to 'chat' or 'plain'.")
        if self.template == "chat":
            return
        if "{problem}" not in self.plain_template:
            raise DataError(f"prompts.plain_template {self.plain_template!r} lacks {{problem}}; write it there.")
        if self.instruction and "{instruction}" not in self.plain_template:
            raise DataError(
                f"prompts.plain_template {self.plain_template!r} lacks {{instruction}}: prompts.instruction would "
                "be ignored; write it there, or set prompts.instruction to ''."
            )
        if self.chat_template_kwargs:
            raise DataError(
                f"prompts.chat_template_kwargs is {shown(self.chat_template_kwargs)} but prompts.template "
                "is 'plain', which has no variables; set it to {}, or the template to 'chat'."
            )
        if self.system:
            raise DataError("prompts.system is set but prompts.template is 'plain'; write it into plain_template.")


@dataclass(frozen=True)
class EvalSet:
    """A named set of problems with their prompt tokens."""

    name: str
    problems: list[Problem]
    prompts: list[list[int]]


@dataclass(frozen=True)
class Report:
    """The result of the length filter. Lengths are in tokens and include template and instruction.

    kept, dropped: numbers of prompts. longest: the length of the longest prompt, also if it was dropped.
    dropped_ids: the ids of the first few dropped problems.
    """

    kept: int
    dropped: int
    max_prompt_tokens: int
    longest: int
    dropped_ids: tuple[str, ...]

    def __str__(self) -> str:
        if not self.dropped:
            return f"all {self.kept} prompts fit in {self.max_prompt_tokens} tokens (longest {self.longest})"
        more = ", ..." if self.dropped > len(self.dropped_ids) else ""
        return (
            f"{self.kept} prompts kept, {self.dropped} dropped for more than {self.max_prompt_tokens} tokens "
            f"(longest {self.longest}; dropped ids {', '.join(self.dropped_ids)}{more})"
        )


def import_without_torch() -> None:
    """Imports transformers as if PyTorch were not installed, which takes two seconds less. Tokenizers do not need it.

    Until the process ends, transformers then has no models. A function of the user might need one.
    """
    if {"torch", "transformers"} & {*sys.modules}:  # transformers, once imported, knows that PyTorch is installed
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from transformers import AutoTokenizer  # noqa: F401
    finally:
        del sys.modules["torch"]


def load_tokenizer(path):
    """The fast tokenizer of a local Hugging Face directory or of a hub name. Raises DataError, in one sentence."""
    import transformers

    local = Path(path).expanduser()
    if not local.is_dir() and str(path).startswith(("/", ".", "~")):
        raise DataError(f"the tokenizer folder {str(path)!r} does not exist; correct the path or give a hub name.")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(local) if local.is_dir() else str(path))
    except Exception as error:  # transformers raises OSError, ValueError, TypeError and others for unusable files.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        where = "folder" if local.is_dir() else "hub name (there is no such folder)"
        message = f"no tokenizer could be loaded from the {where} {str(path)!r} ({reason}); check it and its files."
        raise DataError(message) from error
    if not tokenizer.is_fast:
        raise DataError(f"the tokenizer of {str(path)!r} is not a fast one; add its tokenizer.json to that folder.")
    return tokenizer


def render(problem_text: str, tokenizer, prompts_config) -> str:
    """The text that the model continues.

    Raises DataError if the template is "chat" and the tokenizer's chat template is missing or fails.
    """
    prompts = Prompts.of(prompts_config)
    if prompts.instruction and problem_text.endswith(prompts.instruction):  # Problems in verl's files contain it.
        problem_text = problem_text.removesuffix(prompts.instruction).rstrip()
    if prompts.template == "plain":
        values = {"{problem}": problem_text, "{instruction}": prompts.instruction}
        # A single pass does not change a problem that contains "{instruction}", nor other braces such as \boxed{}.
        return re.sub(r"\{problem\}|\{instruction\}", lambda match: values[match.group()], prompts.plain_template)
    if not tokenizer.chat_template:
        raise DataError("prompts.template is 'chat' but the tokenizer has no chat template; set it to 'plain'.")
    content = f"{problem_text} {prompts.instruction}" if prompts.instruction else problem_text
    messages = [{"role": "system", "content": prompts.system}] if prompts.system else []
    messages.append({"role": "user", "content": content})
    variables = {"date_string": TEMPLATE_DATE, **prompts.chat_template_kwargs}
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
    except Exception as error:  # A chat template is third-party code and may raise any exception.
        raise _template_failed(error, prompts) from error


def _template_failed(error: Exception, prompts: Prompts) -> DataError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    remedy = "leave prompts.system empty, " if prompts.system else ""
    return DataError(
        f"the tokenizer's chat template fails on a prompt ({reason}); {remedy}correct the template, or "
        "set prompts.template to 'plain'."
    )


def check_template_variables(tokenizer, prompts: Prompts) -> None:
    """Raises DataError for a key of prompts.chat_template_kwargs that the template ignores or that is already set."""
    if prompts.template == "plain" or not prompts.chat_template_kwargs or not tokenizer.chat_template:
        return  # `render` reports a missing template.
    known = _template_variables(tokenizer, prompts)
    own = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters} - {"kwargs"}
    for name in prompts.chat_template_kwargs:
        if name in own:
            raise DataError(f"prompts.chat_template_kwargs has {name!r}, which the prompts set themselves; remove it.")
        if name not in known:
            others = ", ".join(sorted(known - own)) or "none"
            raise DataError(
                f"prompts.chat_template_kwargs has {name!r}, which the tokenizer's chat template does not "
                f"use; remove it, or give a variable of the template ({others})."
            )


def _template_variables(tokenizer, prompts: Prompts) -> set[str]:
    """Names of the variables that the chat template reads but does not set."""
    import jinja2.meta

    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        # transformers' own tag around an assistant's text is replaced by a block that is always true.
        template = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", tokenizer.get_chat_template())
        template = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", template)
        found = jinja2.meta.find_undeclared_variables(environment.parse(template))
    except Exception as error:  # There are several templates and none is the default, or the template does not parse.
        raise _template_failed(error, prompts) from error
    return found - {"raise_exception", "strftime_now"}


def encode(
    problems: Sequence[Problem], tokenizer, prompts_config, max_prompt_tokens: int
) -> tuple[list[Problem], list[list[int]], Report]:
    """(problems whose prompts have at most `max_prompt_tokens` tokens, their token ids in the same order, a report).

    Raises DataError if all prompts are too long, or if a prompt has no tokens.
    """
    prompts = Prompts.of(prompts_config)
    check_template_variables(tokenizer, prompts)
    texts = [render(problem.prompt, tokenizer, prompts) for problem in problems]
    encoded = _encode_texts(texts, tokenizer)
    lengths = [len(ids) for ids in encoded]
    if 0 in lengths:
        empty = problems[lengths.index(0)]
        raise DataError(f"the prompt of problem {empty.id} encodes to no token; use a tokenizer that knows its text.")
    if lengths and min(lengths) > max_prompt_tokens:
        raise DataError(
            f"all {len(lengths)} prompts are longer than max_prompt_tokens {max_prompt_tokens} (the shortest has "
            f"{min(lengths)} tokens); raise max_prompt_tokens to {max(lengths)} to keep them all."
        )
    fits = [length <= max_prompt_tokens for length in lengths]
    dropped = [problem.id for problem, fit in zip(problems, fits) if not fit]
    kept = [problem for problem, fit in zip(problems, fits) if fit]
    report = Report(len(kept), len(dropped), max_prompt_tokens, max(lengths, default=0), tuple(dropped[:_SHOWN_IDS]))
    return kept, [ids for ids, fit in zip(encoded, fits) if fit], report


def _encode_texts(texts: list[str], tokenizer) -> list[list[int]]:
    """The token ids of each text.

    They begin with exactly one beginning-of-text token if the tokenizer adds one to texts. No end token is added.
    """
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("")["input_ids"][:1] != [bos]:
        return [list(ids) for ids in encoded]
    # Chat templates of such tokenizers usually write this token themselves, so it must not be added twice.
    return [list(ids) if ids[:1] == [bos] else [bos, *ids] for ids in encoded]
