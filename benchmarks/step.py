"""Time of a CV-KAN training step: pairs of real tensors against the same mathematics in torch.complex64.

    python benchmarks/step.py [--threads 1] [--device cpu] [--precision fp32] [--repeats 9]

Both sides share one set of weights, and scores and gradients are compared before anything is timed. A step is forward,
cross-entropy, backward. Steps of both sides alternate (A B A B ...), so that a busy machine slows both alike; a ratio is
taken between neighbours. Two figures a row: the whole step, and the step from tokens to loss alone, since the
convolutional stem is real on both sides and dilutes the difference.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.blocks import PolarizingBlock
from cvkan.models.cv_kan import CVKAN, CVKANSettings
from cvkan.models.embeddings import SinusoidalPositions
from cvkan.models.output import Pair
from cvkan.models.pairs import EPS
from cvkan.models.poolings import AttentionPooling

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = 1e-4
Step = Callable[[], Tensor]


def log_of(z: Tensor) -> Tensor:
    """log|z| of complex z, real."""
    return (z.abs().square() + EPS).log() / 2


def unit_of(z: Tensor) -> Tensor:
    """z/|z| of complex z."""
    return z / (z.abs().square() + EPS).sqrt()


def complex_block(block: PolarizingBlock, z: Tensor) -> Tensor:
    """PolarizingBlock with gated_tanh and mean aggregation, z (B, T, D) complex64; the real psi are those of `block`."""
    context = z.mean(1, keepdim=True)
    u, p = log_of(context), unit_of(context)
    if block.pointwise:
        own = unit_of(z)
        (change,) = block.psi_mag(log_of(z), u)
        direction = block.psi_phase(own.real, own.imag, p.real, p.imag)
    else:
        (change,) = block.psi_mag(u)
        direction = block.psi_phase(p.real, p.imag)
    amplitude = (5.0 * torch.tanh(change.float())).exp() * block.step
    return z + amplitude * unit_of(torch.complex(direction[0].float(), direction[1].float()))


def complex_scores(model: CVKAN, z: Tensor) -> Tensor:
    """Scores (B, n_outputs) of tokens z (B, T, D) complex64 with the weights of `model`."""
    for block in model.blocks:
        assert isinstance(block, PolarizingBlock)
        z = complex_block(block, z)
    z = z * (-log_of(z).mean(1, keepdim=True)).exp()
    pool = model.pool
    assert isinstance(pool, AttentionPooling)
    with torch.autocast(z.device.type, enabled=False):
        pooled = torch.complex(
            (pool.re(z.real).softmax(1).unsqueeze(-1) * z.real).sum(1),
            (pool.im(z.imag).softmax(1).unsqueeze(-1) * z.imag).sum(1),
        )
        scores: Tensor = model.head(pooled.abs())
    return scores


def complex_embed(model: CVKAN, x: Tensor) -> Tensor:
    """Images to tokens (B, T, D) complex64 with the stem and positions of `model`."""
    place = model.place
    assert isinstance(place, SinusoidalPositions)
    rotation = torch.complex(place.cos, place.sin)
    return torch.complex(*(part.float() for part in model.tokens(x))) * rotation


def settings_of(interaction: str, options: argparse.Namespace) -> CVKANSettings:
    """The model that is timed."""
    return CVKANSettings(
        d_complex=options.d_complex,
        n_layers=options.n_layers,
        patch_size=options.patch_size,
        interaction=interaction,
    )


class Contest:
    """The steps of both sides on one model and one batch."""

    def __init__(self, settings: CVKANSettings, task: Task, batch: int, device: str, dtype: torch.dtype | None) -> None:
        torch.manual_seed(0)
        self.model = CVKAN(settings, task).to(device)
        self.x = torch.randn(batch, *task.shape, device=device)
        self.y = torch.randint(task.n_outputs, (batch,), device=device)
        self.device, self.dtype = device, dtype
        with torch.no_grad():
            z = self.model.embed(self.x)
        self.tokens = Pair(z.re.requires_grad_(), z.im.requires_grad_())
        self.complex_tokens = torch.complex(z.re.detach(), z.im.detach()).requires_grad_()

    def autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    def step(self, scores: Step) -> Step:
        """Forward, loss and backward; synchronised, so that a clock around it is right on any device."""

        def run() -> Tensor:
            self.model.zero_grad(set_to_none=True)
            for leaf in (self.tokens.re, self.tokens.im, self.complex_tokens):
                leaf.grad = None
            with self.autocast():
                out = scores()
                loss = F.cross_entropy(out, self.y)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.device != "cpu":
                torch.cuda.synchronize()
            return out.detach()

        return run

    def whole(self) -> tuple[Step, Step]:
        """From images to gradients: (pairs, complex64)."""
        return (
            self.step(lambda: self.model(self.x).scores),
            self.step(lambda: complex_scores(self.model, complex_embed(self.model, self.x))),
        )

    def mixing(self) -> tuple[Step, Step]:
        """From tokens to gradients: (pairs, complex64)."""
        return (
            self.step(lambda: self.model.score(self.model.mix(self.tokens))),
            self.step(lambda: complex_scores(self.model, self.complex_tokens)),
        )

    def check(self, steps: Sequence[Step]) -> tuple[float, float]:
        """Largest difference of scores, and of gradients over each gradient's largest entry, between both sides."""
        results = []
        for run in steps:
            scores = run()
            results.append((scores, {k: p.grad.clone() for k, p in self.model.named_parameters() if p.grad is not None}))
        (a, grads_a), (b, grads_b) = results
        gaps = [float((grads_a[k] - g).abs().max() / g.abs().max().clamp(min=1e-12)) for k, g in grads_b.items()]
        return float((a - b).abs().max()), max(gaps)


