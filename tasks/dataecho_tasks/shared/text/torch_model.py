"""A decoder-only Transformer in PyTorch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dataecho.backends.torch_model import TorchModel
from dataecho_tasks.shared.text.sizes import NUM_CANDIDATES, require_sizes


class Transformer(TorchModel):
    """``tokens`` int32 [b, sequence_length + 1] to the mean cross entropy of every row, in nats per token; for pictures
    the best ``candidates`` for each row's last token, [b, k], and their ``scores``, which are logits.

    Vaswani et al. 2017 without the encoder: width, heads and layers as in their section 3, one embedding for input and
    output (3.4), dropout on embeddings and sub-layers (5.4). Unlike there the layer normalisation stands before each
    sub-layer and once at the end, which needs no warm-up (Xiong et al. 2020), and positions are learnt.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        sequence_length: int,
        width: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.0,
    ) -> None:
        require_sizes("torch", width=width, num_layers=num_layers, num_heads=num_heads, hidden=hidden, dropout=dropout)
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(sequence_length, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, hidden, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self._width, self._dropout = width, dropout
        for embedding in (self.embedding, self.positions):
            nn.init.normal_(embedding.weight, std=width**-0.5)

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        tokens = batch["tokens"].long()
        return _mean_losses(self._logits(tokens[:, :-1]), tokens[:, 1:])

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        tokens = batch["tokens"].long()
        logits = self._logits(tokens[:, :-1])
        best = logits[:, -1].topk(min(NUM_CANDIDATES, logits.shape[-1]))
        return {"loss": _mean_losses(logits, tokens[:, 1:]), "candidates": best.indices, "scores": best.values}

    def units(self) -> list[nn.Module]:
        return list(self.blocks)

    def _logits(self, tokens: Tensor) -> Tensor:
        hidden = (self.embedding(tokens) + self.positions.weight) * self._width**0.5
        hidden = functional.dropout(hidden, self._dropout, self.training)
        for block in self.blocks:
            hidden = block(hidden)
        return functional.linear(self.norm(hidden), self.embedding.weight)


class Block(nn.Module):
    """Causal self-attention, then two linear layers; both added to what came in."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden_1 = nn.Linear(width, hidden)
        self.hidden_2 = nn.Linear(hidden, width)
        self._num_heads, self._dropout = num_heads, dropout
        for linear in (self.query, self.key, self.value, self.out, self.hidden_1, self.hidden_2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self._dropped(self.out(self._attention(self.attention_norm(hidden))))
        return hidden + self._dropped(self.hidden_2(functional.relu(self.hidden_1(self.hidden_norm(hidden)))))

    def _attention(self, inputs: Tensor) -> Tensor:
        queries, keys, values = (self._by_head(one(inputs)) for one in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return mixed.transpose(1, 2).reshape(inputs.shape)

    def _by_head(self, values: Tensor) -> Tensor:
        """[b, n, width] to [b, heads, n, width / heads]."""
        return values.unflatten(-1, (self._num_heads, -1)).transpose(1, 2)

    def _dropped(self, values: Tensor) -> Tensor:
        return functional.dropout(values, self._dropout, self.training)


def _mean_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """[b, n, vocabulary] and [b, n] to [b]."""
    return functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)
