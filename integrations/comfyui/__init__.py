"""ComfyUI finds the nodes through the two mappings. The package `seedvr` must be installed, see README.md."""

from .nodes import LoadSeedVR, RestoreSeedVR

NODE_CLASS_MAPPINGS = {"SeedVRLoad": LoadSeedVR, "SeedVRRestore": RestoreSeedVR}
NODE_DISPLAY_NAME_MAPPINGS = {"SeedVRLoad": "Load SeedVR", "SeedVRRestore": "Restore with SeedVR"}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
