"""The training loop: it drives any `Stage`, and everything it draws follows from (seed, step, part, rank, purpose)."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from common.checkpoint import save_safetensors
from common.distributed import fsdp
from common.distributed.checkpoint import checkpoints, read_meta, save_checkpoint
from common.distributed.metadata import DamagedCheckpoint
from common.distributed.process import Process
from common.logger import get_logger
from projects.video_diffusion_sr.training.average import AveragedWeights
from projects.video_diffusion_sr.training.finite import FiniteWatch
from projects.video_diffusion_sr.training.graphed import GraphedTurns
from projects.video_diffusion_sr.training.interrupt import StopRequest, stop_on_signals
from projects.video_diffusion_sr.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from projects.video_diffusion_sr.training.reports import Reports
from projects.video_diffusion_sr.training.run_state import RunState, refuse_other_run
from projects.video_diffusion_sr.training.settings import LoopSettings
from projects.video_diffusion_sr.training.stage import Batch, Player, Stage, StepRecord, Work, names_of

logger = get_logger(__name__)

VARIANTS = 128  # of one compiled block
MOST_STEPS_BETWEEN = 10  # two questions to all ranks whether anybody was asked to stop


class Source(Protocol):
    """Where batches come from."""

    def batches(self, start: int) -> Iterator[Batch]:
        """This rank's batches number start, start + 1, ...; number n is the same whatever the start."""


