"""Writes a GGUF file of random weights from a config.json, for the engines moed is compared with.

    python3 make_gguf.py --config shapes/granite-1b/config.json --type q8_0 --out granite-q8_0.gguf

Needs the packages gguf and numpy. The tensors are made one after another, so memory holds one at a
time. Their types are those that llama.cpp's converter and quantiser give: norms and router float32,
the head of a q4_0 file (with tied embeddings: the embeddings) q6_K, the rest as --type says.

The weights have the statistics of moed's own dummy weights: projections that read the hidden state
have variance 1 / fan-in; those that write to it (attention output and expert down) a fifth of that
deviation, so that the hidden state stays near the embedding of its own token and tokens keep
choosing different experts; embeddings have variance 1 after the embedding multiplier.
"""

import argparse
import dataclasses
import json
import math
import zlib

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
TYPES = {
    "bf16": (Q.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Q.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Q.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
ARCHITECTURES = {
    "GraniteMoeForCausalLM": "granitemoe",
    "OlmoeForCausalLM": "olmoe",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "MixtralForCausalLM": "llama",
}
OUTPUT_SCALE = 0.2  # of projections that write to the hidden state
FILLED_Q4 = np.array([0] + list(range(-7, 8)))  # -8 becomes 0: the mean is 0


@dataclasses.dataclass
class Shape:
    """What config.json says, under one name for every family."""

    arch: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    top_k: int
    expert_size: int
    vocab: int
    tied: bool
    config: dict


@dataclasses.dataclass
class Tensor:
    name: str
    shape: tuple  # rows first, as numpy does; GGUF lists them the other way round
    type: Q
    deviation: float  # 0: a norm, all ones


def read_shape(path, arch):
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    arch = arch or ARCHITECTURES[config["architectures"][0]]
    heads = config["num_attention_heads"]
    return Shape(
        arch=arch,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        experts=config.get("num_experts") or config["num_local_experts"],
        top_k=config["num_experts_per_tok"],
        expert_size=config.get("moe_intermediate_size") or config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=config["tie_word_embeddings"],
        config=config,
    )


def norm_tensors(shape, prefix):
    names = {"attn_norm": shape.hidden, "ffn_norm": shape.hidden}
    if shape.arch == "olmoe":
        names["attn_q_norm"] = shape.heads * shape.head_dim
        names["attn_k_norm"] = shape.kv_heads * shape.head_dim
    elif shape.arch == "qwen3moe":
        names["attn_q_norm"] = names["attn_k_norm"] = shape.head_dim
    return [Tensor(f"{prefix}.{name}.weight", (size,), Q.F32, 0) for name, size in names.items()]


def layer_tensors(shape, layer, main):
    prefix = f"blk.{layer}"
    hidden, inner = shape.hidden, shape.expert_size
    q_size, kv_size = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # The quantiser keeps keys and values of models with eight experts at q8_0.
    kv = Q.Q8_0 if main == Q.Q4_0 and shape.experts == 8 else main
    read = 1 / math.sqrt(hidden)
    rows = [
        ("attn_q", (q_size, hidden), main, read),
        ("attn_k", (kv_size, hidden), kv, read),
        ("attn_v", (kv_size, hidden), kv, read),
        ("attn_output", (hidden, q_size), main, OUTPUT_SCALE / math.sqrt(q_size)),
        ("ffn_gate_inp", (shape.experts, hidden), Q.F32, read),
        ("ffn_gate_exps", (shape.experts, inner, hidden), main, read),
        ("ffn_up_exps", (shape.experts, inner, hidden), main, read),
        ("ffn_down_exps", (shape.experts, hidden, inner), main, OUTPUT_SCALE / math.sqrt(inner)),
    ]
    matrices = [Tensor(f"{prefix}.{name}.weight", *rest) for name, *rest in rows]
    return norm_tensors(shape, prefix) + matrices


def all_tensors(shape, main):
    head = Q.Q6_K if main == Q.Q4_0 else main
    embedding_deviation = 1 / shape.config.get("embedding_multiplier", 1)
    vocab = (shape.vocab, shape.hidden)
    tensors = [
        Tensor("token_embd.weight", vocab, head if shape.tied else main, embedding_deviation),
        Tensor("output_norm.weight", (shape.hidden,), Q.F32, 0),
    ]
    if not shape.tied:
        tensors.append(Tensor("output.weight", vocab, head, 1 / math.sqrt(shape.hidden)))
    for layer in range(shape.layers):
        tensors += layer_tensors(shape, layer, main)
    return tensors


def to_bf16(values):
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_data(rng, count, deviation):
    table = np.arange(65536, dtype=np.uint16).view(np.int16) * (deviation * math.sqrt(12) / 65536)
    return to_bf16(table)[np.frombuffer(rng.bytes(2 * count), np.uint16)]


def q8_0_data(rng, count, deviation):
    blocks = np.empty(count // 32, np.dtype([("d", "<f2"), ("q", "i1", 32)]))
    blocks["d"] = deviation * math.sqrt(3) / 127
    quants = np.frombuffer(rng.bytes(count), np.int8).reshape(-1, 32)
    blocks["q"] = np.maximum(quants, -127)
    return blocks


def q4_0_data(rng, count, deviation):
    blocks = np.empty(count // 32, np.dtype([("d", "<f2"), ("q", "u1", 16)]))
    blocks["d"] = deviation / math.sqrt(np.mean(np.square(FILLED_Q4)))
    nibbles = (FILLED_Q4 + 8).astype(np.uint8)
    pairs = (nibbles[None, :] | nibbles[:, None] << 4).reshape(-1)
    blocks["q"] = pairs[np.frombuffer(rng.bytes(count // 2), np.uint8)].reshape(-1, 16)
    return blocks


def q6_k_data(rng, count, deviation):
    parts = [("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]
    blocks = np.empty(count // 256, np.dtype(parts))
    blocks["ql"] = np.frombuffer(rng.bytes(count // 2), np.uint8).reshape(-1, 128)
    blocks["qh"] = np.frombuffer(rng.bytes(count // 4), np.uint8).reshape(-1, 64)
    blocks["scales"] = 32
    blocks["d"] = deviation / (32 * 64 / math.sqrt(12))
    return blocks


def make_data(tensor, seed):
    rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    count = math.prod(tensor.shape)
    if tensor.type == Q.F32:
        if tensor.deviation == 0:
            return np.ones(count, np.float32)
        return rng.standard_normal(count, np.float32) * np.float32(tensor.deviation)
    make = {Q.BF16: bf16_data, Q.Q8_0: q8_0_data, Q.Q4_0: q4_0_data, Q.Q6_K: q6_k_data}
    return make[tensor.type](rng, count, tensor.deviation)


def byte_alphabet():
    """The 256 characters that stand for bytes in GPT-2's vocabulary."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + i) for i in range(len(others))]


def add_vocabulary(writer, shape):
    tokens = byte_alphabet() + ["\u0120\u0120"]
    tokens += [f"token{i}" for i in range(len(tokens), shape.vocab)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["\u0120 \u0120"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def add_parameters(writer, shape, file_type):
    config = shape.config
    writer.add_name("random weights")
    writer.add_file_type(file_type)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.expert_size)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.top_k)
    writer.add_vocab_size(shape.vocab)
    if shape.arch == "qwen3moe":
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
        writer.add_expert_feed_forward_length(shape.expert_size)
    if shape.arch == "granitemoe":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])


def size_bytes(tensor):
    block, size = gguf.GGML_QUANT_SIZES[tensor.type]
    if tensor.shape[-1] % block != 0:
        raise SystemExit(f"{tensor.name}: rows of {tensor.shape[-1]}, not a multiple of {block}")
    return math.prod(tensor.shape) // block * size


def write(path, shape, type_name, seed):
    main, file_type = TYPES[type_name]
    tensors = all_tensors(shape, main)
    writer = gguf.GGUFWriter(path, shape.arch)
    add_parameters(writer, shape, file_type)
    add_vocabulary(writer, shape)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), size_bytes(tensor), tensor.type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(make_data(tensor, seed))
    writer.close()
    return sum(size_bytes(tensor) for tensor in tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="config.json of a Hugging Face model")
    parser.add_argument("--type", required=True, choices=TYPES)
    parser.add_argument("--out", required=True, help="GGUF file to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--arch",
        choices=sorted(ARCHITECTURES.values()),
        help="write the same sizes as another architecture, for an engine that lacks the model's",
    )
    args = parser.parse_args()
    shape = read_shape(args.config, args.arch)
    size = write(args.out, shape, args.type, args.seed)
    print(f"{args.out}: {shape.arch}, {args.type}, {size / 2**20:.0f} MiB of weights")


if __name__ == "__main__":
    main()
