#!/usr/bin/env python3
"""Makes the small random models of this folder and what transformers computes with them.

    python make_models.py [NAME...]        (needs torch and transformers >= 5)

Each model is a pure function of its entry in MODELS. README.md describes the files.
"""

import copy
import json
import os
import re
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPT_LENGTHS = (1, 9, 37)
NUM_GENERATED = 24
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLASSES = {
    "mixtral": ("MixtralConfig", "MixtralForCausalLM"),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM"),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM"),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM"),
    "granitemoe": ("GraniteMoeConfig", "GraniteMoeForCausalLM"),
    "granitemoeshared": ("GraniteMoeSharedConfig", "GraniteMoeSharedForCausalLM"),
}
# Sizes shared by all models unless their entry says otherwise.
BASE = dict(vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
            tie_word_embeddings=False)
# Near a tie of the router any lower precision may choose another expert and then differ by much. So
# that lower precisions can be judged at all, no prompt comes near one:
# Router logit of the last chosen expert less that of the first not chosen.
PROMPT_MARGIN, GREEDY_MARGIN = 0.06, 0.02
# Relative L2 error of bfloat16 (of weights and of the inputs of matrix products) over a prompt and
# its greedy tokens together, and at each position.
MAX_BF16_ERROR, MAX_BF16_ROW_ERROR = 0.014, 0.035
MIN_BF16_LEAD = 0.5  # of a greedy token over the next best, in parts of its float32 lead
MAX_DRAWS = 150
MIN_DISTINCT = 6  # different tokens in a greedy continuation
SMALLEST_GAP = 0.01  # between the two best logits of a greedy step, in standard deviations


def model(model_type, *, dtype="bfloat16", layout="per_expert", moe_prefix=None, spelling=4,
          shards=1, rope=None, absent=(), generation=None, embedding_scale=1.0, fp8_scales=None,
          **config):
    """An entry of MODELS; `config` overrides BASE.

    layout: per_expert (A, A', E of published files), fused (B), fused_dot_weight (B, .weight).
    moe_prefix: renames the module `mlp` or `block_sparse_moe` of fused layouts.
    spelling: 4 or 5, the transformers version whose config keys are used.
    absent: config keys to leave out.
    fp8_scales: projections are stored as e4m3 with scales of this type for blocks of 128 x 128.
    embedding_scale: small beside what the layers add where the head is tied, or each token predicts
        itself.
    """
    return dict(model_type=model_type, dtype=dtype, layout=layout, moe_prefix=moe_prefix,
                spelling=spelling, shards=shards, rope=rope or {}, absent=absent,
                generation=generation or {}, embedding_scale=embedding_scale, fp8_scales=fp8_scales,
                config=config)


LLAMA3 = dict(rope_type="llama3", rope_theta=1e4, factor=4.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32)
LINEAR = dict(rope_type="linear", rope_theta=1e4, factor=2.5)

