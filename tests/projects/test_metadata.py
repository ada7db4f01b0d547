"""What a file says beside its picture reaches the result of a run, unless the user says --no_metadata."""

from dataclasses import replace

import av
import pytest
from PIL import Image
from PIL.ExifTags import Base

from projects.video_diffusion_sr.cli import read_request
from projects.video_diffusion_sr.cli_parser import parser
from projects.video_diffusion_sr.presets import SEEDVR2_3B
from projects.video_diffusion_sr.run_order import Job, restore_all
from tests.projects.test_restore import restorer, write_clip  # noqa: F401 (a fixture)


def titled(source, target):
    with av.open(str(source)) as original, av.open(str(target), "w") as container:
        container.metadata["title"] = "A day"
        stream = container.add_stream_from_template(original.streams.video[0], opaque=True)
        for packet in original.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return target


@pytest.mark.parametrize("flags,kept", [([], True), (["--no_metadata"], False)])
def test_the_flag_decides_whether_tags_go_over(tmp_path, restorer, flags, kept):  # noqa: F811
    exif = Image.Exif()
    exif[Base.Make] = "A Camera"
    Image.effect_noise((32, 24), 60).convert("RGB").save(tmp_path / "a.jpg", exif=exif)
    clip = titled(write_clip(tmp_path / "plain.mp4", 2), tmp_path / "b.mp4")
    line = ["--video_path", str(tmp_path), "--output_dir", str(tmp_path / "out"), *flags]
    options = read_request(parser(SEEDVR2_3B).parse_args(line)).result_options
    files = [tmp_path / "a.jpg", clip]
    assert all(
        restore_all(
            files, Job(tmp_path / "out", replace(restorer, result_options=options), dict.fromkeys(files), "replace")
        )
    )
    with Image.open(tmp_path / "out" / "a.jpg") as picture:
        assert (Base.Make in picture.getexif()) == kept
    with av.open(str(tmp_path / "out" / "b.mp4")) as result:
        assert (result.metadata.get("title") == "A day") == kept
