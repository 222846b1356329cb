"""Train the demo model (Qwen3-MoE architecture) on CPU and write it as a Hugging Face model directory.

Usage: train.py MODEL_DIR OUT_DIR MINUTES [THREADS [PEAK_LEARNING_RATE]]
MODEL_DIR holds tokenizer.json, and may hold model.safetensors to train on from (otherwise the start is random).
corpus.txt.gz is read from beside this script. OUT_DIR gets config.json, generation_config.json, model.safetensors,
train_log.jsonl and, while training, checkpoint.pt (training goes on from it when it exists).
train.py --evaluate MODEL_DIR prints the mean loss over all of the held-out text.

Needs torch >= 2.1, tokenizers, safetensors, numpy. The last 60,000 tokens of the corpus are held out.
"""
import gzip, json, math, pathlib, sys, time
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

C = dict(vocab_size=4096, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
         num_experts=16, num_experts_per_tok=2, moe_intermediate_size=128, rms_norm_eps=1e-6, rope_theta=10000.0)
CTX, BATCH, AUX, HELD = 256, 16, 0.01, 60_000
LR, MIN_LR, WARM = 2e-3, 5e-5, 100
H, L, A, KV, D = C["hidden_size"], C["num_hidden_layers"], C["num_attention_heads"], C["num_key_value_heads"], C["head_dim"]
E, K, I, V = C["num_experts"], C["num_experts_per_tok"], C["moe_intermediate_size"], C["vocab_size"]


def initial_weights(model_dir):
    """Weights by name; the experts of a layer are stacked as [E, in, out]."""
    path = pathlib.Path(model_dir) / "model.safetensors"
    given = {k: v.float() for k, v in load_file(path).items()} if path.exists() else None

    def p(name, *shape, std=0.02):
        if given is not None:
            return torch.nn.Parameter(given[name].clone())
        return torch.nn.Parameter(torch.randn(*shape) * std if std else torch.ones(*shape))

    def experts(prefix, kind, *shape, std=0.02):
        if given is not None:
            return torch.nn.Parameter(torch.stack([given[f"{prefix}experts.{e}.{kind}.weight"].T for e in range(E)]).contiguous())
        return torch.nn.Parameter(torch.randn(*shape) * std)

    w, out = {}, 0.02 / math.sqrt(2 * L)
    w["model.embed_tokens.weight"] = p("model.embed_tokens.weight", V, H)
    w["model.norm.weight"] = p("model.norm.weight", H, std=0)
    for l in range(L):
        a, m, n = f"model.layers.{l}.self_attn.", f"model.layers.{l}.mlp.", f"model.layers.{l}."
        for name, shape, std in ((a + "q_proj", (A * D, H), 0.02), (a + "k_proj", (KV * D, H), 0.02), (a + "v_proj", (KV * D, H), 0.02),
                                 (a + "o_proj", (H, A * D), out), (a + "q_norm", (D,), 0), (a + "k_norm", (D,), 0),
                                 (n + "input_layernorm", (H,), 0), (n + "post_attention_layernorm", (H,), 0), (m + "gate", (E, H), 0.02)):
            w[name + ".weight"] = p(name + ".weight", *shape, std=std)
        w[m + "gate_proj"] = experts(m, "gate_proj", E, H, I)
        w[m + "up_proj"] = experts(m, "up_proj", E, H, I)
        w[m + "down_proj"] = experts(m, "down_proj", E, I, H, std=out)
    return w


FREQ = 1.0 / C["rope_theta"] ** (torch.arange(0, D, 2).float() / D)
ANGLE = torch.outer(torch.arange(CTX).float(), FREQ)
COS, SIN = torch.cat([ANGLE.cos()] * 2, -1), torch.cat([ANGLE.sin()] * 2, -1)


def norm(x, w):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + C["rms_norm_eps"]) * w


