"""The Llama architecture in plain PyTorch: the model that dopl's speed and numbers are compared with.

Weights carry Hugging Face names in a flat dict, so a safetensors file loads as it is. Rotary
embedding in the rotate-half convention. `Llama` takes any dtype, float64 included (transformers'
own class computes its norms in float32 whatever the weights are, too coarse for golden values).

Layouts of a batch: padded [n, T], to the longest or to a fixed length, or "packed": linear layers
see real tokens only, and so does attention where PyTorch has kernels for that (bf16 on a GPU, from
2.11 on); elsewhere attention alone is padded, which is the best plain PyTorch can do.
"""

import torch
import torch.nn.functional as F

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None


def weight_shapes(config):
    """Name and shape of every weight, in file order."""
    c, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    width = c // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * width
    shapes = {"model.embed_tokens.weight": (vocab, c)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes |= {
            layer + "input_layernorm.weight": (c,),
            layer + "self_attn.q_proj.weight": (c, c),
            layer + "self_attn.k_proj.weight": (kv, c),
            layer + "self_attn.v_proj.weight": (kv, c),
            layer + "self_attn.o_proj.weight": (c, c),
            layer + "post_attention_layernorm.weight": (c,),
            layer + "mlp.gate_proj.weight": (inner, c),
            layer + "mlp.up_proj.weight": (inner, c),
            layer + "mlp.down_proj.weight": (c, inner),
        }
    shapes["model.norm.weight"] = (c,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, c)
    return shapes


def rms_norm(x, weight, eps):
    if hasattr(F, "rms_norm"):
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def masked_attention(q, k, v, mask):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v


def attends_packed(x):
    """Whether PyTorch has attention over sequences that lie end to end, for rows like x."""
    return varlen_attn is not None and x.is_cuda and x.dtype == torch.bfloat16


def rotate(x, cos, sin):
    """x: [..., T, width], or with cos and sin to match; rotates the pairs (i, i + width / 2)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Batch:
    """Sequences laid end to end: ids [N], offsets [n + 1], labels [N].

    labels[i] is the token to follow ids[i], or -1: no loss there.
    """

    def __init__(self, ids, offsets, labels, layout="longest"):
        """layout: "longest", "packed", or a length to pad to."""
        ids, labels = torch.as_tensor(ids), torch.as_tensor(labels)
        lengths = [b - a for a, b in zip(offsets, offsets[1:])]
        self.n, self.packed = len(lengths), layout == "packed"
        self.length = layout if isinstance(layout, int) else max(lengths)
        self.n_tokens = len(ids)
        self.offsets = torch.as_tensor(offsets, dtype=torch.int32)
        # Place of every real token in the flattened [n, T] rectangle.
        self.place = torch.cat([i * self.length + torch.arange(k) for i, k in enumerate(lengths)])
        self.position = self.place % self.length
        self.real = torch.zeros(self.n * self.length, dtype=torch.bool)
        self.real[self.place] = True
        if self.packed:
            self.ids, self.labels = ids, labels
        else:
            self.ids = torch.zeros(self.n * self.length, dtype=torch.long)
            self.labels = torch.full((self.n * self.length,), -1)
            self.ids[self.place], self.labels[self.place] = ids, labels
        self.labels = torch.where(self.labels < 0, -100, self.labels)
        self.rows = torch.nonzero(self.labels >= 0).flatten()
        self.mask = None

    def padding_mask(self):
        """The [n, 1, T, T] causal-and-real mask that a transformers model is handed."""
        if self.mask is None:
            causal = torch.ones(self.length, self.length, dtype=torch.bool).tril()
            self.mask = causal & self.real.view(self.n, 1, 1, self.length)
        return self.mask


class Llama:
    """Two ways to attend. explicit_mask: as transformers' padded path does, a mask tensor and keys
    repeated per query head. Without it: is_causal alone, enough when padding is on the right.
    PyTorch before 2.0 has the first alone, written out.
    """

    def __init__(self, config, weights, explicit_mask=False):
        self.config, self.weights, self.explicit_mask = config, weights, explicit_mask
        self.heads, self.kv = config["num_attention_heads"], config["num_key_value_heads"]
        self.width = config["hidden_size"] // self.heads
        self.eps = config["rms_norm_eps"]
        self.rotations = {}
        self.layer = self.eager_layer
        self.layers = [
            {
                name.removeprefix(f"model.layers.{i}.").removesuffix(".weight"): w
                for name, w in weights.items()
                if name.startswith(f"model.layers.{i}.")
            }
            for i in range(config["num_hidden_layers"])
        ]

    def compile(self):
        """One compiled layer serves all of them."""
        self.layer = torch.compile(self.eager_layer, dynamic=False)

    def parameters(self):
        return list(self.weights.values())

    def head_weight(self):
        tied = self.config["tie_word_embeddings"]
        return self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"]

    def rotation(self, length, dtype):
        if (length, dtype) not in self.rotations:
            power = torch.arange(0, self.width, 2, dtype=torch.float64) / self.width
            angle = torch.arange(length)[:, None] * self.config["rope_theta"] ** -power
            angle = torch.cat((angle, angle), dim=-1)
            self.rotations[length, dtype] = angle.cos().to(dtype), angle.sin().to(dtype)
        return self.rotations[length, dtype]

    def norm(self, x, weight):
        return rms_norm(x, weight, self.eps)

    def packed_attention(self, x, w, cos, sin, offsets, length):
        def heads(name, count):
            return F.linear(x, w[f"self_attn.{name}_proj"]).view(-1, count, self.width)

        q, k, v = heads("q", self.heads), heads("k", self.kv), heads("v", self.kv)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = varlen_attn(q, k, v, offsets, offsets, length, length, window_size=(-1, 0))
        return F.linear(y.flatten(1), w["self_attn.o_proj"])

    def attention(self, x, w, cos, sin, n, length, place, mask):
        """place: where packed rows go in the rectangle, or None where x is the rectangle."""

        def heads(name, count):
            y = F.linear(x, w[f"self_attn.{name}_proj"])
            if place is not None:
                y = y.new_zeros(n * length, y.shape[-1]).index_copy(0, place, y)
            return y.view(n, length, count, self.width).transpose(1, 2)

        q, k, v = heads("q", self.heads), heads("k", self.kv), heads("v", self.kv)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if mask is not None:
            k, v = (t.repeat_interleave(self.heads // self.kv, dim=1) for t in (k, v))
            y = masked_attention(q, k, v, mask)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y = y.transpose(1, 2).reshape(n * length, self.heads * self.width)
        if place is not None:
            y = y.index_select(0, place)
        return F.linear(y, w["self_attn.o_proj"])

    def eager_layer(self, x, w, cos, sin, n, length, place, mask, offsets):
        y = self.norm(x, w["input_layernorm"])
        if offsets is None:
            x = x + self.attention(y, w, cos, sin, n, length, place, mask)
        else:
            x = x + self.packed_attention(y, w, cos, sin, offsets, length)
        y = self.norm(x, w["post_attention_layernorm"])
        gate, up = F.silu(F.linear(y, w["mlp.gate_proj"])), F.linear(y, w["mlp.up_proj"])
        return x + F.linear(gate * up, w["mlp.down_proj"])

    def hidden(self, batch):
        """[rows of the layout, hidden] after the last norm."""
        mask = batch.padding_mask() if self.explicit_mask else None
        place = batch.place if batch.packed else None
        x = F.embedding(batch.ids, self.weights["model.embed_tokens.weight"])
        cos, sin = self.rotation(batch.length, x.dtype)
        offsets = batch.offsets if batch.packed and attends_packed(x) else None
        if offsets is not None:  # a row for each token, the same for all heads
            cos, sin = cos[batch.position][:, None], sin[batch.position][:, None]
        for w in self.layers:
            x = self.layer(x, w, cos, sin, batch.n, batch.length, place, mask, offsets)
        return self.norm(x, self.weights["model.norm.weight"])

    def logits(self, batch, labelled_rows=False):
        x = self.hidden(batch)
        return F.linear(x[batch.rows] if labelled_rows else x, self.head_weight())

    def loss(self, batch, labelled_rows=False):
        """Mean negative log-likelihood of the labels."""
        labels = batch.labels[batch.rows] if labelled_rows else batch.labels
        return F.cross_entropy(self.logits(batch, labelled_rows), labels)
