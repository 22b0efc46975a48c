"""Sizes of the small checkpoint, as transformers configurations.

The constraints that the numbers must satisfy (head sizes, neck scales, GroupNorm) are those of the SAM 3 classes of
transformers 5.23; see the room's README.
"""

from typing import Any

from transformers import CLIPTokenizer, Sam3Config, Sam3TrackerConfig, Sam3VideoConfig

PATCH_SIZE = 8
WIDTH = 64
QUERY_GRID = 7
TEXT_LENGTH = 32


def grid_size(image_size: int) -> int:
    """Tokens along one side of a picture."""
    return image_size // PATCH_SIZE


def mask_size(image_size: int) -> int:
    """Pixels along one side of a mask."""
    return 4 * grid_size(image_size)


def _vision(image_size: int) -> dict[str, Any]:
    grid = grid_size(image_size)
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": image_size,
            "patch_size": PATCH_SIZE,
            "pretrain_image_size": image_size,
            "window_size": grid // 2,
            "global_attn_indexes": [1, 3],
        },
        "fpn_hidden_size": WIDTH,
        "scale_factors": [4.0, 2.0, 1.0, 0.5],
        "backbone_feature_sizes": [[4 * grid, 4 * grid], [2 * grid, 2 * grid], [grid, grid]],
    }


def _transformer(layers: int) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "num_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 4 * WIDTH,
        "dropout": 0.0,
    }


def detector_configuration(image_size: int, tokenizer: CLIPTokenizer) -> Sam3Config:
    """The detector's configuration for square pictures of `image_size` and the words of `tokenizer`."""
    begin_id, end_id = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
    return Sam3Config(
        vision_config=_vision(image_size),
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "projection_dim": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": TEXT_LENGTH,
            "hidden_act": "gelu",
            "bos_token_id": begin_id,
            "eos_token_id": end_id,
            "pad_token_id": end_id,
        },
        geometry_encoder_config={**_transformer(1), "roi_size": 3},
        detr_encoder_config=_transformer(2),
        detr_decoder_config={**_transformer(2), "num_queries": QUERY_GRID**2},
        mask_decoder_config={"hidden_size": WIDTH, "num_upsampling_stages": 3, "num_attention_heads": 4},
    )


def _tracker_parts(image_size: int) -> dict[str, Any]:
    return {
        "vision_config": _vision(image_size),
        "prompt_encoder_config": {
            "hidden_size": WIDTH,
            "image_size": image_size,
            "patch_size": PATCH_SIZE,
            "mask_input_channels": 16,
        },
        "mask_decoder_config": {
            "hidden_size": WIDTH,
            "mlp_dim": 4 * WIDTH,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": WIDTH,
        },
    }


def tracker_configuration(image_size: int) -> Sam3TrackerConfig:
    """The click-and-box tracker's configuration; its vision part equals the detector's."""
    return Sam3TrackerConfig(**_tracker_parts(image_size))


def checkpoint_configuration(detector: Sam3Config) -> Sam3VideoConfig:
    """The configuration written beside the weights: type `sam3_video`, as in the folder of facebook/sam3."""
    image_size = int(detector.image_size)
    return Sam3VideoConfig(
        detector_config=detector.to_dict(),
        tracker_config={"model_type": "sam3_tracker_video", "image_size": image_size, **_tracker_parts(image_size)},
        low_res_mask_size=mask_size(image_size),
        architectures=["Sam3VideoModel"],
    )
