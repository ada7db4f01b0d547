"""The smallest stage that has everything: two players, averaged weights, draws, samples with names."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from projects.video_diffusion_sr.training.settings import OptimizerSettings
from projects.video_diffusion_sr.training.stage import BatchSource, Player, Stage, Work

WIDTH = 8


class Toy(nn.Module):
    """A network with blocks, as the loop shards them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.out(x)


class ToyStage(Stage):
    """A generator that fits a line and a critic that looks on; both draw noise (`noise` 0: neither)."""

    name = "toy"

    def __init__(self, seed: int = 0, clip: float | None = 1.0, noise: float = 0.1) -> None:
        super().__init__()
        self.noise = noise
        torch.manual_seed(seed)
        self.modules = {"net": Toy(), "critic": Toy()}
        self.ema_of, self.ema_decay = ("net",), 0.9
        settings = OptimizerSettings(lr=1e-2, warmup=2, schedule="cosine", clip=clip)
        self.players = (Player("critic", ("critic",), settings, every=2), Player("generator", ("net",), settings))

    def prepare(self, batch: list[dict], generator: torch.Generator) -> Tensor:
        x = torch.stack([sample["x"] for sample in batch]).to(self.device)
        return x + self.noise * torch.randn(x.shape, generator=generator, device=self.device)

    def losses(self, player: str, prepared: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        noise = self.noise * torch.randn(prepared.shape, generator=generator, device=self.device)
        y = self.modules["net"](prepared + noise)
        if player == "generator":
            fit = (y - prepared.sum(1, keepdim=True)).square().mean()
            return {"total": fit + 0.01 * self.modules["critic"](prepared * y).mean(), "fit": fit}
        return {"total": (self.modules["critic"](prepared * y.detach()) - 1).square().mean()}

    def images(self, prepared: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"grey": self.modules["net"](prepared).sigmoid().mean().expand(3, 4, 4)}

    def work(self, prepared: Tensor) -> Work:
        return Work(len(prepared), 1e6)


class ToySource(BatchSource):
    """Batch n of a rank follows from (n, rank); `bad` is the number of a batch with a value that is no number."""

    def __init__(self, rank: int = 0, world: int = 1, samples: int = 4, bad: int = -1) -> None:
        self.rank, self.world, self.samples, self.bad = rank, world, samples, bad

    def batches(self, start: int) -> Iterator[list[dict]]:
        number = start
        while True:
            yield [self._sample(number, slot) for slot in range(self.rank, self.samples, self.world)]
            number += 1

    def _sample(self, number: int, slot: int) -> dict:
        x = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1000 * number + slot))
        x = x * float("nan") if number == self.bad and slot == 1 else x
        return {"x": x, "identity": f"clip {number}.{slot}"}
