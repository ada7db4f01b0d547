"""Does each stage do what the papers say, on photographs? docs/recipe_evidence.md has the question and the answers.

    python projects/train_tiny.py pairs --recipe configs_train/evidence.yaml --data PHOTOGRAPHS --output runs/evidence
    python projects/recipe_evidence.py train --held_out PICTURES --output runs/evidence
    python projects/recipe_evidence.py measure --held_out PICTURES --output runs/evidence --rows photographs.csv
    python projects/recipe_evidence.py draw --output runs/evidence --picture rows.jpg

`train` trains a diffusion model from nothing, distills it round by round, and runs the adversarial stage in the
variants of `configs_train/evidence.yaml`, all in fixed steps; each row restores the held-out pictures. What exists is
kept. `measure` writes a line for each row and picture, and one for each measure of the whole set, and keeps the lines
of earlier rows. `draw` shows the same squares of every row below one another.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from common.checkpoint import load_into, read_state_dict, save_safetensors
from common.config import load_config, plain_values
from common.create import create_object
from common.diffusion import Guidance
from common.distributed.process import Process, process_group
from common.logger import get_logger, set_up_logging
from common.strict_settings import settings_from
from data.degradation.pipeline import build_degradation
from data.pixel_range import model_to_uint8
from data.training.model_range import to_model_range, upsample_to_model_range
from models.video_vae_v3.modules.posterior import DiagonalGaussian
from projects.evaluation.distribution import distribution_measures
from projects.evaluation.measures import frame_scores
from projects.program import add_settings, new_parser, parse_with_settings, run_program
from projects.video_diffusion_sr.build import build_vae, seeded_prompts
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage, DiscriminatorStart
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillRound, DistillSettings, DistillStage
from projects.video_diffusion_sr.training.latent_stage import LatentStage
from projects.video_diffusion_sr.training.latents import PosteriorBatch
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.packed import size_of
from projects.video_diffusion_sr.training.run_folder import owned
from projects.video_diffusion_sr.training.settings import LoopSettings
from projects.video_diffusion_sr.training.tiny.pair_latents import PairLatents, SetPlan
from projects.video_diffusion_sr.training.tiny.residual_start import start_as_residual

logger = get_logger(__name__)

AT_ONCE = 16  # number of pictures in a batch
DRAWN, LABEL = 12, 260  # squares of a row in the picture, and the width of its name in pixels
TRUTH, BICUBIC, CODED = "truth", "bicubic", "VAE alone"
COLUMNS = ["row", "measure", "picture", "value"]  # picture: empty for a measure of the whole set


def squares(folder: Path, side: int) -> list[tuple[str, np.ndarray]]:
    """Cut the pictures of a folder into whole squares: the picture's file name, and uint8 [side, side, 3]."""
    made = []
    for path in sorted(folder.iterdir()):
        picture = np.asarray(Image.open(path).convert("RGB"))
        rows, columns = (range(0, n - side + 1, side) for n in picture.shape[:2])
        made += [(path.name, picture[y : y + side, x : x + side]) for y in rows for x in columns]
    return made