def rope(x):  # [B, heads, T, D], half rotation
    T, (a, b) = x.shape[2], x.split(D // 2, -1)
    return x * COS[:T] + torch.cat([-b, a], -1) * SIN[:T]


def attention(W, x, l):
    B, T, _ = x.shape
    a = f"model.layers.{l}.self_attn."
    q = F.linear(x, W[a + "q_proj.weight"]).view(B, T, A, D)
    k = F.linear(x, W[a + "k_proj.weight"]).view(B, T, KV, D)
    v = F.linear(x, W[a + "v_proj.weight"]).view(B, T, KV, D).transpose(1, 2)
    q, k = rope(norm(q, W[a + "q_norm.weight"]).transpose(1, 2)), rope(norm(k, W[a + "k_norm.weight"]).transpose(1, 2))
    q, k = q.to(v.dtype), k.to(v.dtype)
    y = F.scaled_dot_product_attention(q, k.repeat_interleave(A // KV, 1), v.repeat_interleave(A // KV, 1), is_causal=True)
    return F.linear(y.transpose(1, 2).reshape(B, T, A * D), W[a + "o_proj.weight"])


def moe(W, x, l):
    m = f"model.layers.{l}.mlp."
    B, T, _ = x.shape
    x = x.reshape(-1, H)
    probs = F.linear(x, W[m + "gate.weight"]).float().softmax(-1)
    top, idx = probs.topk(K, -1)
    top = top / top.sum(-1, keepdim=True)
    flat = idx.reshape(-1)
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=E)
    token = order // K
    parts = []
    for e, t in enumerate(x[token].split(counts.tolist())):
        parts.append((F.silu(t @ W[m + "gate_proj"][e]) * (t @ W[m + "up_proj"][e])) @ W[m + "down_proj"][e])
    y = torch.cat(parts).float() * top.reshape(-1)[order, None]
    out = torch.zeros(B * T, H).index_add(0, token, y)
    load = counts.float() / flat.numel()
    return out.view(B, T, H), E * (load * probs.mean(0)).sum(), load.detach()


def forward(W, ids):
    x, aux, loads = W["model.embed_tokens.weight"][ids].float(), 0.0, []
    for l in range(L):
        x = x + attention(W, norm(x, W[f"model.layers.{l}.input_layernorm.weight"]), l)
        y, a, load = moe(W, norm(x, W[f"model.layers.{l}.post_attention_layernorm.weight"]), l)
        x, aux = x + y, aux + a
        loads.append(load)
    return F.linear(norm(x, W["model.norm.weight"]), W["model.embed_tokens.weight"]).float(), aux / L, loads


def loss_of(W, rows):  # rows [B, CTX + 1]
    logits, aux, loads = forward(W, rows[:, :-1])
    return F.cross_entropy(logits.reshape(-1, V), rows[:, 1:].reshape(-1)), aux, loads


def tokens(model_dir):
    """All books as one array of ids, each after an end-of-text token; the last HELD ids are held out."""
    tokenizer = Tokenizer.from_file(str(pathlib.Path(model_dir) / "tokenizer.json"))
    text = gzip.open(pathlib.Path(__file__).with_name("corpus.txt.gz"), "rt", encoding="utf-8").read()
    ids = []
    for book in text.split("\n\n"):
        if book.strip():
            ids += [0] + tokenizer.encode(book.strip("\n")).ids
    data = torch.tensor(ids)
    return data[:-HELD], data[-HELD:]


@torch.no_grad()
def held_loss(W, held, batches=None):
    rows = held[: (len(held) - 1) // CTX * CTX + 1].unfold(0, CTX + 1, CTX)
    rows = rows[:: max(1, len(rows) // batches)][:batches] if batches else rows
    return float(np.mean([loss_of(W, b)[0].item() for b in rows.split(8) if len(b) == 8 or not batches]))


def save(W, out):
    tensors = {}
    for name, w in W.items():
        w = w.detach().to(torch.bfloat16)
        if w.dim() == 3:
            layer, kind = name.rsplit(".", 1)
            tensors |= {f"{layer}.experts.{e}.{kind}.weight": w[e].T.contiguous() for e in range(E)}
        else:
            tensors[name] = w.contiguous()
    save_file(tensors, out / "model.safetensors.tmp", metadata={"format": "pt"})
    (out / "model.safetensors.tmp").rename(out / "model.safetensors")
    config = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "torch_dtype": "bfloat16", "attention_bias": False,
              "attention_dropout": 0.0, "hidden_act": "silu", "max_position_embeddings": 1024, "tie_word_embeddings": True, "use_cache": True,
              "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "intermediate_size": 4 * I, "rope_scaling": None,
              "use_sliding_window": False, "sliding_window": None, "router_aux_loss_coef": AUX, "output_router_logits": False,
              "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 0, **C}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 0.8, "top_p": 0.95}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def train(model_dir, out, minutes, peak_lr):
    data, held = tokens(model_dir)
    W = initial_weights(model_dir)
    decay = [w for w in W.values() if w.dim() > 1]
    plain = [w for w in W.values() if w.dim() == 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=peak_lr, betas=(0.9, 0.95))
    step = seen = 0
    done = 0.0  # minutes of training so far; wall time drives the schedule
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        c = torch.load(checkpoint)
        for w, v in zip(W.values(), c["weights"]): w.data.copy_(v)
        opt.load_state_dict(c["opt"])
        step, seen, done = c["step"], c["seen"], c["done"]
    log = open(out / "train_log.jsonl", "a")
    generator = torch.Generator().manual_seed(step + 1)
    began, saved = time.time() - done * 60, time.time()
    while (spent := (time.time() - began) / 60 / minutes) < 1:
        lr = min(1, (step + 1) / WARM) * (MIN_LR + (peak_lr - MIN_LR) * 0.5 * (1 + math.cos(math.pi * spent)))
        for g in opt.param_groups:
            g["lr"] = lr
        at = torch.randint(0, len(data) - CTX - 1, (BATCH,), generator=generator)
        rows = torch.stack([data[i: i + CTX + 1] for i in at])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, aux, loads = loss_of(W, rows)
        opt.zero_grad(set_to_none=True)
        (loss + AUX * aux).backward()
        torch.nn.utils.clip_grad_norm_(W.values(), 1.0)
        opt.step()
        step, seen = step + 1, seen + BATCH * CTX
        if step % 100 == 0:
            row = dict(step=step, tokens=seen, loss=round(loss.item(), 3), held=round(held_loss(W, held, 32), 3), aux=round(float(aux.detach()), 3),
                       lr=round(lr, 6), imbalance=[round(float(x.max() * E), 2) for x in loads], minutes=round((time.time() - began) / 60, 1))
            log.write(json.dumps(row) + "\n"); log.flush()
            print(row, flush=True)
        if time.time() - saved > 300:
            saved = time.time()
            save(W, out)
            torch.save(dict(weights=[w.data for w in W.values()], opt=opt.state_dict(), step=step, seen=seen, done=(saved - began) / 60), checkpoint)
    save(W, out)
    checkpoint.unlink(missing_ok=True)
    print("held-out loss", round(held_loss(W, held), 4), flush=True)


if sys.argv[1] == "--evaluate":
    print(round(held_loss(initial_weights(sys.argv[2]), tokens(sys.argv[2])[1]), 4))
else:
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 2)
    out_dir = pathlib.Path(sys.argv[2])
    out_dir.mkdir(parents=True, exist_ok=True)
    train(sys.argv[1], out_dir, float(sys.argv[3]), float(sys.argv[5]) if len(sys.argv) > 5 else LR)