MODELS = {
    # Qwen3-MoE: per-head q and k norms.
    "qwen3_moe_basic": model(
        "qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=16,
        norm_topk_prob=True, rope=dict(rope_theta=1e6),
        generation=dict(do_sample=True, temperature=0.6, top_p=0.95, top_k=20,
                        eos_token_id=[2, 3])),
    "qwen3_moe_dense_layers": model(
        "qwen3_moe", dtype="float32", num_hidden_layers=3, decoder_sparse_step=2,
        intermediate_size=56, hidden_size=48, head_dim=24, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=24, norm_topk_prob=False, tie_word_embeddings=True,
        embedding_scale=0.5, rope=YARN),
    "qwen3_moe_fused": model(
        "qwen3_moe", dtype="float16", layout="fused", spelling=5, mlp_only_layers=[0],
        intermediate_size=40, hidden_size=96, head_dim=24, num_key_value_heads=1, num_experts=5,
        num_experts_per_tok=3, moe_intermediate_size=40, norm_topk_prob=True, attention_bias=True,
        rope=LLAMA3),
    "qwen3_moe_sharded": model(
        "qwen3_moe", shards=3, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24,
        norm_topk_prob=True, num_hidden_layers=3, absent=("head_dim",), rope=LINEAR),
    # Block-scaled fp8, with blocks that are cut at every edge.
    "qwen3_moe_fp8": model(
        "qwen3_moe", fp8_scales="bfloat16", hidden_size=144, head_dim=16, num_experts=3,
        num_experts_per_tok=2, moe_intermediate_size=132, norm_topk_prob=True),
    "qwen3_moe_fp8_fused": model(
        "qwen3_moe", fp8_scales="float32", layout="fused", spelling=5, head_dim=16, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=72, norm_topk_prob=True),
    # Mixtral: renormalised top-k, no norms or biases in attention.
    "mixtral_basic": model("mixtral", num_local_experts=4, num_experts_per_tok=2,
                           intermediate_size=48, rope=dict(rope_theta=1e6)),
    "mixtral_fused": model(
        "mixtral", dtype="float32", layout="fused_dot_weight", spelling=5, hidden_size=48,
        head_dim=24, num_local_experts=6, num_experts_per_tok=1, intermediate_size=24,
        tie_word_embeddings=True, embedding_scale=0.5),
    "mixtral_fused_old_prefix": model(
        "mixtral", layout="fused", moe_prefix="block_sparse_moe", num_key_value_heads=4,
        head_dim=16, num_local_experts=5, num_experts_per_tok=3, intermediate_size=40, rope=YARN),
    "mixtral_sharded": model(
        "mixtral", dtype="float16", shards=2, num_key_value_heads=1, num_local_experts=3,
        num_experts_per_tok=3, intermediate_size=40, rope=LLAMA3),
    # Qwen2-MoE: q, k, v biases; a shared expert with a gate.
    "qwen2_moe_basic": model(
        "qwen2_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=40, num_key_value_heads=4, norm_topk_prob=False,
        rope=dict(rope_theta=1e6)),
    "qwen2_moe_dense_layers": model(
        "qwen2_moe", spelling=5, num_hidden_layers=3, mlp_only_layers=[1],
        intermediate_size=56, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
        shared_expert_intermediate_size=24, qkv_bias=False, norm_topk_prob=True,
        tie_word_embeddings=True, embedding_scale=0.5, rope=YARN),
    "qwen2_moe_fused": model(
        "qwen2_moe", dtype="float32", layout="fused", hidden_size=48, num_experts=5,
        num_experts_per_tok=4, moe_intermediate_size=20, shared_expert_intermediate_size=28,
        absent=("qkv_bias",), rope=LINEAR),
    # OLMoE: q and k norms over the whole projection.
    "olmoe_basic": model("olmoe", num_experts=8, num_experts_per_tok=4, intermediate_size=24,
                         num_key_value_heads=4, norm_topk_prob=False),
    "olmoe_clip_and_bias": model(
        "olmoe", dtype="float32", hidden_size=48, num_experts=5, num_experts_per_tok=2,
        intermediate_size=40, clip_qkv=0.75, attention_bias=True, norm_topk_prob=True),
    "olmoe_fused": model(
        "olmoe", dtype="float16", layout="fused", spelling=5, num_experts=16,
        num_experts_per_tok=3, intermediate_size=16, num_key_value_heads=1, rope=LLAMA3),
    # GraniteMoE: multipliers; softmax over the chosen k.
    "granitemoe_basic": model(
        "granitemoe", num_local_experts=8, num_experts_per_tok=4, intermediate_size=24,
        tie_word_embeddings=True, embedding_scale=0.02, embedding_multiplier=12.0,
        residual_multiplier=0.22, attention_multiplier=0.0625, logits_scaling=6.0),
    "granitemoe_bias": model(
        "granitemoe", dtype="float32", hidden_size=48, num_local_experts=5, num_experts_per_tok=2,
        intermediate_size=40, num_key_value_heads=4, attention_bias=True,
        attention_multiplier=0.3, rope=YARN,
        absent=("embedding_multiplier", "residual_multiplier", "logits_scaling")),
    "granitemoe_fused": model(
        "granitemoe", dtype="float16", layout="fused", spelling=5, num_local_experts=4,
        num_experts_per_tok=1, intermediate_size=32, num_key_value_heads=1,
        embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.125,
        logits_scaling=0.5),
    "granitemoeshared_basic": model(
        "granitemoeshared", num_local_experts=6, num_experts_per_tok=2, intermediate_size=24,
        shared_intermediate_size=40, tie_word_embeddings=True, embedding_scale=0.02,
        embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.0625,
        logits_scaling=6.0),
    "granitemoeshared_without_shared": model(
        "granitemoeshared", dtype="float32", shards=2, hidden_size=48, num_local_experts=4,
        num_experts_per_tok=2, intermediate_size=24, shared_intermediate_size=0,
        embedding_multiplier=2.0, residual_multiplier=0.7, attention_multiplier=0.25,
        logits_scaling=2.0),
    "granitemoeshared_wide": model(
        "granitemoeshared", spelling=5, hidden_size=96, num_local_experts=5,
        num_experts_per_tok=3, intermediate_size=24, shared_intermediate_size=24,
        embedding_multiplier=1.5, residual_multiplier=0.6, attention_multiplier=0.2,
        logits_scaling=1.25, rope=LINEAR),
}


