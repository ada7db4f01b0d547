"""`--preview N`: restores a few frames of each file and shows them beside the input, without restoring the file."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from data.media import Frame, MediaInfo
from data.media.preview import contact_sheet
from projects.video_diffusion_sr.file_errors import NotFiniteError, rebuild
from projects.video_diffusion_sr.finishing import PixelForm
from projects.video_diffusion_sr.input_file import open_input
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.output_form import path_of, place_of_result
from projects.video_diffusion_sr.progress import ProgressBar
from projects.video_diffusion_sr.restore import restore_frames
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.run_files import report_error, say
from projects.video_diffusion_sr.run_order import Job


def preview_all(paths: Iterable[Path], job: Job, count: int) -> Iterator[bool]:
    """Write a contact sheet for each file, and log its path. Yields False for a file that failed, else True."""
    for path in paths:
        try:
            sheet, frames = preview_clip(path, job.folder(path), job.restorer, job.plans[path], count)
        except Exception as error:
            if job.restorer.parallel.is_leader:
                report_error(error, path, job.prefix(path))
            yield False
        else:
            text = f"{job.prefix(path)}{path.name} -> {sheet}: {frames} frame{'s' * (frames != 1)}, input and result"
            say(job.restorer.parallel, logging.INFO, text)
            yield True


def preview_clip(
    source: Path, output_dir: Path, restorer: Restorer, plan: MemoryPlan | None, count: int
) -> tuple[Path, int]:
    """Restore frames that are spread over a file, each as a single picture, and write a contact sheet of them.

    Frames get no information from their neighbours, so the clip's result is temporally more stable than its preview. An
    earlier preview is replaced.

    Returns:
        (path of the sheet, number of frames that it shows).
    Raises:
        The errors of `restore.restore_clip`.
    """
    parallel = restorer.parallel
    with parallel.outcomes.same_for_all(Exception, rebuild=rebuild):
        with open_input(source, restorer.deinterlace, restorer.clip_range) as reader:
            info, stills = reader.info, reader.stills(count)
    target = preview_path(place_of_result(source, output_dir, info, restorer.result_options, restorer.clip_range))
    both = replace(restorer, result_options=replace(restorer.result_options, compare=True))
    still = replace(info, kind="image", frame_count_hint=1)
    with parallel.outcomes.same_for_all(NotFiniteError, rebuild=rebuild):
        rows = []
        for frame in stills:
            both.apply_plan(still, plan)
            rows += restored(frame, still, both)
            both.infer.guard.check(source.name)
    with parallel.outcomes.same_for_all(Exception, rebuild=rebuild):
        if parallel.is_leader:
            contact_sheet(rows, target)
    return target, len(stills)


def restored(frame: Frame, info: MediaInfo, restorer: Restorer) -> list[tuple[str, Tensor, Tensor]]:
    """[(label, resized input, result)] of one frame for a sheet, with HDR as SDR; empty on ranks but the leader."""
    rows, form = [], PixelForm(path_of(info, "sdr", bits=8))
    with ProgressBar(info.path.name, 1, show=False) as progress:
        for finished in restore_frames(info, iter([frame]), iter([frame]), restorer, progress, form):
            _, pair, _ = finished.arrive()
            assert pair is not None, "a preview compares"
            before, after = pair
            rows.append((f"{float(frame.time):.2f} s", before[0], after[0]))
    return rows


def preview_path(output: Path) -> Path:
    """The path of the preview of a result."""
    return output.with_name(f"{output.name}.preview.png")