def seconds(run: Step) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def race(steps: tuple[Step, Step], repeats: int) -> str:
    """Alternate both steps and describe their times and ratios."""
    pairs_step, complex_step = steps
    for run in steps:
        run()
    times = [(seconds(pairs_step), seconds(complex_step)) for _ in range(repeats)]
    ratios = [b / a for a, b in times]
    a, b = (statistics.median(side) * 1e3 for side in zip(*times, strict=True))
    return f"{a:9.1f} {b:9.1f}   {statistics.median(ratios):5.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=list(PRECISIONS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--d-complex", type=int, default=256)
    parser.add_argument("--n-layers", type=int, default=6)
    parser.add_argument("--patch-size", type=int, default=4, choices=[2, 4], help="4 is the image log's stem: 64 tokens")
    parser.add_argument("--image", type=int, nargs=3, default=[3, 32, 32], metavar=("C", "H", "W"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_from(arguments)
    torch.set_num_threads(options.threads)
    task = Task("image", tuple(options.image), "classes", 10)
    shape = "x".join(map(str, options.image))
    print(f"CV-KAN d_complex {options.d_complex}, n_layers {options.n_layers}, conv stem, patch {options.patch_size}")
    print(f"batch {options.batch_size} of {shape}, {options.precision}, {options.device}, {options.threads} thread(s)")
    print(f"torch {torch.__version__}")
    print(f"{'interaction':12}{'step':8}{'pairs ms':>9} {'complex ms':>9}  complex/pairs: median (min to max) of {options.repeats}")
    for interaction in ("broadcast", "pointwise"):
        contest = Contest(settings_of(interaction, options), task, options.batch_size, options.device, PRECISIONS[options.precision])
        scores_gap, gradients_gap = contest.check(contest.whole())
        if options.precision == "fp32" and scores_gap > TOLERANCE:
            raise SystemExit(f"the two sides disagree: scores differ by {scores_gap:.1e}")
        for name, steps in (("whole", contest.whole()), ("mixing", contest.mixing())):
            print(f"{interaction:12}{name:8}{race(steps, options.repeats)}")
        print(f"{'':12}scores agree to {scores_gap:.1e}, gradients to {gradients_gap:.1e} of their largest entry")


if __name__ == "__main__":
    main()
