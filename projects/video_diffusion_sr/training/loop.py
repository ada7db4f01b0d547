"""The training loop for any `Stage`. Random numbers depend only on (seed, step, part, rank, purpose)."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.checkpoint import save_safetensors
from common.distributed import fsdp
from common.distributed.parallel import Parallel
from common.distributed.process import Process
from common.logger import get_logger
from projects.video_diffusion_sr.training.bad_steps import BadSteps
from projects.video_diffusion_sr.training.ema import ExponentialMovingAverage
from projects.video_diffusion_sr.training.nan_guard import NaNGuard, NonFiniteLoss
from projects.video_diffusion_sr.training.placement import place_networks
from projects.video_diffusion_sr.training.profiling import profiled
from projects.video_diffusion_sr.training.reports import Reports, introduce
from projects.video_diffusion_sr.training.run_checkpoints import RunCheckpoints
from projects.video_diffusion_sr.training.run_state import RunState
from projects.video_diffusion_sr.training.settings import LoopSettings
from projects.video_diffusion_sr.training.stage import Batch, BatchSource, Stage, StepRecord, Work, names_of
from projects.video_diffusion_sr.training.stop_signals import StopVote, stop_on_signals
from projects.video_diffusion_sr.training.updates import PlayerUpdates

if TYPE_CHECKING:  # importing it loads libraries that a loop without validation does not need
    from projects.video_diffusion_sr.training.validation import Validation

logger = get_logger(__name__)


class Trainer:
    """One run of one stage.

    Args:
        stage: a newly built stage; the loop moves its networks to the device and shards them.
        source: the source of batches; step n uses `accumulation` batches from number n * accumulation on.
        settings: the settings of the loop.
        folder: the run's folder, with `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `export/`.
        process: this rank and its device.
        strategy: `dit.fsdp.sharding_strategy`.
        validation: the measurement on held-out clips; None: there is none.
    """

    def __init__(
        self,
        stage: Stage,
        source: BatchSource,
        settings: LoopSettings,
        folder: str | Path,
        process: Process,
        strategy: str = "NO_SHARD",
        validation: "Validation | None" = None,
    ) -> None:
        self.stage, self.source, self.settings, self.validation = stage, source, settings, validation
        self.folder, self.process = Path(folder), process
        self.device = process.device
        parallel = Parallel(process, settings.sp_size)
        if parallel.size > 1:
            stage.share_clips(parallel)
        stage.set_device(process.device)
        bf16 = settings.precision == "bf16"
        place_networks(stage, strategy, process.device, bf16=bf16, compiled=settings.compile)
        self.updates = PlayerUpdates(stage, settings, process)
        self.emas = {
            name: ExponentialMovingAverage(stage.modules[name], stage.ema_decay, settings.ema_warmup)
            for name in stage.ema_of
        }
        self.nan_guard = NaNGuard(self.device, settings.bad_steps.most_norm)
        self.bad_steps = BadSteps(self.folder, settings.bad_steps.most, process.is_leader)
        state = RunState(stage.modules, self.emas, self.updates.optimizers, self.updates.parameters, stage.save_frozen)
        of_run = (stage.name, settings.seed, stage.export_header)
        self.checkpoints = RunCheckpoints(self.folder / "checkpoints", settings.checkpoint, state, *of_run)
        self.step = 0
        self.stop_vote = StopVote(process)

    def run(self, resume: bool = True) -> bool:
        """Train until the last step or until a stop signal.

        Args:
            resume: continue from the folder's newest checkpoint, if it has one.

        Returns:
            Whether the run is complete; then the averaged weights are in `export/`.

        Raises:
            NonFiniteLoss: a loss or gradient was not finite. The message names the samples; no later checkpoint exists.
        """
        if resume:
            self.resume()
        if self.bad_steps.most and not self.checkpoints.found:
            self.save(wait=True)  # the checkpoint to go back to
        if self.process.is_leader:
            introduce(self.stage, self.settings, self.process, self.step, self.folder)
        while True:
            try:
                return self._run()
            except NonFiniteLoss as bad:
                self.bad_steps.note(bad)
                self._go_back()

    def _run(self) -> bool:
        """Train from the present step on; see `run`."""
        settings, first = self.settings, self.step
        with ExitStack() as stack:
            reports = Reports(
                self.folder,
                self.process.is_leader,
                self.step,
                settings.steps,
                self.process.group(settings.sp_size)[1],
                self.device,
                settings.wandb,
            )
            stack.callback(reports.close)
            profiler = stack.enter_context(profiled(settings.profile, self.folder, self.process.rank))
            request = stack.enter_context(stop_on_signals())
            stream = self.source.batches(self.step * settings.accumulation)
            while self.step < self.settings.steps:
                self.process.alive(f"training step {self.step}")
                with reports.waiting():
                    batches = [next(stream) for _ in range(settings.accumulation)]
                last = self.step + 1 == self.settings.steps
                record, prepared = self.train_step(batches)
                reports.step(record.work, self.source.fill(record.step * settings.accumulation))
                self._report(reports, record, prepared, first, last)
                if profiler is not None:
                    profiler.step()
                stopping = self.stop_vote.passed(request, self.step)
                if self.checkpoints.due(self.step) or last or stopping:
                    self.save(wait=last or stopping)
                if stopping and not last:
                    logger.info("stopped after step %d of %d; the same command resumes", self.step, self.settings.steps)
                    return False
        export_averages(self.stage, self.emas, self.folder, self.step, self.process.is_leader)
        return True

    def _report(self, reports: Reports, record: StepRecord, prepared: Any, first: int, last: bool) -> None:
        """Write scalars, run validation and write pictures after a step, each if it is due."""
        log, step = self.settings.log, record.step
        regular = bool(log.every) and self.step % log.every == 0
        if regular or last or (log.every and step == first):
            self.nan_guard.check()
            self.checkpoints.poll(self.device)
            self.stop_vote.set_interval(reports.scalars(step, self._mean_scalars(record)))
        if self.validation is not None and self.validation.due(step, last):
            self.process.alive(f"validation after step {step}")
            measure = self.validation.measure
            values, pictures = self._with_ema(lambda _: measure(self.stage), "validation")
            reports.validation(step, values)
            reports.images(step, pictures)
        if log.images and (step % log.images == 0 or last):
            reports.images(step, self.images(prepared))

    def _go_back(self) -> None:
        """Return to the newest checkpoint and drop everything computed since."""
        self.checkpoints.finish()
        self.nan_guard.clear()
        self.updates.clear()
        self.resume()

    def train_step(self, batches: list[Batch]) -> tuple[StepRecord, Any]:
        """Update every player that is due in this step. Returns the record, and the first prepared batch."""
        step = self.step
        prepared = []
        for micro_batch, batch in enumerate(batches):
            with torch.no_grad(), self.updates.autocast():
                prepared.append(self.stage.prepare(batch, self.updates.generator(step, micro_batch, "prepare")))
        record = StepRecord(step, tuple(name for batch in batches for name in names_of(batch)))
        players = [] if step in self.bad_steps.steps else [p for p in self.stage.players if p.plays(step)]
        for player in players:
            scalars, rate = self.updates.play(player, step, self.settings.steps, prepared)
            record.scalars |= {f"{player.name}/{name}": value for name, value in scalars.items()}
            record.rates[f"{player.name}/lr"] = rate
            for name in player.modules:  # an EMA counts the updates of its network
                if name in self.emas:
                    self.emas[name].update((step - player.start) // player.every)
        self.nan_guard.record(step, record.names, record.scalars)
        if self.device.type == "cpu":
            self.nan_guard.check()
        work = [self.stage.work(item) for item in prepared]
        record.work = Work(sum(w.samples for w in work), sum(w.flops for w in work) / self.settings.sp_size)
        self.step += 1
        return record, prepared[0]

    def _mean_scalars(self, record: StepRecord) -> dict[str, float]:
        names = sorted(record.scalars)
        if not names:  # a skipped step
            return {}
        values = torch.stack([record.scalars[n].detach().float().reshape(()).to(self.device) for n in names])
        return dict(zip(names, fsdp.mean_over_ranks(values).tolist(), strict=True)) | record.rates

    def images(self, prepared: Any) -> dict[str, Tensor]:
        """The stage's pictures of a prepared batch, with averaged weights."""
        return self._with_ema(lambda generator: self.stage.images(prepared, generator), "images")

    @torch.no_grad()
    def _with_ema(self, compute: Callable[[torch.Generator], Any], purpose: str) -> Any:
        """Call `compute` with a generator while the networks have the averaged weights. Returns its result."""
        with ExitStack() as stack:
            for name, ema in self.emas.items():
                stack.enter_context(ema.in_place())
                stack.callback(fsdp.reshard, self.stage.modules[name])
            stack.enter_context(self.updates.autocast())
            return compute(self.updates.generator(self.step, 0, purpose))

    def save(self, wait: bool = False) -> None:
        """Write a checkpoint of the present step, unless a loss was not finite.

        Args:
            wait: return only when it is written, even if checkpoints are asynchronous.
        """
        self.nan_guard.check()
        self.process.alive("writing a checkpoint")
        self.checkpoints.save(self.step, wait)

    def resume(self) -> None:
        """Load the newest readable checkpoint of the folder, if there is any checkpoint.

        Raises:
            DamagedCheckpoint: there are checkpoints, but none can be read.
        """
        self.bad_steps.load()
        step = self.checkpoints.load_newest()
        self.step = self.step if step is None else step


def export_averages(
    stage: Stage, emas: Mapping[str, ExponentialMovingAverage], folder: Path, step: int, writes: bool
) -> None:
    """Write the averaged weights into `folder/export`, as files that inference loads. Every rank must call it.

    Args:
        step: number of steps done, for the header of the files.
        writes: whether this rank writes.
    """
    weights = {name: ema.full_state() for name, ema in emas.items()}
    if not writes:
        return
    for file, state in stage.export(weights).items():
        path = folder / "export" / file
        save_safetensors(state, path, {"stage": stage.name, "step": str(step), **stage.export_header})
        logger.info("wrote %s", path)
