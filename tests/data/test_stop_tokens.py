"""Stop tokens are found in every place where a tokenizer or a model's files can declare them."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from srt_jax.data.prompts import load_tokenizer
from srt_jax.errors import DataError
from srt_jax.run.stop_tokens import skip_when_decoded, stop_ids


def test_stop_ids(make_tokenizer):
    vocabulary = make_tokenizer().get_vocab()
    eos, turn, unknown = vocabulary["</s>"], vocabulary["<|im_end|>"], vocabulary["<unk>"]
    assert stop_ids(make_tokenizer(), None) == (eos, turn)
    assert stop_ids(make_tokenizer(), {"eos_token_id": unknown}) == (eos, unknown, turn)
    assert stop_ids(make_tokenizer(), {"eos_token_id": [unknown, eos]}) == (eos, unknown, turn)
    assert stop_ids(make_tokenizer(), {"eos_token_id": None, "top_p": 0.9}) == (eos, turn)
    # A base model's tokenizer may declare only one of its two end tokens, and may have no chat template.
    special = ("<s>", "<|endoftext|>", "<unk>", "<|im_end|>")
    base = make_tokenizer(special=special, chat_template=None, eos_token="<|endoftext|>")
    assert stop_ids(base, None) == (1, 3)


def test_stop_ids_of_a_template_with_an_end_of_its_own(make_tokenizer):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n<turn/>\n{% endfor %}"
    special = ("<s>", "</s>", "<unk>", "<turn/>")
    assert stop_ids(make_tokenizer(special=special, chat_template=template), None) == (1, 3)
    # Ordinary text after a message is not a stop token.
    plain = template.replace("<turn/>", "")
    assert stop_ids(make_tokenizer(special=special, chat_template=plain), None) == (1,)


def turn_tokenizer(folder, declared, content="<turn/>"):
    """A tokenizer on disk whose chat template ends a turn with the token `content`.

    declared: the place where the token is declared, as in real tokenizers: "eos_token", "additional_special_tokens",
      "tokenizer.json" (special only there), "added" (an added token that is not special), "extra_special_tokens", or
      "template file" (as "tokenizer.json", but the template is in a separate file).
    """
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate(["</s>", "<unk>", *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    backend.add_special_tokens(["</s>", "<unk>"])
    (backend.add_tokens if declared == "added" else backend.add_special_tokens)([content])
    backend.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} TURN\n{% endfor %}".replace("TURN", content)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {
        "eos_token": {"eos_token": content},
        "additional_special_tokens": {"additional_special_tokens": [content]},
        "extra_special_tokens": {"extra_special_tokens": {"turn_token": content}},
    }.get(declared, {})
    if declared == "template file":
        (folder / "chat_template.jinja").write_text(template)
    else:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    "declared",
    ["eos_token", "additional_special_tokens", "extra_special_tokens", "tokenizer.json", "added", "template file"],
)
@pytest.mark.parametrize("content", ["<turn/>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>"])
def test_the_end_of_a_turn_is_found_however_it_is_declared(declared, content, tmp_path):
    tokenizer = turn_tokenizer(tmp_path, declared, content)
    turn, eos = tokenizer.convert_tokens_to_ids(content), tokenizer.eos_token_id
    assert stop_ids(tokenizer, None) == tuple(sorted({turn, eos}))
    skip_when_decoded(tokenizer, stop_ids(tokenizer, None))
    ids = tokenizer(f"5 {content}")["input_ids"]
    assert ids[-1] == turn and tokenizer.decode(ids, skip_special_tokens=True) == "5 "


@pytest.mark.parametrize("declared", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("value", [9, [9], [9, 0]])
def test_ends_that_only_a_config_file_names_count(declared, value, make_tokenizer):
    tokenizer = make_tokenizer(special=("<s>", "</s>", "<unk>"), chat_template=None)
    settings = {"eos_token_id": value}
    configs = (settings, None) if declared == "generation_config.json" else (None, settings)
    assert stop_ids(tokenizer, *configs) == ((0, 1, 9) if value == [9, 0] else (1, 9))


@pytest.mark.parametrize("value", ["2", [1, "x"], 10**20, -1, True, 1.0, {"a": 1}, [[1]], 50])
def test_an_eos_that_is_no_token_is_refused(value, make_tokenizer):
    for configs in (({"eos_token_id": value}, None), (None, {"eos_token_id": value})):
        with pytest.raises(DataError, match=r"config\.json has eos_token_id .*; write a token's id, or a list"):
            stop_ids(make_tokenizer(), *configs, vocab_size=50)


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{% if %}", "{{ messages[5].content }}", "{{ 1 / 0 }}", "nothing of it"]
)
def test_a_template_that_cannot_show_an_answer_tells_no_end_of_turn(template, make_tokenizer):
    assert stop_ids(make_tokenizer(special=("<s>", "</s>", "<unk>"), chat_template=template), None) == (1,)


def test_a_tokenizer_from_disk_has_the_same_ends(make_tokenizer, tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    assert stop_ids(load_tokenizer(tmp_path), None) == stop_ids(make_tokenizer(), None)


def test_no_stop_token_at_all(make_tokenizer):
    tokenizer = make_tokenizer(special=("<s>", "</s>", "<unk>"), chat_template=None)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="names an end token"):
        stop_ids(tokenizer, {})
