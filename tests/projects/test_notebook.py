"""The notebook runs from its first cell to its last, and shows what it promises."""

import os
import sys

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT


def test_quickstart(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT / "notebooks")}})
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable  # this environment, whatever kernels the machine knows
    client.execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "text/html" in o.get("data", {})]
    assert len(pictures) == 2, "the clip before and after"