class Trainer:
    """One run of one stage.

    Args:
        stage: as built; its networks are moved and sharded here.
        source: of batches; step n uses the numbers n * accumulation and following.
        settings: of the loop.
        folder: of the run: `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `export/`.
        process: this rank and its device.
        strategy: `dit.fsdp.sharding_strategy`.
    """

    def __init__(
        self,
        stage: Stage,
        source: Source,
        settings: LoopSettings,
        folder: str | Path,
        process: Process,
        strategy: str = "NO_SHARD",
    ) -> None:
        self.stage, self.source, self.settings = stage, source, settings
        self.folder, self.process = Path(folder), process
        self.device = process.device
        stage.set_device(process.device)
        self.bf16 = settings.precision == "bf16"
        self._place(strategy)
        self.parameters = {p.name: self._named_parameters(p) for p in stage.players}
        self.optimizers = {
            p.name: make_optimizer((w for _, w in self.parameters[p.name]), p.optimizer, settings.graphs)
            for p in stage.players
        }
        self.graphed = self._graphed_turns() if settings.graphs else None
        self.averages = {
            name: AveragedWeights(stage.modules[name], stage.ema_decay, settings.ema_warmup) for name in stage.ema_of
        }
        self.watch = FiniteWatch(self.device)
        self.step = 0
        self.agree_every = 1

    def _place(self, strategy: str) -> None:
        stage, mesh = self.stage, fsdp.training_mesh(strategy, self.device.type)
        for name, module in {**stage.modules, **stage.frozen}.items():
            trained = name in stage.modules
            module.train(trained)
            if not trained:
                module.requires_grad_(False)
            units = stage.units(name)
            # A frozen network without blocks (the VAE) is small next to what is trained: it stays whole.
            if trained or units:
                fsdp.shard(module, units, strategy, mesh, bf16=self.bf16, entry_points=stage.entry_points(name))
            fsdp.place(module, self.device, stage.weights.pop(name, None))
            if mesh is None:
                fsdp.same_on_all_ranks(module)
            if self.settings.compile:
                compile_units(units)

    def _named_parameters(self, player: Player) -> list[tuple[str, nn.Parameter]]:
        named = [
            (f"{name}.{key}", parameter)
            for name in player.modules
            for key, parameter in self.stage.modules[name].named_parameters()
            if parameter.requires_grad
        ]
        if not named:
            raise ValueError(f"player {player.name} of stage {self.stage.name} has nothing to train")
        return named

    def _graphed_turns(self) -> GraphedTurns:
        players, world = self.stage.players, self.process.world
        if self.device.type != "cuda" or world > 1 or len(players) > 1:
            raise ValueError(
                f"graphs: stage {self.stage.name} with {len(players)} players on {world} x {self.device.type}; a "
                "captured step is for one player on one GPU"
            )
        return GraphedTurns(
            lambda prepared, draws: self._update(players[0], [prepared], [draws]),
            [parameter for _, parameter in self.parameters[players[0].name]],
            self.device,
        )

    def run(self, resume: bool = True, plan: Callable[[int], int] | None = None) -> bool:
        """Train until the last step, or until asked to stop.

        Args:
            resume: go on from the folder's newest checkpoint, if it has one.
            plan: told the steps done whenever there is a report, says how many the run has now; `settings.steps` stays
                if there is none.

        Returns:
            Whether the run is complete; then the averaged weights are in `export/`.

        Raises:
            NonFiniteLoss: names the samples; no checkpoint is written after the bad step.
        """
        if resume:
            self.resume()
        steps, log = self.settings.steps, self.settings.log
        reports = Reports(self.folder, self.process.leads, self.step, steps, self.process.world, self.device)
        stream = self.source.batches(self.step * self.settings.accumulation)
        saved = self.step
        with ExitStack() as stack:
            stack.callback(reports.close)
            request = stack.enter_context(stop_on_signals())
            while self.step < steps:
                self.process.alive(f"training step {self.step}")
                batches = [next(stream) for _ in range(self.settings.accumulation)]
                last = self.step + 1 == steps
                record, prepared = self.train_step(batches)
                reports.step(record.work)
                if (log.every and self.step % log.every == 0) or last:
                    self.watch.check()
                    self._pace(reports.scalars(record.step, self._mean_scalars(record)))
                    if plan is not None and not last:
                        steps = max(self.step + 1, plan(self.step))
                        self.settings = replace(self.settings, steps=steps)
                        reports.plan(steps)
                if log.images and (record.step % log.images == 0 or last):
                    reports.images(record.step, self.images(prepared))
                stopping = self._asked_to_stop(request)
                if self._checkpoint_due() or last or stopping:
                    self.save()
                    saved = self.step
                if stopping and not last:
                    logger.info("stopped after step %d of %d; the same command with --resume goes on", saved, steps)
                    return False
        self.export()
        return True

    def train_step(self, batches: list[Batch]) -> tuple[StepRecord, Any]:
        """One step of every player whose turn it is; the record, and the first batch as the stage prepared it."""
        step = self.step
        prepared = []
        for part, batch in enumerate(batches):
            with torch.no_grad(), self._autocast():
                prepared.append(self.stage.prepare(batch, self.draws(step, part, "prepare")))
        record = StepRecord(step, tuple(name for batch in batches for name in names_of(batch)))
        for player in self.stage.players:
            if player.plays(step):
                self._turn(player, prepared, record)
        for average in self.averages.values():
            average.update(step)
        self.watch.record(step, record.names, list(record.scalars.values()))
        if self.device.type == "cpu":
            self.watch.check()
        work = [self.stage.work(item) for item in prepared]
        record.work = Work(sum(w.samples for w in work), sum(w.flops for w in work))
        self.step += 1
        return record, prepared[0]

    def _turn(self, player: Player, prepared: list[Any], record: StepRecord) -> None:
        """One player's gradients and step, and what is to be known of them."""
        rate = learning_rate(player.optimizer, record.step, self.settings.steps)
        set_learning_rate(self.optimizers[player.name], rate)
        if self.graphed is not None:
            scalars = self.graphed(prepared[0], self._seed(record.step, 0, player.name))
        else:
            self._pass_through_others(player)
            parts = [self.draws(record.step, part, player.name) for part in range(len(prepared))]
            scalars = self._update(player, prepared, parts)
            for module in self.stage.modules.values():  # of all players: gradients that only passed through go, too
                module.zero_grad(set_to_none=True)
        record.scalars |= {f"{player.name}/{name}": value for name, value in scalars.items()}
        record.rates[f"{player.name}/lr"] = rate

    def _update(self, player: Player, prepared: list[Any], draws: list[torch.Generator]) -> dict[str, Tensor]:
        """Gradients of one player over all parts of the step, then its optimiser; the mean losses and the norm."""
        scalars: dict[str, Tensor] = {}
        for item, own_draws in zip(prepared, draws, strict=True):
            with self._autocast():
                losses = self.stage.losses(player.name, item, own_draws)
            (losses["total"] / len(prepared)).backward()
            for name, value in losses.items():
                value = value.detach()
                mean = value if len(prepared) == 1 else value / len(prepared)  # every launch counts in a small model
                scalars[name] = scalars[name] + mean if name in scalars else mean
        for module in self.stage.modules.values():
            fsdp.reshard(module)
        parameters = [parameter for _, parameter in self.parameters[player.name]]
        fsdp.average_gradients(parameters)
        scalars["gradient_norm"] = self._clip(player, parameters)
        self.optimizers[player.name].step()
        return scalars

    def _pass_through_others(self, player: Player) -> None:
        """No gradients are kept for the networks of other players.

        FSDP fixes the choice when it first gathers a network, so sharded ones compute them and they are dropped.
        """
        for other in self.stage.players if len(self.stage.players) > 1 else ():
            if not any(fsdp.is_sharded(self.stage.modules[name]) for name in other.modules):
                for _, parameter in self.parameters[other.name]:
                    parameter.requires_grad_(other.name == player.name)

    @staticmethod
    def _clip(player: Player, parameters: list[nn.Parameter]) -> Tensor:
        """The norm of all gradients together, which are scaled down to the player's limit."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            raise ValueError(f"no gradient reached player {player.name}: its loss does not depend on its networks")
        norm = fsdp.whole(torch.nn.utils.get_total_norm(gradients))
        if player.optimizer.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, player.optimizer.clip, norm)
        return norm

    def _autocast(self):
        if not self.bf16:
            return nullcontext()
        # A captured step may not keep casts of weights from one time to the next.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=self.graphed is None)

    def draws(self, step: int, part: int, purpose: str) -> torch.Generator:
        """The generator of one purpose in one part of one step on this rank, on the device."""
        return torch.Generator(self.device).manual_seed(self._seed(step, part, purpose))

    def _seed(self, step: int, part: int, purpose: str) -> int:
        words = f"{self.settings.seed}/{step}/{part}/{self.process.rank}/{purpose}"
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1

    def _mean_scalars(self, record: StepRecord) -> dict[str, float]:
        names = sorted(record.scalars)
        values = torch.stack([record.scalars[n].detach().float().reshape(()).to(self.device) for n in names])
        return dict(zip(names, fsdp.mean_over_ranks(values).tolist(), strict=True)) | record.rates

    @torch.no_grad()
    def images(self, prepared: Any) -> dict[str, Tensor]:
        """The stage's pictures of a prepared batch, on averaged weights."""
        with ExitStack() as stack:
            for name, average in self.averages.items():
                stack.enter_context(average.in_place())
                stack.callback(fsdp.reshard, self.stage.modules[name])
            stack.enter_context(self._autocast())
            return self.stage.images(prepared, self.draws(self.step, 0, "images"))

    def _checkpoint_due(self) -> bool:
        every = self.settings.checkpoint.every
        return every > 0 and self.step % every == 0

    def _asked_to_stop(self, request: StopRequest) -> bool:
        """All ranks agree; with several, once a second at most, as asking makes the device wait."""
        if self.process.world == 1:
            return request.asked
        return self.step % self.agree_every == 0 and fsdp.any_rank(request.asked, self.device)

    def _pace(self, steps_per_s: float) -> None:
        """How often ranks ask each other; the same on all of them."""
        mean = fsdp.mean_over_ranks(torch.tensor(steps_per_s, device=self.device)).item()
        self.agree_every = max(1, min(MOST_STEPS_BETWEEN, int(mean)))

    def save(self) -> Path:
        """A checkpoint of the present step, unless a loss was not finite."""
        self.watch.check()
        self.process.alive("writing a checkpoint")
        meta = {"stage": self.stage.name, "seed": self.settings.seed, "header": self.stage.export_header}
        folder = self.folder / "checkpoints"
        return save_checkpoint(folder, self.step, self._state().tensors(), meta, self.settings.checkpoint.keep)

    def resume(self) -> None:
        """Go on from the newest checkpoint of the folder that can be read; nothing happens where there is none.

        Raises:
            DamagedCheckpoint: there are checkpoints, and none can be read.
        """
        found = checkpoints(self.folder / "checkpoints")
        for number, checkpoint in enumerate(reversed(found), start=1):
            try:
                meta = read_meta(checkpoint)
                refuse_other_run(checkpoint, meta, self.stage.name, self.settings.seed)
                self._state().load(checkpoint)
            except DamagedCheckpoint as error:
                if number == len(found):
                    raise
                logger.warning("%s; going on from the one before it", error)
                continue
            self.step = int(meta["step"])
            logger.info("resumed from %s", checkpoint)
            return

    def _state(self) -> RunState:
        everything = (self.stage.modules, self.averages, self.optimizers, self.parameters)
        return RunState(*everything, self.stage.save_frozen)

    def export(self) -> list[Path]:
        """Averaged weights as the files that inference loads, in `export/`."""
        weights = {name: average.full_state() for name, average in self.averages.items()}
        if not self.process.leads:
            return []
        paths = []
        for file, state in self.stage.export(weights).items():
            paths.append(self.folder / "export" / file)
            header = {"stage": self.stage.name, "step": str(self.step), **self.stage.export_header}
            save_safetensors(state, paths[-1], header)
            logger.info("wrote %s", paths[-1])
        return paths


def compile_units(units: Sequence[nn.Module]) -> None:
    """torch.compile each unit for the very shapes it meets; blocks of one kind share what is compiled."""
    # Every size of batch, kind of block and way to cut windows is a variant of the same code; past the limit PyTorch
    # would go back to eager without a word.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 4 * VARIANTS
    )
    for unit in units:
        unit.compile(dynamic=False)
