"""PyTorch's side of bench/gpu.lua: does one section's work on the GPU and prints a JSON object.

    python gpu.py REQUEST.json

gpu.lua writes the request (section, device, rounds, seed, and what that section needs: the same model,
the same batch) and prints the answer beside its own. Everything else printed here goes to stderr.
Weights are random and made here. Times are medians of rounds, as gpu.lua takes them.

Training step, `default`: as users write it: transformers' Llama in bf16, scaled dot-product attention,
padded to the longest with its mask, logits of every row, fused AdamW. `tuned`: llama.py beside this
file on packed tokens (attention too), compiled layers, logits of labelled rows only, fused AdamW.
"""

import json
import math
import statistics
import sys
import time
import traceback

import torch
import torch.nn.functional as F

from llama import Batch, Llama, weight_shapes

SPAN = 0.02  # seconds of work between two waits for the device
ADAM = {"lr": 1e-5, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01}
CUDA = True  # what computes, from the request


def wait():
    if CUDA:
        torch.cuda.synchronize()


def seconds_of(fn, times):
    wait()
    begin = time.perf_counter()
    for _ in range(times):
        fn()
    wait()
    return (time.perf_counter() - begin) / times


def median_time(fn, rounds):
    for _ in range(3):
        seconds_of(fn, 1)
    times = max(1, min(200, math.ceil(SPAN / seconds_of(fn, 1))))
    return statistics.median(seconds_of(fn, times) for _ in range(rounds))


def random(*shape, std=1.0, dtype=torch.bfloat16):
    return (std * torch.randn(*shape)).to(dtype)


def reset_peak():
    """Bytes in use now; peak_beyond returns the peak since then, beyond them."""
    if not CUDA:
        return 0
    wait()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_beyond(before):
    return {"bytes": torch.cuda.max_memory_allocated() - before} if CUDA else {}


# ---- rooflines and optimizer passes


def rooflines(rounds, elements, side):
    a, b = torch.randn(elements), torch.randn(elements)
    x, y = random(side, side), random(side, side)
    return {
        "copy": median_time(lambda: b.copy_(a), rounds),
        "product": median_time(lambda: F.linear(x, y), rounds),
    }


class EagerDualOptimPlus:
    """DO+ over AdamW, written as its formulas are: one tensor operation after the other."""

    def __init__(self, w, objectives=2):
        self.w, self.t, self.count = w, 0, [0] * objectives
        self.base = [torch.zeros_like(w) for _ in range(2)]
        self.delta = [[torch.zeros_like(w) for _ in range(2)] for _ in range(objectives)]

    def step(self):
        k = self.t % len(self.count)
        g, w, betas = self.w.grad, self.w, ADAM["betas"]
        self.t, self.count[k] = self.t + 1, self.count[k] + 1
        sums = []
        for base, delta, signal, beta in zip(self.base, self.delta[k], (g, g * g), betas):
            before = base / (1 - beta ** (self.t - 1)) if self.t > 1 else base
            delta.mul_(beta).add_((1 - beta) * (signal - before))
            sums.append(before + delta / (1 - beta ** self.count[k]))
            base.mul_(beta).add_((1 - beta) * signal)
        step = sums[0] / (sums[1].abs().sqrt() + ADAM["eps"])
        w.mul_(1 - ADAM["lr"] * ADAM["weight_decay"]).sub_(ADAM["lr"] * step)


@torch.no_grad()
def passes(rounds, rows, columns):
    w = torch.nn.Parameter(random(rows, columns, std=0.02, dtype=torch.float32))
    w.grad = random(rows, columns, std=0.02, dtype=torch.float32)
    answer = {}

    def add(name, make):
        answer[name] = median_time(make().step, rounds)

    add("AdamW f32, fused", lambda: torch.optim.AdamW([w], fused=True, **ADAM))
    add("DO+ f32, eager", lambda: EagerDualOptimPlus(w))
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        print("without bitsandbytes: it is not installed", file=sys.stderr)
    else:
        if CUDA:
            add("AdamW 8bit, bitsandbytes", lambda: AdamW8bit([w], **ADAM))
    return answer


# ---- the model