def randomize(net, embedding_scale, generator):
    """Weights large enough that every feature shows in the logits."""
    embedding_std = embedding_scale / getattr(net.config, "embedding_multiplier", 1.0)
    with torch.no_grad():
        for name, tensor in sorted(net.named_parameters()):
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in name:
                tensor.copy_(1.0 + 0.3 * noise)
            elif name.endswith(".bias"):
                tensor.copy_(0.5 * noise)
            elif "embed_tokens" in name:
                tensor.copy_(embedding_std * noise)
            else:
                tensor.copy_(noise * 1.2 / tensor.shape[-1] ** 0.5)


def rounded(net, dtype):
    """Makes every float32 weight a value that `dtype` can store."""
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(tensor.to(dtype).to(torch.float32))


def published_names(model_type, name, tensor):
    """The tensors of a transformers 5 module under the names that published files use."""
    if model_type.startswith("granitemoe"):
        name = name.replace("experts.gate_up_proj", "input_linear.weight")
        name = name.replace("experts.down_proj", "output_linear.weight")
        return [(name.replace("router.weight", "router.layer.weight"), tensor)]
    mixtral = model_type == "mixtral"
    if mixtral:
        name = name.replace(".mlp.", ".block_sparse_moe.")
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    prefix = name.rpartition(".")[0]
    if name.endswith("experts.gate_up_proj"):
        half = tensor.shape[1] // 2
        return [(f"{prefix}.{e}.{part}.weight", tensor[e, rows])
                for e in range(tensor.shape[0])
                for part, rows in ((gate, slice(0, half)), (up, slice(half, None)))]
    if name.endswith("experts.down_proj"):
        return [(f"{prefix}.{e}.{down}.weight", tensor[e]) for e in range(tensor.shape[0])]
    return [(name, tensor)]


def stored_views(net, entry):
    """(stored name, the part of a parameter that is stored under it) of all parameters."""
    tied = net.config.tie_word_embeddings
    for name, tensor in net.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        if entry["layout"] == "per_expert":
            yield from published_names(entry["model_type"], name, tensor)
            continue
        suffix = ".weight" if entry["layout"] == "fused_dot_weight" else ""
        fused = re.search(r"experts\.(gate_up|down)_proj$", name)
        if entry["moe_prefix"]:
            name = re.sub(r"\.(mlp|block_sparse_moe)\.", f".{entry['moe_prefix']}.", name)
        yield (name + suffix if fused else name), tensor


