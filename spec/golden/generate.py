"""Writes the golden files of this folder; README.md says what they hold.

Runs from anywhere: python spec/golden/generate.py (packages: bench/peers/requirements.txt).
"""

import json
import math
import pathlib
import sys

import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "bench" / "peers"))
from llama import Batch, Llama, rotate, weight_shapes  # noqa: E402

CONFIG = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
}
PROBE_K = 7
SHOWN = "model.layers.1.self_attn.k_proj.weight"  # the one matrix whose gradient is stored whole


def fill(shape, centre, scale, k):
    i = torch.arange(math.prod(shape))
    residue = (31 * i * i + 7919 * i + 104729 * k) % 10007
    values = centre + scale * (2 * residue.double() / 10007 - 1)
    return values.float().double().view(*shape)  # what a float32 reader will hold


def make_weights(config, first_k):
    specs, weights = [], {}
    for k, (name, shape) in enumerate(weight_shapes(config).items(), first_k):
        centre, scale = (1.0, 0.3) if len(shape) == 1 else (0.0, 0.4)
        specs.append({"name": name, "shape": list(shape), "centre": centre, "scale": scale, "k": k})
        weights[name] = fill(shape, centre, scale, k).requires_grad_()
    return specs, weights


def make_batch(samples, mask="answer"):
    """samples: (prompt, answer) token lists. The last token of an answer stands for eos."""
    ids, offsets, labels = [], [0], []
    for prompt, answer in samples:
        row = prompt + answer
        first = len(prompt) - 1 if mask == "answer" else 0
        labels += [row[i + 1] if first <= i < len(row) - 1 else -1 for i in range(len(row))]
        ids += row
        offsets.append(len(ids))
    return {"ids": ids, "offsets": offsets, "labels": labels}


def tokens(count, k):
    return [(31 * i * i + 57 * i + 13 * k) % 97 for i in range(count)]


PROMPTS = [tokens(5, 1), tokens(1, 2), tokens(9, 3)]
FORGET = [(p, tokens(n, 10 + i) + [0]) for i, (p, n) in enumerate(zip(PROMPTS, (6, 1, 12)))]
REFUSAL = [(p, tokens(n, 20 + i) + [0]) for i, (p, n) in enumerate(zip(PROMPTS, (3, 4, 2)))]
RETAIN_PROMPTS = [tokens(4, 5), tokens(7, 6), tokens(2, 7)]
RETAIN = [(p, tokens(n, 30 + i) + [0]) for i, (p, n) in enumerate(zip(RETAIN_PROMPTS, (8, 2, 5)))]
RETAIN_REFUSAL = [
    (p, tokens(n, 40 + i) + [0]) for i, (p, n) in enumerate(zip(RETAIN_PROMPTS, (4, 3, 1)))
]


def logits_of(model, batch):
    """[tokens, vocab]: each sequence on its own, so packing is not trusted to test packing."""
    rows = []
    for a, b in zip(batch["offsets"], batch["offsets"][1:]):
        rows.append(model.logits(Batch(batch["ids"][a:b], [0, b - a], batch["labels"][a:b])))
    return torch.cat(rows)


def per_sample(logits, batch):
    """l [n] and n [n]: summed negative log-likelihood and count of each sample's labels."""
    logp = F.log_softmax(logits, dim=-1)
    l, n = [], []
    for a, b in zip(batch["offsets"], batch["offsets"][1:]):
        labels = torch.tensor(batch["labels"][a:b])
        at = labels >= 0
        l.append(-logp[a:b][at, labels[at]].sum())
        n.append(int(at.sum()))
    return torch.stack(l), torch.tensor(n, dtype=torch.double)


def digits(x):
    """Nine significant digits: past float32, short enough to read."""
    if isinstance(x, torch.Tensor):
        x = x.detach().tolist()
    if isinstance(x, list):
        return [digits(v) for v in x]
    return float(f"{x:.9g}")


def describe_gradient(name, g, whole=False):
    out = {"name": name, "norm": digits(g.norm())}
    out["probe"] = digits((g * fill(g.shape, 0.0, 1.0, PROBE_K)).sum())
    flat = g.flatten()
    at = list(range(len(flat))) if whole else [(j * 7919 + 11) % len(flat) for j in range(12)]
    if not whole:
        out["at"] = at
    return out | {"values": digits(flat[at])}


def gradients(value, weights):
    found = torch.autograd.grad(value, list(weights.values()), retain_graph=True)
    return dict(zip(weights, found))


