"""Write the checkpoint's folder: the layout of facebook/sam3 (`sam3_video`), with one shared backbone."""

from pathlib import Path

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
    file = folder / "model.safetensors"
    save_file(halves, file, metadata={"format": "pt"})
    file.chmod(0o644)
    checkpoint_configuration(detector.config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
