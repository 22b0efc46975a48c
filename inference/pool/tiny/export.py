"""Write and read the checkpoint's folder: the layout of facebook/sam3 (`sam3_video`), with one shared backbone."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPTokenizer, Sam3Model, Sam3TrackerModel

from inference.pool.tiny.configuration import checkpoint_configuration

_BACKBONE = "vision_encoder.backbone."
_NECK = "vision_encoder.neck."


def export(folder: Path, detector: Sam3Model, tracker: Sam3TrackerModel, tokenizer: CLIPTokenizer) -> None:
    """Write config.json, model.safetensors (float16) and the tokenizer's files into `folder`.

    Keys are `detector_model.*`, `tracker_model.*` and `tracker_neck.*`; the backbone stands under the detector only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"detector_model.{name}": value for name, value in detector.state_dict().items()}
    for name, value in tracker.state_dict().items():
        if name.startswith(_NECK):
            weights["tracker_neck." + name.removeprefix(_NECK)] = value
        elif not name.startswith(_BACKBONE):
            weights["tracker_model." + name] = value
    halves = {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().clone().contiguous()
        for name, value in weights.items()
    }
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint_configuration(detector.config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Sam3Model, Sam3TrackerModel, CLIPTokenizer]:
    """Read a checkpoint folder into plain transformers classes in evaluation mode, the backbone shared in memory.

    Raises ValueError when a weight is missing, which transformers itself answers with random values and a warning.
    """
    models = []
    for kind in (Sam3Model, Sam3TrackerModel):
        model, report = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        if report["missing_keys"] or report["mismatched_keys"]:
            broken = sorted(report["missing_keys"])[:3]
            raise ValueError(f"{folder} lacks weights of {kind.__name__}, among them {broken}")
        models.append(model.eval())
    detector, tracker = models
    tracker.vision_encoder.backbone = detector.vision_encoder.backbone
    return detector, tracker, CLIPTokenizer.from_pretrained(folder)
