"""The floor of a training step: a lower bound of its time from unavoidable arithmetic and memory traffic.

Floor = its matrix products alone, at their own shapes, in its dtype, with warm caches and preallocated outputs
+ (optimizer, cast and gradient bytes) / (the rate at which a large tensor is copied), both measured in the same run.

Not counted, so that the floor is below any program's time: all operations between the products (normalization, softmax,
dropout, residuals), the head, the indexing of embeddings.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from common import now

import torch  # isort: skip  (randout sets torch's environment first)
from torch import Tensor

REPEATS = 5  # timings of a product after two uncounted ones; the median counts
ON_GPU = 20  # calls of a product in one graph
COPIED = 2**28  # bytes of the tensor whose copy gives the rate of bytes


class Product(NamedTuple):
    """`batch` products of m x k and k x n numbers. layout: how the factors lie in memory, as torch lays them out in the
    forward, x W' ("nt"), and the two of the backward, dy W ("nn") and dy' x ("tn"). part: "linear" or "attention".
    """

    part: str
    layout: str
    batch: int
    m: int
    k: int
    n: int

    @property
    def flop(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n


def products(
    lengths: Sequence[int], layers: int, hidden: int, ffn: int, heads: int, last_first_only: bool = True
) -> Counter[Product]:
    """Products of a step on texts of these lengths, forward and backward, and how often each occurs.

    last_first_only: of the last block only the first token's row of each text is needed, so that queries, output and
    feed-forward are computed of that alone (keys and values of all); else the last block is as the others.
    """
    found: Counter[Product] = Counter()
    tokens, texts, width, whole = sum(lengths), len(lengths), hidden // heads, layers - last_first_only

    def linear(rows: int, inputs: int, outputs: int, times: int) -> None:
        found[Product("linear", "nt", 1, rows, inputs, outputs)] += times  # y = x W'
        found[Product("linear", "nn", 1, rows, outputs, inputs)] += times  # dx = dy W
        found[Product("linear", "tn", 1, outputs, rows, inputs)] += times  # dW = dy' x

    def attention(queries: int, keys: int, times: int) -> None:
        found[Product("attention", "nt", heads, queries, width, keys)] += 2 * times  # s = q k', dp = do v'
        found[Product("attention", "nn", heads, queries, keys, width)] += 2 * times  # o = p v, dq = ds k
        found[Product("attention", "tn", heads, keys, queries, width)] += 2 * times  # dv = p' do, dk = ds' q

    def block(rows: int, times: int) -> None:
        """Count everything except keys and values."""
        linear(rows, hidden, hidden, 2 * times)  # queries, output
        linear(rows, hidden, ffn, times)
        linear(rows, ffn, hidden, times)

    linear(tokens, hidden, hidden, 2 * layers)  # keys, values
    block(tokens, whole)
    for length in lengths:
        attention(length, length, whole)
    if last_first_only:
        block(texts, 1)
        for length in lengths:
            attention(1, length, 1)
    return +found


def traffic(parameters: int, layers: int, hidden: int, ffn: int, precision: str) -> dict[str, int]:
    """Bytes of a step in addition to its products, for this number of trained float32 parameters.

    optimizer: AdamW reads p, g, m, v and writes p, m, v. cast: in bfloat16, the weights of the products are read in
    float32 and written in bfloat16, their gradients the other way. gradients: those of the other parameters (nearly all
    of them embeddings) are written, and the norm to which all are clipped reads all.
    """
    weights = layers * (4 * hidden**2 + 2 * hidden * ffn)
    cast = 2 * (4 + 2) * weights if precision == "bfloat16" else 0
    return {"optimizer": 28 * parameters, "cast": cast, "gradients": 4 * (parameters - weights) + 4 * parameters}


class Machine:
    """Times products and copies on a device, each product once."""

    def __init__(self, device: str, precision: str) -> None:
        self.device = device
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.known: dict[Product, float] = {}

    def bytes_a_second(self, size: int = COPIED) -> float:
        """Bytes read and written per second by `copy_` of a large float32 tensor."""
        source = torch.ones(size // 4, device=self.device)
        target, times = torch.zeros_like(source), []
        for _ in range(REPEATS):
            began = now(self.device)
            target.copy_(source)
            times.append(now(self.device) - began)
        return 2 * size / statistics.median(times)

    def seconds(self, found: Counter[Product]) -> dict[str, float]:
        """Seconds of these products, by part."""
        total = {"linear": 0.0, "attention": 0.0}
        for product, times in found.items():
            if product not in self.known:
                self.known[product] = self._time(product)
            total[product.part] += times * self.known[product]
        return total

    def _time(self, product: Product) -> float:
        a, b, out = self._factors(product)
        call, arguments = (torch.bmm, (a, b)) if product.batch > 1 else (torch.mm, (a[0], b[0]))
        place = out if product.batch > 1 else out[0]
        for _ in range(2):
            call(*arguments, out=place)
        if self.device == "cuda":  # launched by a graph, because a launch from Python takes longer than most products
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(ON_GPU):
                    call(*arguments, out=place)
            return self._median(graph.replay) / ON_GPU
        return self._median(lambda: call(*arguments, out=place))

    def _median(self, run: object) -> float:
        times = []
        for _ in range(REPEATS):
            began = now(self.device)
            run()  # type: ignore[operator]
            times.append(now(self.device) - began)
        return statistics.median(times)

    def _factors(self, product: Product) -> tuple[Tensor, Tensor, Tensor]:
        def drawn(rows: int, columns: int) -> Tensor:
            return torch.randn(product.batch, rows, columns, device=self.device).to(self.dtype)

        first, second = product.layout
        a = drawn(product.m, product.k) if first == "n" else drawn(product.k, product.m).transpose(1, 2)
        b = drawn(product.k, product.n) if second == "n" else drawn(product.n, product.k).transpose(1, 2)
        return a, b, drawn(product.m, product.n)
