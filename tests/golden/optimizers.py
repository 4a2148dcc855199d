"""AdamW in 32 bits as PyTorch does it, gradient clipping, and AdamW with 8-bit states.

The 8-bit rule is bitsandbytes' block-wise one, written out: blocks of 256, a signed dynamic map for the
first moment and an unsigned one for the second, and the update made from the fresh f32 moments before
they are rounded. Weight decay comes before the step, as in PyTorch and in bitsandbytes' portable
version. A small negative moment never rounds to 0, so it keeps its sign. Tensors under 4096 elements
keep f32 moments.
"""

import math

import torch

from common import case, save_tensors, seed

LR, BETAS, EPS, DECAY = 1e-2, (0.9, 0.999), 1e-8, 1e-2
BLOCK, SMALL = 256, 4096
STEPS = 5


def dynamic_map(signed: bool) -> torch.Tensor:
    """256 sorted values in [-1, 1] or [0, 1]: seven decades, each twice as fine as the one below."""
    values = [0.0, 1.0]
    for decade in range(7):
        count = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1, count + 1, dtype=torch.float32)
        middles = 10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += middles.tolist()
        if signed:
            values += (-middles).tolist()
    assert len(values) == 256
    return torch.tensor(sorted(values), dtype=torch.float32)


def blocks(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, -len(x) % BLOCK)).view(-1, BLOCK)


def dequantise(codes: torch.Tensor, scales: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    values = blocks(table[codes.long()]) * scales[:, None]
    return values.flatten()[: len(codes)]


def quantise(x: torch.Tensor, table: torch.Tensor, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest entry of x over its block's largest magnitude; the sign survives the rounding."""
    scales = blocks(x).abs().amax(1)
    ratio = blocks(x) / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    ratio = ratio.flatten()[: len(x)]
    codes = torch.searchsorted((table[1:] + table[:-1]) / 2, ratio)
    if signed:
        # Only a small negative value can lose its sign, to the entry 0.
        codes -= ((ratio < 0) & (table[codes] >= 0)).long()
    return codes.to(torch.uint8), scales


class AdamW8bit:
    def __init__(self, param: torch.Tensor):
        self.param, self.step_count = param.clone(), 0
        self.small = param.numel() < SMALL
        self.tables = dynamic_map(True), dynamic_map(False)
        empty = torch.zeros(param.numel(), dtype=torch.float32 if self.small else torch.uint8)
        self.states = [empty, empty]
        self.scales = [torch.zeros(math.ceil(param.numel() / BLOCK))] * 2

    def step(self, grad: torch.Tensor) -> None:
        self.step_count += 1
        m, v = self.states
        if not self.small:
            m, v = (dequantise(*state) for state in zip(self.states, self.scales, self.tables))
        m = BETAS[0] * m + (1 - BETAS[0]) * grad
        v = BETAS[1] * v + (1 - BETAS[1]) * grad * grad
        correction1 = 1 - BETAS[0] ** self.step_count
        correction2 = math.sqrt(1 - BETAS[1] ** self.step_count)
        rate = -LR * correction2 / correction1
        self.param = self.param * (1 - LR * DECAY) + rate * (m / (v.sqrt() + correction2 * EPS))
        self.states = [m, v]
        if not self.small:
            pairs = [quantise(x, t, i == 0) for i, (x, t) in enumerate(zip((m, v), self.tables))]
            self.states, self.scales = [p[0] for p in pairs], [p[1] for p in pairs]


def gradients(size: int, step: int) -> torch.Tensor:
    """Magnitudes over several decades, some exact zeros, and numbers that f16 holds."""
    scale = 10.0 ** torch.linspace(-4, 0, size)
    grad = torch.randn(size) * scale * (1 + 0.5 * step)
    grad[:: 7 + step] = 0
    return grad.half().float()


def make_adamw() -> None:
    seed("adamw")
    params = {"a": torch.randn(7), "b": torch.randn(4, 5), "c": torch.randn(3, 2, 2, 2)}
    live = {k: torch.nn.Parameter(v.clone()) for k, v in params.items()}
    optimizer = torch.optim.AdamW(live.values(), lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    tensors = {f"param.{k}.0": v for k, v in params.items()}
    for step in range(1, STEPS + 1):
        for k, p in live.items():
            p.grad = torch.randn_like(p) * 10.0 ** (step - 4)
            tensors[f"grad.{k}.{step}"] = p.grad.clone()
        optimizer.step()
        for k, p in live.items():
            tensors[f"param.{k}.{step}"] = p.detach().clone()
            tensors[f"m.{k}.{step}"] = optimizer.state[p]["exp_avg"].clone()
            tensors[f"v.{k}.{step}"] = optimizer.state[p]["exp_avg_sq"].clone()
    save_tensors("optimizer/adamw.safetensors", tensors)
    options = dict(lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, steps=STEPS)
    case("adamw", "adamw", golden="optimizer/adamw.safetensors", params=list(params), **options)


def make_clipping() -> None:
    seed("clip-grad-norm")
    tensors = {}
    for name, size in (("active", 10.0), ("inactive", 0.01)):
        live = {k: torch.nn.Parameter(torch.zeros(s)) for k, s in {"a": (7,), "b": (4, 5)}.items()}
        for k, p in live.items():
            p.grad = size * torch.randn_like(p)
            tensors[f"grad.{name}.{k}"] = p.grad.clone()
        tensors[f"norm.{name}"] = torch.nn.utils.clip_grad_norm_(live.values(), 1.0).view(1)
        tensors.update({f"clipped.{name}.{k}": p.grad for k, p in live.items()})
    path = "optimizer/clip_grad_norm.safetensors"
    save_tensors(path, tensors)
    case("clip-grad-norm", "clip-grad-norm", golden=path, max_norm=1.0, names=["active", "inactive"])


def make_adamw8bit() -> None:
    seed("adamw-8bit")
    tensors = {"map.signed": dynamic_map(True), "map.unsigned": dynamic_map(False)}
    for name, size in (("whole", 8192), ("ragged", 4100), ("small", 300)):
        optimizer = AdamW8bit(torch.randn(size))
        tensors[f"param.{name}.0"] = optimizer.param
        for step in range(1, STEPS + 1 if name == "whole" else 3):
            grad = gradients(size, step)
            if name == "whole" and step < 3:
                grad[512:768] = 0
            optimizer.step(grad)
            tensors[f"grad.{name}.{step}"] = grad.half()
            tensors[f"param.{name}.{step}"] = optimizer.param
            for k, state, scale in zip("mv", optimizer.states, optimizer.scales):
                tensors[f"{k}.{name}.{step}"] = state
                if not optimizer.small:
                    tensors[f"{k}_scale.{name}.{step}"] = scale
    path = "optimizer/adamw8bit.safetensors"
    save_tensors(path, tensors)
    options = dict(lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, block=BLOCK, small=SMALL)
    params = [{"name": "whole", "steps": STEPS}, {"name": "ragged", "steps": 2}, {"name": "small", "steps": 2}]
    case("adamw8bit", "adamw8bit", golden=path, params=params, **options)


def make() -> None:
    make_adamw()
    make_clipping()
    make_adamw8bit()