class Evidence:
    """Makes all rows of one run.

    Args:
        recipe: the YAML.
        held_out: a folder of pictures that are not used in training.
        output: a folder with `pairs`, in which each training gets a folder, and each row a file `rows/NAME.npy`.
    """

    def __init__(self, recipe: dict[str, Any], held_out: Path, output: Path, process: Process) -> None:
        self.recipe, self.output, self.process = recipe, output, process
        config = load_config(recipe["config"], recipe["model"])
        self.vae = build_vae(config.vae, Path(config.vae.checkpoint), process.device, torch.float32)
        self.trainer = create_object(config)
        self.scale = float(config.vae.scaling_factor)
        self.prompts = TrainingPrompts(*seeded_prompts(config.dit.model.txt_in_dim))
        sets = len(recipe["pairs"]["sets"]) * recipe["pairs"]["rounds"]
        self.source = PairLatents(self.vae, output / "pairs", SetPlan(sets, 1, sets), 0, recipe["seed"])
        self._hold_out(held_out)

    @torch.no_grad()
    def _hold_out(self, folder: Path) -> None:
        """Make ground truths, the latents of their degraded versions, and the rows that need no training."""
        section = self.recipe["held_out"]
        degrade = build_degradation(plain_values(load_config(self.recipe["pairs"]["degradation_image"])))
        truths = [square for _, square in squares(folder, section["side"])]
        lows = [degrade(x[None], section["seed"] + i) for i, x in enumerate(truths)]
        hq = torch.from_numpy(np.stack(truths))[:, None].to(self.process.device)
        lq = torch.from_numpy(np.stack(lows)).to(self.process.device)
        large = upsample_to_model_range(lq, section["side"], section["side"])
        both = (to_model_range(hq), large)
        self.moments = [
            torch.cat([DiagonalGaussian(self.vae.encode_parameters(x)).mode() for x in clips.split(AT_ONCE)])
            for clips in both
        ]
        self._write(TRUTH, to_model_range(hq))
        self._write(BICUBIC, large)
        self._write(CODED, self._decoded(self.moments[0]))

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        return torch.cat([self.vae.decode_latents(z) for z in latents.split(AT_ONCE)])

    def _write(self, row: str, clips: Tensor) -> None:
        """Write clips [N, 3, 1, H, W] in [-1, 1] to `rows/ROW.npy` as uint8 [N, H, W, 3]."""
        (self.output / "rows").mkdir(parents=True, exist_ok=True)
        pictures = model_to_uint8(clips[:, :, 0]).permute(0, 2, 3, 1)
        beside = self.output / "rows" / "unfinished.tmp"
        with beside.open("wb") as file:
            np.save(file, pictures.cpu().numpy())
        beside.replace(self.output / "rows" / f"{row}.npy")

    @torch.no_grad()
    def restore(self, row: str, stage: LatentStage, steps: int) -> None:
        """Restore the held-out pictures with this number of sampling steps, as the row of that name."""
        if (self.output / "rows" / f"{row}.npy").is_file():
            return
        generator = torch.Generator(self.process.device).manual_seed(self.recipe["seed"])
        made = []
        for hq, lq in zip(*(z.split(AT_ONCE) for z in self.moments), strict=True):
            size = size_of(hq[0])
            rows = [z.permute(0, 2, 3, 4, 1).flatten(0, 3) for z in (hq, lq)]
            batch = PosteriorBatch(rows[0], rows[0], rows[1], rows[1], (size,) * len(hq), ("held out",) * len(hq))
            latents = stage.sample(stage.dit, stage.prepare(batch, generator), steps, Guidance(), generator)
            made.append((latents / self.scale).unflatten(0, (len(hq), *size)).permute(0, 4, 1, 2, 3))
        self._write(row, self._decoded(torch.cat(made)))
        logger.info("restored: %s", row)

    def exported(self, name: str) -> Path:
        """The path of the weights that a training exports at its end."""
        return self.output / name / "export/dit.safetensors"

    def train(self, name: str, make: Callable[[], LatentStage], section: dict[str, Any]) -> tuple[Path, LatentStage]:
        """Train a stage unless its exported weights exist. Returns their path, and a stage with these weights."""
        exported = self.exported(name)
        torch.manual_seed(self.recipe["seed"])
        stage = make()
        settings = settings_from(LoopSettings, self.recipe["loop"] | {"steps": section["steps"]}, "loop.")
        settings = replace(settings, seed=self.recipe["seed"])
        if self.process.device.type != "cuda":
            settings = replace(settings, precision="float32", graphs=False)
        self.source.budget = section["budget_latents"]
        trainer = Trainer(stage, self.source, settings, self.output / name, self.process)
        if not exported.is_file() and not trainer.run():
            raise SystemExit(3)
        state, device = read_state_dict(exported), self.process.device
        load_into(stage.modules["dit"], state, dtype=torch.float32, device=device, source=exported)
        return exported, stage

    def run(self) -> None:
        """Make every row."""
        diffusion, stage = self._diffusion()
        for steps in self.recipe["diffusion"]["sweep"]:
            self.restore(f"diffusion, steps {steps:02d}", stage, steps)
        distilled = diffusion
        section = self.recipe["distill"]
        settings = settings_from(DistillSettings, section["settings"], "distill.settings.")
        done = [n for n in settings.rounds if self.exported(f"distill_{n:02d}").is_file()]
        for steps in settings.rounds:
            if done and steps > done[-1] and steps not in done:
                continue  # its student exists already, perhaps from another machine
            make_student = partial(
                DistillStage, self.trainer, settings, self.prompts, distilled, DistillRound(steps, guided=False), False
            )
            distilled, stage = self.train(f"distill_{steps:02d}", make_student, section)
            self.restore(f"distilled, steps {steps:02d}", stage, steps)
        section = self.recipe["adversarial"]
        for number, run in enumerate(section["runs"]):
            changes = OmegaConf.merge(section["settings"], run.get("settings", {}))
            assert isinstance(changes, DictConfig)
            adversarial = settings_from(AdversarialSettings, plain_values(changes), "adversarial.settings.")
            start = diffusion if run.get("start") == "diffusion" else distilled
            critic = DiscriminatorStart(diffusion)
            make = partial(AdversarialStage, self.trainer, adversarial, self.prompts, start, critic, False)
            _, stage = self.train(f"adversarial_{number}", make, section)
            self.restore(run["name"], stage, 1)

    def _diffusion(self) -> tuple[Path, LatentStage]:
        section, start = self.recipe["diffusion"], self.output / "start.safetensors"
        torch.manual_seed(self.recipe["seed"])
        dit, _ = self.trainer.build_dit()
        start_as_residual(dit, self.vae.latent_channels)
        save_safetensors(dit.state_dict(), start)
        settings = settings_from(DiffusionStageSettings, section["settings"], "diffusion.settings.")
        make = partial(DiffusionStage, self.trainer, settings, self.prompts, start, False)
        return self.train("diffusion", make, section)