def make_transformers(config):
    """transformers' Llama with random weights, or None where it is not installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        print("without transformers: it is not installed", file=sys.stderr)
        return None
    c = LlamaConfig(
        **config,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(c).to(torch.bfloat16)


def train(rounds, parameters, loss):
    """Seconds of a step and the most memory it took."""
    optimizer = torch.optim.AdamW(parameters, fused=True, **ADAM)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    reset_peak()
    seconds = median_time(step, rounds)
    optimizer.zero_grad(set_to_none=True)
    return seconds, peak_beyond(0).get("bytes")


def step_default(rounds, config, batch):
    model = make_transformers(config)
    if model is None:
        return {}
    b = Batch(batch["ids"], batch["offsets"], batch["labels"])
    ids, mask = b.ids.view(b.n, b.length), b.real.view(b.n, b.length).long()
    # transformers shifts: labels[i] is the token at i, ours the one after it
    labels = torch.full((b.n, b.length), -100)
    labels[:, 1:] = b.labels.view(b.n, b.length)[:, :-1]
    model.train()

    def loss():
        return model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss

    seconds, memory = train(rounds, list(model.parameters()), loss)
    return {"default": seconds} | ({"default_bytes": memory} if memory else {})


def step_tuned(rounds, config, batch):
    config = config | {"tie_word_embeddings": True, "rope_theta": 10000.0, "rms_norm_eps": 1e-5}
    weights = {}
    for name, shape in weight_shapes(config).items():
        w = torch.ones(shape) if len(shape) == 1 else 0.02 * torch.randn(shape)
        weights[name] = w.to(torch.bfloat16).requires_grad_()
    model = Llama(config, weights)
    model.compile()
    b = Batch(batch["ids"], batch["offsets"], batch["labels"], "packed")
    seconds, _ = train(rounds, model.parameters(), lambda: model.loss(b, labelled_rows=True))
    return {"tuned": seconds}


def step(rounds, config, batch):
    answer = step_default(rounds, config, batch)
    if CUDA:
        torch.cuda.empty_cache()
    try:
        return answer | step_tuned(rounds, config, batch)
    except Exception:  # compiling asks more of a machine than running: the other figure stays
        traceback.print_exc()
        return answer


@torch.no_grad()
def generation(rounds, config, prompts, tokens):
    model = make_transformers(config)
    if model is None:
        return {}
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    made = []

    def run():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
        )
        made.append(out.shape[1] - longest)

    model.eval()
    seconds_of(run, 1)
    seconds = statistics.median(seconds_of(run, 1) for _ in range(min(rounds, 3)))
    return {"seconds": seconds, "tokens": made[-1] * len(prompts)}


# ---- operators


def both_ways(rounds, apply, inputs):
    """Seconds of apply() and of its backward alone."""
    y = apply()
    dy = torch.randn_like(y)
    backward = median_time(lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True), rounds)
    with torch.no_grad():
        forward = median_time(apply, rounds)
    return forward, backward


def norm(rounds, rows, width):
    x, w = random(rows, width).requires_grad_(), random(width).requires_grad_()
    forward, backward = both_ways(rounds, lambda: F.rms_norm(x, (width,), w, 1e-5), (x, w))
    return {"forward": forward, "backward": backward}


def mlp(rounds, rows, width):
    shapes = (rows, width), (4 * width, width), (4 * width,), (width, 4 * width), (width,)
    x, w1, b1, w2, b2 = inputs = [random(*shape).requires_grad_() for shape in shapes]
    dy = random(rows, width)

    def run():
        y = F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2)
        torch.autograd.grad(y, inputs, dy)

    return {"seconds": median_time(run, rounds)}


def attention(rounds, batch, heads, length, width):
    q, k, v = (random(batch, heads, length, width).requires_grad_() for _ in range(3))
    forward, backward = both_ways(
        rounds, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v)
    )
    return {"seconds": forward + backward}


def head(rounds, rows, labelled, width, vocab):
    """As transformers has it: logits of every padded row, in float32 for the loss."""
    x, w = random(rows, width).requires_grad_(), random(vocab, width, std=0.02).requires_grad_()
    labels = torch.full((rows,), -100)
    labels[torch.randperm(rows)[:labelled]] = torch.randint(vocab, (labelled,))

    def run():
        x.grad = w.grad = None
        F.cross_entropy(F.linear(x, w).float(), labels).backward()

    before = reset_peak()
    return {"seconds": median_time(run, rounds)} | peak_beyond(before)


SECTIONS = {f.__name__: f for f in (rooflines, passes, step, generation, norm, mlp, attention, head)}


def main():
    global CUDA
    with open(sys.argv[1]) as file:
        request = json.load(file)
    answers, sys.stdout = sys.stdout, sys.stderr
    CUDA = request["device"] == "cuda"
    torch.manual_seed(request["seed"])
    torch.set_default_device(request["device"])
    section = SECTIONS[request["section"]]
    rest = {k: v for k, v in request.items() if k not in ("section", "device", "seed")}
    print(json.dumps(section(**rest)), file=answers)


if __name__ == "__main__":
    main()
