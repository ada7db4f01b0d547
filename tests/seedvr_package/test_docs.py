"""docs/python.md says nothing that is not so: its examples run, one after the other."""

import re

import av
import numpy as np

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text()


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 24, "yuv420p"
        for level in (40, 90, 200):
            frame = np.full((16, 24, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
    assert len(examples) == 9
    names: dict = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"docs/python.md, example {number + 1}", "exec"), names)
    said = capsys.readouterr().out
    for words in ("seedvr2_3b", "decode: 3 of 3", "stopped", "nowhere.safetensors"):
        assert words in said