def quantize_fp8(matrix, scale_dtype):
    """(e4m3 [.., N, K], scales [.., ceil(N / 128), ceil(K / 128)])"""
    if matrix.dim() == 3:
        pairs = [quantize_fp8(m, scale_dtype) for m in matrix]
        return torch.stack([q for q, _ in pairs]), torch.stack([s for _, s in pairs])
    rows, cols = matrix.shape
    padded = torch.zeros(-(-rows // 128) * 128, -(-cols // 128) * 128)
    padded[:rows, :cols] = matrix
    largest = padded.reshape(padded.shape[0] // 128, 128, -1, 128).abs().amax(dim=(1, 3))
    scales = (largest / 448).to(scale_dtype)
    ratio = (matrix / spread(scales, matrix.shape)).clamp(-448, 448)
    return ratio.to(torch.float8_e4m3fn), scales


def spread(scales, shape):
    """The scale of each element."""
    wide = scales.float().repeat_interleave(128, -2).repeat_interleave(128, -1)
    return wide[..., :shape[-2], :shape[-1]]


def rounded_fp8(net, entry):
    """Makes the projections values that fp8 can store; returns how they are stored."""
    stored = {}
    with torch.no_grad():
        for name, view in stored_views(net, entry):
            if "_proj" in name:
                quantized, scales = quantize_fp8(view, DTYPES[entry["fp8_scales"]])
                view.copy_(quantized.float() * spread(scales, view.shape))
                stored[name] = quantized
                stored[name + "_scale_inv"] = scales
    return stored


def stored_tensors(net, entry, fp8):
    tensors = {name: view.to(DTYPES[entry["dtype"]]).contiguous()
               for name, view in stored_views(net, entry)}
    tensors.update(fp8)
    return tensors


def save_weights(tensors, folder, num_shards):
    metadata = {"format": "pt"}
    if num_shards == 1:
        save_file(tensors, os.path.join(folder, "model.safetensors"), metadata)
        return
    names = sorted(tensors)
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        part = names[shard::num_shards]
        save_file({name: tensors[name] for name in part}, os.path.join(folder, file), metadata)
        weight_map.update({name: file for name in part})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(os.path.join(folder, "model.safetensors.index.json"),
               {"metadata": {"total_size": total}, "weight_map": weight_map})


def stored_config(net, entry):
    config = net.config.to_dict()
    config["architectures"] = [CLASSES[entry["model_type"]][1]]
    rope = config.pop("rope_parameters")
    for key in ("dtype", "torch_dtype", "transformers_version", "_name_or_path", "id2label",
                "label2id", *entry["absent"]):
        config.pop(key, None)
    if entry["fp8_scales"]:
        config["quantization_config"] = dict(
            quant_method="fp8", fmt="e4m3", activation_scheme="dynamic",
            weight_block_size=[128, 128], modules_to_not_convert=["lm_head"])
    if entry["spelling"] == 5:
        config.update(dtype=entry["dtype"], rope_parameters=rope)
    else:
        config.update(torch_dtype=entry["dtype"], rope_theta=rope.pop("rope_theta"))
        rope_type = rope.pop("rope_type")
        config["rope_scaling"] = None if rope_type == "default" else dict(type=rope_type, **rope)
    return config


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write("\n")


class Runner:
    """Runs a model in float32, sees how clear each choice of experts was, and imitates bfloat16."""

    def __init__(self, net):
        self.net = net
        self.top_k = net.config.num_experts_per_tok
        self.router_logits = []
        self.low = copy.deepcopy(net)
        rounded(self.low, torch.bfloat16)
        for module in net.modules():
            if type(module).__name__.endswith("TopKRouter"):
                module.register_forward_hook(
                    lambda _module, _inputs, outputs: self.router_logits.append(outputs[0]))
        for name, module in self.low.named_modules():
            if type(module).__name__.endswith(("Linear", "TopKRouter", "Experts")):
                module.register_forward_pre_hook(
                    lambda _module, inputs: (inputs[0].bfloat16().float(), *inputs[1:]))
            if name.endswith(("k_proj", "v_proj")):  # the KV cache
                module.register_forward_hook(lambda _module, _inputs, out: out.bfloat16().float())

    def run(self, ids):
        """(logits [T, V], smallest margin over the layers for each token [T])"""
        self.router_logits.clear()
        with torch.no_grad():
            logits = self.net(torch.tensor([ids]), use_cache=False).logits[0]
        margins = torch.full((len(ids),), float("inf"))
        for router_logits in self.router_logits:
            best = router_logits.sort(dim=-1, descending=True).values
            if best.shape[-1] > self.top_k:
                margins = torch.minimum(margins, best[:, self.top_k - 1] - best[:, self.top_k])
        return logits, margins

    def is_clear_in_bf16(self, prompt, tokens, gaps):
        """Whether bfloat16 stays close, and every greedy token well ahead."""
        ids = prompt + tokens
        logits = self.run(ids)[0]
        with torch.no_grad():
            low = self.low(torch.tensor([ids]), use_cache=False).logits[0]
        rows = (low - logits).norm(dim=-1) / logits.norm(dim=-1)
        chosen = low[len(prompt) - 1:-1].clone()
        tokens = torch.tensor(tokens)[:, None]
        ahead = chosen.gather(1, tokens)[:, 0]
        ahead -= chosen.scatter(1, tokens, -float("inf")).max(dim=-1).values
        return ((low - logits).norm() / logits.norm() <= MAX_BF16_ERROR
                and rows.max() <= MAX_BF16_ROW_ERROR
                and bool((ahead >= MIN_BF16_LEAD * torch.tensor(gaps)).all()))


def draw_prompt(runner, length, vocab_size, generator):
    """Token by token, each with a clear choice of experts."""
    ids = []
    while len(ids) < length:
        token = torch.randint(3, vocab_size, (1,), generator=generator).item()
        if runner.run(ids + [token])[1][-1] >= PROMPT_MARGIN:
            ids.append(token)
    return ids


def greedy(runner, prompt):
    """(NUM_GENERATED tokens, their top-two gaps), or None if they are nearly ties, or dull."""
    ids, gaps = list(prompt), []
    for _ in range(NUM_GENERATED):
        logits, margins = runner.run(ids)
        top = torch.topk(logits[-1], 2)
        gaps.append((top.values[0] - top.values[1]).item())
        if gaps[-1] < SMALLEST_GAP * logits[-1].std() or margins[-1] < GREEDY_MARGIN:
            return None
        ids.append(top.indices[0].item())
    tokens = ids[len(prompt):]
    if len(set(tokens)) < MIN_DISTINCT or not runner.is_clear_in_bf16(prompt, tokens, gaps):
        return None
    return tokens, gaps


def draw_cases(net, generator):
    """[(prompt, greedy tokens, gaps, prompt logits)], or None if these weights give none."""
    runner, cases = Runner(net), []
    for length in PROMPT_LENGTHS:
        for _ in range(MAX_DRAWS):
            prompt = draw_prompt(runner, length, net.config.vocab_size, generator)
            continuation = greedy(runner, prompt)
            if continuation:
                cases.append((prompt, *continuation, runner.run(prompt)[0]))
                break
        else:
            print(f"  no prompt of {length} tokens is clear enough; other weights are tried")
            return None
    return cases


def make(name, entry):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    config_class, net_class = CLASSES[entry["model_type"]]
    settings = {**BASE, **entry["config"]}
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, **entry["rope"]}
    config = getattr(transformers, config_class)(**settings)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    net = getattr(transformers, net_class)(config).to(torch.float32).eval()
    cases = None
    while cases is None:
        randomize(net, entry["embedding_scale"], generator)
        rounded(net, DTYPES[entry["dtype"]])
        fp8 = rounded_fp8(net, entry) if entry["fp8_scales"] else {}
        cases = draw_cases(net, generator)

    save_weights(stored_tensors(net, entry, fp8), folder, entry["shards"])
    write_json(os.path.join(folder, "config.json"), stored_config(net, entry))
    generation = {"bos_token_id": 1, "eos_token_id": 2, **entry["generation"]}
    write_json(os.path.join(folder, "generation_config.json"), generation)

    expected, tensors = [], {}
    for i, (prompt, tokens, gaps, logits) in enumerate(cases):
        tensors[f"prompt_{i}.logits"] = logits.contiguous()
        expected.append(dict(prompt=prompt, greedy=tokens, gaps=[float(f"{g:.6g}") for g in gaps]))
        print(f"  prompt {i}: logit std {logits.std():.3f}, {len(set(tokens))} distinct of"
              f" {len(tokens)} greedy tokens, smallest gap {min(gaps):.4f}")
    write_json(os.path.join(folder, "expected.json"), {"prompts": expected})
    save_file(tensors, os.path.join(folder, "expected.safetensors"))
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)


def main():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        print(name)
        make(name, MODELS[name])


if __name__ == "__main__":
    main()
