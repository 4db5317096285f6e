"""The tokens that end a response, from the tokenizer, the chat template and the model's config files."""

from collections.abc import Sequence

from tokenizers import AddedToken

from srt_jax.data.prompts import TEMPLATE_DATE
from srt_jax.errors import DataError
from srt_jax.files import shown

# End-of-turn and end-of-text tokens of the supported model families. A base model may use either, even if its config
# does not name it.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>")


def stop_ids(
    tokenizer, generation_config: dict | None, hf_config: dict | None = None, vocab_size: int = 1 << 31
) -> tuple[int, ...]:
    """Ids of every token that ends a response, sorted: the tokenizer's eos, `eos_token_id` of generation_config.json
    and of config.json (a number or a list), the token that the chat template writes after an assistant's message, and
    the known end tokens of the vocabulary.

    Raises DataError for an `eos_token_id` outside the vocabulary, or if no token ends a response.
    """
    found = {tokenizer.eos_token_id}
    for file, settings in (("generation_config.json", generation_config), ("config.json", hf_config)):
        configured = (settings or {}).get("eos_token_id")
        for id in configured if isinstance(configured, list | tuple) else [configured]:
            if id is not None and not (type(id) is int and 0 <= id < vocab_size):
                raise DataError(
                    f"{file} has eos_token_id {shown(configured)}; write a token's id, or a list of ids, below the "
                    f"vocabulary size {vocab_size}."
                )
            found.add(id)
    vocabulary = tokenizer.get_vocab()
    found.update(vocabulary.get(token) for token in _END_TOKENS)
    found.add(_end_of_turn(tokenizer))
    found.discard(None)
    if not found:
        raise DataError("neither tokenizer nor generation config names an end token; set the tokenizer's eos_token.")
    return tuple(sorted(found))


def _end_of_turn(tokenizer) -> int | None:
    """The added token, special or not, that the chat template writes after an assistant's message, if there is one."""
    if not tokenizer.chat_template:
        return None
    mark = "RESPONSE"
    messages = [{"role": "user", "content": "PROBLEM"}, {"role": "assistant", "content": mark}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, date_string=TEMPLATE_DATE)
    except Exception:  # a template may raise anything; `render` reports it when prompts are made
        return None
    if mark not in text:
        return None
    rest = tokenizer(text.rpartition(mark)[2].lstrip(), add_special_tokens=False)["input_ids"]
    added = tokenizer.added_tokens_decoder  # `all_special_ids` lacks tokens that are special only in tokenizer.json
    return rest[0] if rest and (rest[0] in added or rest[0] in tokenizer.all_special_ids) else None


def skip_when_decoded(tokenizer, ids: Sequence[int]) -> None:
    """Makes the added tokens among `ids` special, so that decoding leaves them out of an answer's text."""
    added = tokenizer.added_tokens_decoder
    plain = [added[id].content for id in ids if id in added and not added[id].special]
    if plain:
        tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in plain], special_tokens=True)
