"""A small folder of training material, made here: two clips whose frames show their number, three photographs."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import skimage.data
import yaml
from PIL import Image

CONFIGS = Path(__file__).resolve().parents[3] / "configs_degradation"
LEVEL_STEP = 6  # frame i of a made clip has a border of gray level LEVEL_STEP * i


def recipe(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def numbered_clip(path: Path, frames: int, height: int, width: int, gop: int) -> None:
    """An H.264 file whose frame i is uniformly gray at LEVEL_STEP * i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4", "g": str(gop), "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(frames):
            pixels = np.full((height, width, 3), LEVEL_STEP * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    (folder / "clips").mkdir()
    numbered_clip(folder / "clips" / "a.mp4", 30, 96, 128, gop=8)
    numbered_clip(folder / "clips" / "b.mkv", 12, 96, 128, gop=12)
    for i, picture in enumerate([skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]):
        Image.fromarray(cv2.resize(picture, (160, 144), interpolation=cv2.INTER_AREA)).save(folder / f"photo{i}.png")
    return folder


@pytest.fixture
def broken_material(tmp_path, material) -> Path:
    """The same with a file that is no video, one that is no image, and a truncated image that only decoding unmasks."""
    for source in material.rglob("*.*"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    noise = np.random.default_rng(0).integers(0, 255, (144, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path
