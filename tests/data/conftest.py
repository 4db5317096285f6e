import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def data_dir() -> Path:
    """The folder of real benchmark files, which are not part of this repository."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("SRT_JAX_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no benchmark files at {folder}; set SRT_JAX_TEST_DATA to their folder")
    return folder


@pytest.fixture
def make_tokenizer():
    """Returns a function that builds a character tokenizer. post: the tokens it adds to a text, e.g. "<s> $A"."""

    def make(post: str | None = None, chat_template: str | None = CHAT_TEMPLATE, special=SPECIAL, **tokens):
        printable = [chr(code) for code in range(32, 127)] + ["\n"]
        vocabulary = {token: index for index, token in enumerate([*special, *printable])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        if post:
            pairs = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
            backend.post_processor = processors.TemplateProcessing(single=post, special_tokens=pairs)
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | tokens
        extra = [token for token in special if token not in names.values()]
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=extra, **names)
        tokenizer.chat_template = chat_template
        return tokenizer

    return make
