"""Time of one layer's mixing, forward and backward: TPI against causal attention, GRU and LSTM, eager and compiled.

    python benchmarks/mixers.py [--threads 1] [--device cpu] [--repeats 15] [--variant single] [--window none]

Mixing only: no normalisation before, no residual, no feed-forward block. TPI has its linear head (expansion 0); attention is
F.scaled_dot_product_attention between a qkv and an output projection; GRU and LSTM are torch's. All sides take turns in one
process, so that a busy machine slows all alike; a ratio is taken between neighbours. On a CPU with one thread the clock is
that of the process, which other processes do not advance. At the end: how TPI's time and memory grow with T at equal B.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.models.tpi import VARIANTS, WINDOWS, Mixer, TPISettings

SHAPES = ((16, 256, 128), (4, 1024, 128))
"""B, T, D."""
GROWTH = ((4, 256, 128), (4, 1024, 128), (4, 4096, 128))
HEADS = 4
Step = Callable[[], None]


class Attention(nn.Module):
    """x (B, T, D) -> (B, T, D), causal, with HEADS heads."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, d = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, d))
        return out


def step(module: Callable[[Tensor], Tensor | tuple[Tensor, ...]], x: Tensor) -> Step:
    """Forward and backward, from a gradient of ones' size; synchronised, so that a clock around it is right on any device."""
    gradient = torch.randn_like(x)

    def run() -> None:
        x.grad = None
        out = module(x)
        (out if isinstance(out, Tensor) else out[0]).backward(gradient)  # type: ignore[no-untyped-call]
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


def sides(x: Tensor, options: argparse.Namespace) -> dict[str, Step]:
    """Every side's step on the same input."""
    d = x.shape[-1]
    torch.manual_seed(0)
    tpi = Mixer(TPISettings(d_model=d, expansion=0, variant=options.variant, window=options.window)).to(x.device)
    attention = Attention(d).to(x.device)
    found = {"tpi": step(tpi, x), "attention": step(attention, x)}
    if not options.eager:
        found |= {"tpi compiled": step(torch.compile(tpi), x), "attention compiled": step(torch.compile(attention), x)}
    found["gru"] = step(nn.GRU(d, d, batch_first=True).to(x.device), x)
    found["lstm"] = step(nn.LSTM(d, d, batch_first=True).to(x.device), x)
    return found


def race(steps: dict[str, Step], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of each side, taking turns."""
    for run in steps.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, run in steps.items():
            start = clock()
            run()
            times[name].append((clock() - start) * 1e3)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """slow/fast: median (smallest to largest) of neighbours."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):5.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def compare(shape: tuple[int, int, int], options: argparse.Namespace, clock: Callable[[], float]) -> None:
    """Prints the times of all sides on one shape, and how much longer each takes than TPI."""
    x = torch.randn(shape, device=options.device, requires_grad=True)
    times = race(sides(x, options), options.repeats, clock)
    print("B{} T{} D{}".format(*shape))
    best = "tpi" if options.eager else "tpi compiled"
    print(f"  {'':20}{'ms (median)':>12}   time / {best}: median (min to max)")
    for name, values in times.items():
        print(f"  {name:20}{statistics.median(values):12.1f}   {ratio(values, times[best])}")
    if not options.eager:
        print(f"  compiled TPI takes {ratio(times['tpi compiled'], times['tpi'])} of eager")


def kept_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes of all tensors that the forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    del out
    return sum(kept.values())


def growth(options: argparse.Namespace, clock: Callable[[], float]) -> None:
    """Prints time and memory of eager TPI and attention over T."""
    print("growth with T at equal B, over that of the first row: time, tensors kept for the backward pass")
    first: dict[str, tuple[float, int]] = {}
    for batch, tokens, d in GROWTH:
        x = torch.randn(batch, tokens, d, device=options.device, requires_grad=True)
        torch.manual_seed(0)
        mixer = Mixer(TPISettings(d_model=d, expansion=0, variant=options.variant, window=options.window)).to(x.device)
        modules: dict[str, nn.Module] = {"tpi": mixer, "attention": Attention(d).to(x.device)}
        times = race({name: step(module, x) for name, module in modules.items()}, max(3, options.repeats // 3), clock)
        cells = []
        for name, module in modules.items():
            taken, size = statistics.median(times[name]), kept_bytes(module, x)
            base = first.setdefault(name, (taken, size))
            cells.append(f"{name} {taken:8.1f} ms {taken / base[0]:6.1f}x, {size / 1e6:6.1f} MB {size / base[1]:5.1f}x")
        print(f"  B{batch} T{tokens:<6}{tokens // GROWTH[0][1]:3}x tokens   {'   '.join(cells)}")


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--variant", default="single", choices=VARIANTS)
    parser.add_argument("--window", default="none", choices=WINDOWS)
    parser.add_argument("--eager", action="store_true", help="leave out torch.compile")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_from(arguments)
    torch.set_num_threads(options.threads)
    alone = options.device == "cpu" and options.threads == 1
    print(f"TPI {options.variant}, window {options.window}; fp32, {options.device}, {options.threads} thread(s), {options.repeats} repeats")
    print(f"torch {torch.__version__}; {'process' if alone else 'wall'} time")
    clock = time.process_time if alone else time.perf_counter
    for shape in SHAPES:
        compare(shape, options, clock)
    growth(options, clock)


if __name__ == "__main__":
    main()
