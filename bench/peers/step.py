"""PyTorch's side of the training-step comparison: answers requests, one JSON object a line.

compare.py starts it, asks it and step.lua (dopl's side) the same questions in turn, and prints the
ratios; the requests are documented there. Everything else this prints goes to stderr.

    python step.py default|tuned|compiled|best

default:  what a user gets: padded, explicit mask, logits of every row, AdamW as built. Runs on
          PyTorch 1.13 too, Debian's.
tuned:    the same code in the environment that compare.py tunes for it.
compiled: tuned, with compiled layers, causal attention without a mask and fused AdamW.
best:     compiled, on packed tokens, with logits of labelled rows only: past what frameworks offer.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from llama import Batch, Llama


class Session:
    def __init__(self, mode):
        assert mode in ("default", "tuned", "compiled", "best"), mode
        self.compiled = mode in ("compiled", "best")
        self.best = mode == "best"

    def open(self, config, weights, threads, lr, betas, eps, weight_decay):
        torch.set_num_threads(threads)
        with open(config) as file:
            config = json.load(file)
        tensors = {name: w.requires_grad_() for name, w in load_file(weights).items()}
        self.model = Llama(config, tensors, explicit_mask=not self.compiled)
        if self.compiled:
            self.model.compile()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=lr,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            **({"fused": True} if self.compiled else {}),
        )
        self.batches = {}
        return {"version": torch.__version__, "threads": torch.get_num_threads()}

    def batch(self, name, path, layout="longest"):
        with open(path) as file:
            data = json.load(file)
        layout = "packed" if self.best else layout
        self.batches[name] = Batch(data["ids"], data["offsets"], data["labels"], layout)
        b = self.batches[name]
        return {"rows": len(b.ids), "head_rows": len(b.rows) if self.best else len(b.ids)}

    def loss(self, name):
        return self.model.loss(self.batches[name], labelled_rows=self.best)

    def gradients(self, name, out):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(name)
        loss.backward()
        save_file({key: w.grad for key, w in self.model.weights.items()}, out)
        return {"loss": loss.item()}

    def step(self, name):
        begin = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(name)
        loss.backward()
        self.optimizer.step()
        value = loss.item()
        return {"seconds": time.perf_counter() - begin, "loss": value}

    def optimizer_pass(self):
        """Gradients are those of the last step, or ones."""
        for w in self.model.parameters():
            if w.grad is None:
                w.grad = torch.ones_like(w)
        begin = time.perf_counter()
        self.optimizer.step()
        return {"seconds": time.perf_counter() - begin}

    def head(self, name):
        """Head and cross-entropy, forward and backward, of the labelled rows: the work of dopl's
        vocabulary operator. `cross_entropy` is the part that is not a matrix product."""
        batch, weight = self.batches[name], self.model.head_weight().detach().requires_grad_()
        labels = batch.labels[batch.rows]
        torch.manual_seed(1)
        x = torch.randn(len(labels), weight.shape[1]).requires_grad_()
        begin = time.perf_counter()
        F.cross_entropy(F.linear(x, weight), labels).backward()
        whole = time.perf_counter() - begin
        logits = F.linear(x, weight).detach().requires_grad_()
        begin = time.perf_counter()
        F.cross_entropy(logits, labels).backward()
        return {"seconds": whole, "cross_entropy": time.perf_counter() - begin}


def main():
    session = Session(sys.argv[1])
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(session, request.pop("op"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
