"""Tiny networks that look at pictures, with random weights: transformers' own classes, saved as they lie on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SIDE_PX = 32
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "boat", "on", "the", "sea", "at", "night")


def save_blip(folder: Path, seed: int = 0) -> Path:
    """Save a BLIP captioner, as Salesforce's are."""
    torch.manual_seed(seed)
    text: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32, "projection_dim": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32,
        "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "initializer_range": 0.5,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE_PX,
        "patch_size": 8,
    }  # fmt: skip
    network = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    )
    return _save(folder, network, transformers.BlipImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX}))


def save_git(folder: Path, seed: int = 0) -> Path:
    """Save a GIT captioner, as Microsoft's are."""
    torch.manual_seed(seed)
    network = transformers.GitForCausalLM(
        transformers.GitConfig(
            vision_config={
                "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE_PX,
                "patch_size": 8,
            },
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, bos_token_id=2, eos_token_id=3, pad_token_id=0, initializer_range=0.5,
        )
    )  # fmt: skip
    size = {"height": SIDE_PX, "width": SIDE_PX}
    return _save(folder, network, transformers.CLIPImageProcessorPil(size=size, crop_size=size))


def save_depth(folder: Path, seed: int = 0) -> Path:
    """Save a depth estimator, as Depth Anything's are."""
    torch.manual_seed(seed)
    config: Any = transformers.Dinov2Config
    backbone = config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    network = transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
            head_hidden_size=4, patch_size=14,
        )
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    transformers.DPTImageProcessorPil(
        size={"height": 28, "width": 28}, keep_aspect_ratio=True, ensure_multiple_of=14
    ).save_pretrained(folder)
    return folder


def save_detector(folder: Path, seed: int = 0) -> Path:
    """Save a detector that knows two kinds of things, people among them, as PekingU's RT-DETR are."""
    torch.manual_seed(seed)
    resnet: Any = transformers.RTDetrResNetConfig
    backbone = resnet(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config: Any = transformers.RTDetrConfig
    network = transformers.RTDetrForObjectDetection(
        config(
            backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 16, 16], encoder_layers=1, encoder_ffn_dim=16,
            encoder_attention_heads=2, d_model=16, num_queries=6, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16,
            decoder_layers=1, decoder_attention_heads=2, num_denoising=0, eval_size=None,
            id2label={0: "Dog", 1: "Person"}, label2id={"Dog": 0, "Person": 1},
        )
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_poses(folder: Path, seed: int = 0, **backbone: Any) -> Path:
    """Save a pose estimator, as ViTPose are."""
    torch.manual_seed(seed)
    config: Any = transformers.VitPoseConfig
    vit: Any = transformers.VitPoseBackboneConfig
    own = vit(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2,
        out_indices=[1], **backbone,
    )  # fmt: skip
    network = transformers.VitPoseForPoseEstimation(config(backbone_config=own, num_labels=17))
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    transformers.VitPoseImageProcessorPil(size={"height": 64, "width": 48}).save_pretrained(folder)
    return folder


def _save(folder: Path, network: Any, processor: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    words = {word: number for number, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    raw.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="[CLS]", eos_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    return folder