def train(recipe: dict[str, Any], args: argparse.Namespace) -> None:
    """Train all variants, and restore the held-out pictures for each row."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    with owned(args.output), process_group() as process:
        Evidence(recipe, args.held_out, args.output, process).run()


def of_row(folder: Path, pictures: Sequence[str], row: str) -> list[tuple[str, str, str, float]]:
    """Measure one row: (row, measure, picture, value), with the picture "" for measures of the whole set.

    Args:
        folder: the rows. pictures: the picture of each square. The value of a picture is the mean over its squares.
    """
    truths, results = (list(np.load(folder / f"{name}.npy")) for name in (TRUTH, row))
    scores: dict[str, list[tuple[float, float]]] = {}
    for picture, result, truth in zip(pictures, results, truths, strict=True):
        scores.setdefault(picture, []).append(frame_scores(result, truth, 0))
    made = []
    for picture, of_squares in scores.items():
        for name, values in zip(("psnr", "ssim"), zip(*of_squares, strict=True), strict=True):
            made.append((row, name, picture, float(np.mean(values))))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return made + [(row, name, "", value) for name, value in distribution_measures(results, truths, device).items()]


def rows_of(output: Path) -> Iterator[str]:
    """Yield the names of the rows without the ground truth, in the order in which they were made."""
    for path in sorted((output / "rows").glob("*.npy"), key=lambda path: path.stat().st_mtime_ns):
        if path.stem != TRUTH:
            yield path.stem


def measure(recipe: dict[str, Any], args: argparse.Namespace) -> None:
    """Compare every row with the ground truths, and add the results to `args.rows`; rows in the file are kept."""
    kept = []
    if args.rows.is_file():
        with args.rows.open(newline="") as file:
            kept = [line for line in csv.reader(file) if len(line) == len(COLUMNS)][1:]
    complete = {line[0] for line in kept if not line[2]}
    names = [name for name in rows_of(args.output) if name not in complete]
    pictures = [picture for picture, _ in squares(args.held_out, recipe["held_out"]["side"])]
    pool_of = partial(ProcessPoolExecutor, args.workers, get_context("spawn"), torch.set_num_threads, (1,))
    with args.rows.open("w", newline="") as file, pool_of() as pool:
        table = csv.writer(file, lineterminator="\n")
        table.writerows([COLUMNS, *(line for line in kept if line[0] in complete)])
        for lines in pool.map(partial(of_row, args.output / "rows", pictures), names):
            table.writerows([*line[:3], f"{line[3]:.4f}"] for line in lines)
            file.flush()


def draw(_recipe: dict[str, Any], args: argparse.Namespace) -> None:
    """Write a picture of evenly spaced squares, with a line for each row and the ground truth on top."""
    lines = []
    for row in (TRUTH, *rows_of(args.output)):
        made = np.load(args.output / "rows" / f"{row}.npy", mmap_mode="r")
        places = np.linspace(0, len(made) - 1, DRAWN).astype(int)
        name = np.full((made.shape[1], LABEL, 3), 255, np.uint8)
        cv2.putText(name, row, (4, made.shape[1] // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        lines.append(np.concatenate([name, *made[places]], axis=1))
    Image.fromarray(np.concatenate(lines)).save(args.picture, quality=88)


COMMANDS: dict[str, Callable[..., None]] = {"train": train, "measure": measure, "draw": draw}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line. A command has only the flags that it uses; without one, the help shows those of all."""
    given = next((word for word in (sys.argv[1:] if arguments is None else arguments) if word in COMMANDS), None)
    parser = new_parser(__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--output", type=to_path, default=Path("runs/evidence"), help="the run's folder (%(default)s)")
    if given != "draw":
        parser.add_argument("--recipe", default="configs_train/evidence.yaml", help="train, measure: the YAML")
        parser.add_argument("--held_out", type=to_path, required=True, help="train, measure: pictures not trained on")
        add_settings(parser, "changes to the recipe")
    if given in (None, "measure"):
        parser.add_argument("--rows", type=to_path, default=Path("photographs.csv"), help="measure: where the lines go")
        parser.add_argument("--workers", type=int, default=4, help="measure: rows at a time")
    if given in (None, "draw"):
        parser.add_argument("--picture", type=to_path, default=Path("rows.jpg"), help="draw: where the picture goes")
    return parser.parse_args(arguments) if given == "draw" else parse_with_settings(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    set_up_logging()
    COMMANDS[args.command](plain_values(load_config(args.recipe, args.overrides)) if "recipe" in args else {}, args)


if __name__ == "__main__":
    sys.exit(run_program(main))