def check_transformers(config, weights, batch, logits, grads):
    """Largest difference from transformers in float32, relative to a tensor's largest element."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hf = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager")).float()
    state = {name: w.detach().float() for name, w in weights.items()}
    missing = hf.load_state_dict(state, strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"} and not missing.unexpected_keys
    hf.tie_weights()
    theirs = [
        hf(torch.tensor([batch["ids"][a:b]])).logits[0]
        for a, b in zip(batch["offsets"], batch["offsets"][1:])
    ]
    theirs = torch.cat(theirs)
    F.cross_entropy(theirs, torch.tensor(batch["labels"]), ignore_index=-1).backward()

    def differ(a, b):
        return ((a.double() - b).abs().max() / b.abs().max()).item()

    worst = max(differ(p.grad, grads[name]) for name, p in hf.named_parameters())
    worst = max(worst, differ(theirs, logits))
    assert worst < 1e-5, worst
    return worst


def write(name, value):
    """One line per entry of the outermost lists, so that a diff of a golden file can be read."""
    lines = []
    for key, v in value.items():
        if isinstance(v, list) and v and isinstance(v[0], (dict, list)):
            rows = ",\n    ".join(json.dumps(row) for row in v)
            lines.append(f"  {json.dumps(key)}: [\n    {rows}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(v)}")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    assert json.loads(text) == value
    (HERE / name).write_text(text)
    print(f"{name}: {len(text) / 1e3:.0f} kB")


def write_llama(tied):
    config = CONFIG | {"tie_word_embeddings": tied}
    specs, weights = make_weights(config, 1)
    batch = make_batch(FORGET + RETAIN)
    logits = logits_of(Llama(config, weights), batch)
    l, n = per_sample(logits, batch)
    loss = l.sum() / n.sum()
    grads = gradients(loss, weights)
    worst = check_transformers(config, weights, batch, logits, grads)
    shown = [0, 4, batch["offsets"][1], batch["offsets"][3] - 1, len(batch["ids"]) - 1]
    logp = F.log_softmax(logits, dim=-1)
    labelled = [i for i, label in enumerate(batch["labels"]) if label >= 0]
    at = torch.tensor(labelled)
    write(
        f"llama_{'tied' if tied else 'untied'}.json",
        {
            "transformers_difference": float(f"{worst:.2g}"),
            "config": config,
            "weights": specs,
            "batch": batch,
            "logits": [{"row": i, "values": digits(logits[i])} for i in shown],
            "labelled": labelled,
            "log_prob": digits(logp[at, torch.tensor(batch["labels"])[at]]),
            "log_sum_exp": digits(torch.logsumexp(logits[at], dim=-1)),
            "mean_log_prob": digits(logp[at].mean(dim=-1)),
            "entropy": digits(-(logp[at].exp() * logp[at]).sum(dim=-1)),
            "l": digits(l),
            "n": [int(v) for v in n],
            "loss": digits(loss),
            "gradients": [describe_gradient(name, g) for name, g in grads.items()],
        },
    )


def loss_values(policy, reference):
    """name -> value, by the formulas of the losses, on full logits in float64."""
    batches = {
        "forget": make_batch(FORGET),
        "forget_all": make_batch(FORGET, "all"),
        "refusal": make_batch(REFUSAL),
        "retain": make_batch(RETAIN),
        "retain_all": make_batch(RETAIN, "all"),
        "retain_refusal": make_batch(RETAIN_REFUSAL),
    }
    logits = {key: logits_of(policy, b) for key, b in batches.items()}
    with torch.no_grad():
        frozen = {key: logits_of(reference, b) for key, b in batches.items()}
    l, n, l_r = {}, {}, {}
    for key, b in batches.items():
        l[key], n[key] = per_sample(logits[key], b)
        l_r[key], _ = per_sample(frozen[key], b)

    def token_mean(key):
        return l[key].sum() / n[key].sum()

    def mean_over(per_position, key):
        return per_position[torch.tensor(batches[key]["labels"]) >= 0].mean()

    def me(key):
        mean_logp = F.log_softmax(logits[key], -1).mean(-1)
        return mean_over(-mean_logp - math.log(CONFIG["vocab_size"]), key)

    def kl_rows(key):
        p_r = F.log_softmax(frozen[key], -1)
        return (p_r.exp() * (p_r - F.log_softmax(logits[key], -1))).sum(-1)

    def preference(b, margin, factor):
        return -(factor / b) * F.logsigmoid(b * margin).mean()

    f, i, r, t = l["forget"], l["refusal"], l["retain"], l["retain_refusal"]
    margin = (f - i) - (l_r["forget"] - l_r["refusal"])
    values = {
        "gd": token_mean("retain"),
        "ga": -token_mean("forget"),
        "idk": token_mean("refusal"),
        "me": me("forget"),
        "me_all": me("forget_all"),
        "dpo": preference(0.1, margin, 2),
        "npo": preference(0.1, f - l_r["forget"], 2),
        "simnpo": preference(2.5, f / n["forget"], 2),
        "simnpo_gamma_5": preference(2.5, f / n["forget"] - 5, 2),  # where the sigmoid is not flat
        "kl": mean_over(kl_rows("retain"), "retain"),
        "kl_all": mean_over(kl_rows("retain_all"), "retain_all"),
        "kl_every": kl_rows("retain").mean(),
        "ap": preference(0.1, t - r, 1),
    }
    samples = [
        {"batch": key, "l": digits(l[key]), "n": [int(v) for v in n[key]], "l_r": digits(l_r[key])}
        for key in batches
    ]
    return batches, samples, values


def write_losses():
    config = CONFIG | {"tie_word_embeddings": True}
    specs, weights = make_weights(config, 1)
    frozen_specs, frozen = make_weights(config, 101)
    batches, samples, values = loss_values(Llama(config, weights), Llama(config, frozen))
    losses = []
    for name, value in values.items():
        grads = gradients(value, weights)
        losses.append(
            {
                "name": name,
                "value": digits(value),
                "gradients": [
                    describe_gradient(key, grads[key], whole=key == SHOWN)
                    for key in ("model.embed_tokens.weight", SHOWN, "model.norm.weight")
                ],
            }
        )
    write(
        "losses.json",
        {
            "about": "*_all: every token but the first is a label; kl_every: every position, labelled "
            "or not; me, kl: positions with answer labels",
            "config": config,
            "weights": specs,
            "reference_weights": frozen_specs,
            "batches": batches,
            "samples": samples,
            "losses": losses,
        },
    )


def golden_op(name, inputs, compute, attributes=None):
    """inputs: (name, shape, centre, scale, k); the gradient of sum(out * fill(k = 50))."""
    values = {n: fill(s, c, scale, k).requires_grad_() for n, s, c, scale, k in inputs}
    out = compute(**values)
    upstream = fill(out.shape, 0.0, 1.0, 50)
    grads = torch.autograd.grad((out * upstream).sum(), list(values.values()))
    return {
        "name": name,
        "attributes": attributes or {},
        "inputs": [
            {"name": n, "shape": list(s), "centre": c, "scale": scale, "k": k}
            for n, s, c, scale, k in inputs
        ],
        "upstream": {"shape": list(out.shape), "centre": 0.0, "scale": 1.0, "k": 50},
        "out": digits(out.flatten()),
        "gradients": [{"name": n, "values": digits(g.flatten())} for n, g in zip(values, grads)],
    }


def attend(q, k, v, offsets):
    """Causal. q, result: [tokens, heads, width]; k, v: [tokens, kv heads, width]."""
    group = q.shape[1] // k.shape[1]
    outs = []
    for a, b in zip(offsets, offsets[1:]):
        qs, ks, vs = (t[a:b].transpose(0, 1) for t in (q, k, v))
        ks, vs = ks.repeat_interleave(group, dim=0), vs.repeat_interleave(group, dim=0)
        scores = qs @ ks.transpose(1, 2) / math.sqrt(q.shape[-1])
        future = torch.ones(b - a, b - a, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
        outs.append((scores.softmax(-1) @ vs).transpose(0, 1))
    return torch.cat(outs)


def rope(x, positions, theta):
    width = x.shape[-1]
    power = torch.arange(0, width, 2, dtype=torch.double) / width
    angle = torch.tensor(positions, dtype=torch.double)[:, None] * theta**-power
    angle = torch.cat((angle, angle), -1)[:, None, :]
    return rotate(x, angle.cos(), angle.sin())


def write_ops():
    x = ("x", (5, 16), 0.0, 4.0, 1)
    gain, bias = ("weight", (16,), 1.0, 0.5, 2), ("bias", (16,), 0.0, 0.5, 3)
    qkv = [
        ("q", (9, 4, 8), 0.0, 2.0, 1),
        ("k", (9, 2, 8), 0.0, 2.0, 2),
        ("v", (9, 2, 8), 0.0, 2.0, 3),
    ]
    ops = [
        golden_op("gelu_tanh", [x], lambda x: F.gelu(x, approximate="tanh")),
        golden_op("gelu_erf", [x], lambda x: F.gelu(x)),
        golden_op("silu", [x], lambda x: F.silu(x)),
        golden_op("log_sigmoid", [x], lambda x: F.logsigmoid(x)),
        golden_op(
            "layer_norm",
            [x, gain, bias],
            lambda x, weight, bias: F.layer_norm(x, (16,), weight, bias, 1e-5),
            {"eps": 1e-5},
        ),
        golden_op(
            "rms_norm",
            [x, gain],
            lambda x, weight: F.rms_norm(x, (16,), weight, 1e-5),
            {"eps": 1e-5},
        ),
        golden_op(
            "silu_gate",
            [("gate", (5, 16), 0.0, 4.0, 1), ("up", (5, 16), 0.0, 2.0, 2)],
            lambda gate, up: F.silu(gate) * up,
        ),
        golden_op(
            "rope",
            [("x", (6, 2, 8), 0.0, 2.0, 1)],
            lambda x: rope(x, [0, 1, 2, 0, 1, 31], 10000.0),
            {"positions": [0, 1, 2, 0, 1, 31], "theta": 10000.0},
        ),
        golden_op(
            "attention",
            qkv,
            lambda q, k, v: attend(q, k, v, [0, 1, 4, 9]),
            {"offsets": [0, 1, 4, 9]},
        ),
    ]
    write("ops.json", {"ops": ops})


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_llama(tied=True)
    write_llama(tied=False)
    write_losses()
    write_ops()
