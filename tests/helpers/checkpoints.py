"""Random checkpoints as the hub holds them, of the named architectures made narrow; names, keys, layouts are real.

``narrow()`` changes the sizes that open_clip and timm build under a name, in this process alone;
``repositories_of()`` are the files of every repository that a model file needs, for ``helpers.hub``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ovseg._torchvision import ensure_torchvision
from ovseg.models.config import ModelConfig

ensure_torchvision()

WORDS = ("a", "photo", "of", "the", "cat", "sofa", "road", "sky", "tree", "temple")
WIDTH = 32
_TEXT = {"width": 16, "heads": 2, "layers": 2}
_TRANSFORMER = {"embed_dim": WIDTH, "depth": 6, "num_heads": 2}
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2}
CLIP_PREPROCESSING = {
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 224},
}
SIGLIP_PREPROCESSING = {
    "image_processor_type": "SiglipImageProcessor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": {"height": 224, "width": 224},
}
_NARROW: dict[str, dict[str, Any]] = {
    "vit_base_mci_224": {"depth": 2, "mlp_ratio": 0.1},  # its stem fixes the width
    "convnext_base": {"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64]},
    "fastvit_mci0": {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)},
    "samvit_base_patch16": {**_TRANSFORMER, "global_attn_indexes": [2, 5]},
}
_SUBWORDS = {  # tokenizers of the hub by repository: class, and how a phrase begins and ends
    "timm/ViT-B-16-SigLIP2": ("GemmaTokenizer", None, "<eos>"),
    "google/siglip2-base-patch16-224": ("GemmaTokenizer", None, "<eos>"),
    "facebook/xlm-v-base": ("XLMRobertaTokenizer", "<s>", "</s>"),
}


@contextmanager
def narrow() -> Iterator[None]:
    """open_clip and timm build their architectures narrow until the block ends."""
    import timm
    from open_clip import factory

    configs, create = dict(factory._MODEL_CONFIGS), timm.create_model
    factory._MODEL_CONFIGS.update({name: _narrowed(config) for name, config in configs.items()})
    timm.create_model = lambda name, *rest, **options: create(name, *rest, **_sizes(name), **options)
    try:
        yield
    finally:
        factory._MODEL_CONFIGS.update(configs)
        timm.create_model = create


def _sizes(name: str) -> dict[str, Any]:
    return _NARROW.get(name.partition(".")[0], _TRANSFORMER)


def _narrowed(config: dict[str, Any]) -> dict[str, Any]:
    vision, text = dict(config["vision_cfg"]), {**config["text_cfg"], **_TEXT}
    if isinstance(vision.get("layers"), list):
        vision |= {"layers": [1, 1, 1, 1], "width": 16}
    elif "timm_model_name" not in vision:
        vision |= {"layers": 6, "width": WIDTH, "head_width": 16}
    if text.get("hf_tokenizer_name") in _SUBWORDS:
        text["vocab_size"] = len(subwords(text["hf_tokenizer_name"]).get_vocab())
        if "eos_id" in text:
            text["eos_id"] = subwords(text["hf_tokenizer_name"]).token_to_id("</s>")
    return {**config, "embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text}


def openclip_files(name: str, facts: dict[str, Any], *, seed: int = 0) -> dict[str, bytes]:
    """What timm and the makers of open_clip keep: weights under both names of a file, and the configuration.

    Args:
        name: of the architecture.
        facts: preprocessing, as ``preprocess_cfg`` of ``open_clip_config.json`` states it.
        seed: of the weights.
    """
    import open_clip

    with narrow(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(name)
        config = open_clip.get_model_config(name)
    stated = {key: facts[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in facts}
    return {
        "open_clip_model.safetensors": save(_parted(model)),
        "open_clip_config.json": _json({"model_cfg": config, "preprocess_cfg": stated}),
    }


def timm_files(name: str, *, seed: int = 0) -> dict[str, bytes]:
    """``model.safetensors`` and ``config.json`` of a timm network."""
    import timm

    with narrow(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=0)
    config = {"architecture": name, "num_classes": 0, "pretrained_cfg": {"tag": name.partition(".")[2]}}
    return {"model.safetensors": save(_parted(model)), "config.json": _json(config)}


def transformers_files(model: Any, preprocessing: dict[str, Any], tokenizer: dict[str, bytes]) -> dict[str, bytes]:
    """``config.json``, ``model.safetensors``, ``preprocessor_config.json`` and the files of a tokenizer."""
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    return {
        "model.safetensors": save(_parted(model), metadata={"format": "pt"}),
        "config.json": _json(config),
        "preprocessor_config.json": _json(preprocessing),
        **tokenizer,
    }


def _parted(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone().contiguous() for name, value in model.state_dict().items()}


def _json(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, indent=2).encode()


def clip_of_transformers(seed: int = 0) -> Any:
    """A narrow ``CLIPModel`` for CLIP's tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    text = {**_LAYERS, "hidden_size": 16, "intermediate_size": 64, "vocab_size": 49408}
    text |= {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    vision = {**_LAYERS, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 6}
    vision |= {"image_size": 224, "patch_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def _siglip_of_transformers(repository: str) -> Any:
    from transformers import SiglipConfig, SiglipModel

    text = {**_LAYERS, "hidden_size": 16, "intermediate_size": 64, "max_position_embeddings": 64}
    text |= {"vocab_size": subwords(repository).get_vocab_size(), "eos_token_id": 1, "pad_token_id": 0}
    text |= {"projection_size": WIDTH, "bos_token_id": 2}
    vision = {**_LAYERS, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 6}
    vision |= {"image_size": 224, "patch_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))


def saved_with_draws(network: Any, processor: Any, folder: Path) -> Any:
    """A network of transformers in a folder, with values that differ from place to place."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.copy_(weight[0].numel() ** -0.5 * torch.randn(weight.shape, generator=draw))
    network.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return network


def tiny_sam() -> tuple[Any, Any]:
    """A SAM for images of 64 pixels, and its processor."""
    from transformers import SamConfig, SamImageProcessor, SamModel

    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16, "image_size": 64}
    vision |= {"output_channels": 32, "num_pos_feats": 16, "global_attn_indexes": [0], "window_size": 2}
    decoder = {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "image_embedding_size": 4},
        mask_decoder_config=decoder,
    )
    processor = SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_pad_size={"height": 16, "width": 16}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SamModel(config), processor


def saved_sam(folder: Path) -> Any:
    """``tiny_sam`` in a folder, as transformers saves it; returns the network."""
    return saved_with_draws(*tiny_sam(), folder)


def sam2_config() -> Any:
    """Of a tiny SAM 2 for images of 64 pixels."""
    from transformers import Sam2Config

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "blocks_per_stage": [1, 2, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [2],
        "image_size": [64, 64],
    }
    return Sam2Config(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )


def _sam2_files() -> dict[str, bytes]:
    from transformers import Sam2Model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sam2Model(sam2_config())
    facts = {"image_processor_type": "Sam2ImageProcessor", "processor_class": "Sam2Processor"}
    return transformers_files(model, {**facts, "size": {"height": 64, "width": 64}}, {})


def _sam_files() -> dict[str, bytes]:
    network, processor = tiny_sam()
    return transformers_files(network, processor.to_dict(), {})


@cache
def repository_files(repository: str, kind: str, name: str, weights: str = "") -> dict[str, bytes]:
    """Files of one repository, by what reads it: openclip, timm, clip, siglip, sam or sam2."""
    if kind == "openclip":
        from open_clip.pretrained import get_pretrained_cfg

        files = openclip_files(name, get_pretrained_cfg(name, weights))
        return files | (subword_files(repository) if repository in _SUBWORDS else {})
    if kind == "timm":
        return timm_files(name)
    if kind == "clip":
        return transformers_files(clip_of_transformers(), CLIP_PREPROCESSING, bpe_files())
    if kind == "siglip":
        return transformers_files(
            _siglip_of_transformers(repository), SIGLIP_PREPROCESSING, subword_files(repository)
        )
    return _sam_files() if kind == "sam" else _sam2_files()


def repositories_of(config: ModelConfig) -> dict[str, dict[str, bytes]]:
    """Files by name of every repository that a model file needs."""
    encoder = config.encoder
    if encoder.kind in {"masks", "groupvit"}:
        from helpers.mask_models import mask_model_files

        return {encoder.repo: mask_model_files(encoder.name)}
    main = {
        "openclip": "openclip",
        "paired": "timm",
        "huggingface": "siglip" if "siglip" in encoder.repo else "clip",
    }
    found = {encoder.repo: repository_files(encoder.repo, main[encoder.kind], encoder.name, encoder.weights)}
    if encoder.structure is not None:
        found[encoder.structure.repo] = repository_files(encoder.structure.repo, "timm", encoder.structure.name)
    if encoder.text is not None:
        part = encoder.text
        found[part.repo] = repository_files(part.repo, "openclip", part.name, part.weights)
    parts = (encoder.regions, config.correction)
    for sam in {part.repo for part in parts if part is not None and part.repo}:
        found[sam] = repository_files("sam2", "sam2", "sam2")
    if config.gather is not None and config.gather.attention is not None:
        found[config.gather.attention.model] = repository_files("sam", "sam", "sam")
    if config.redraw is not None:
        found[config.redraw.model] = repository_files("sam", "sam", "sam")
    if encoder.name.endswith("worldwide-quickgelu"):
        found["facebook/xlm-v-base"] = subword_files("facebook/xlm-v-base")
    return found


def own_files_of(config: ModelConfig) -> dict[str, bytes]:
    """Files by name that a model file needs and no hub holds, for towers of ``WIDTH``."""
    found: dict[str, bytes] = {}
    if config.encoder.converter is not None:
        found[config.encoder.converter.file] = converter_file()
    if config.head is not None and config.head.source:
        draw = torch.Generator().manual_seed(0)
        tensors = {name: torch.randn(12, WIDTH, generator=draw) for name in ("keys", "values")}
        found[config.head.weights] = save(tensors)
    return found


def converter_file(width: int = WIDTH) -> bytes:
    """A converter as CLIP-DINOiser's authors keep it: a file of torch with more beside it."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"obj_proj.weight": (8, width, 3, 3), "obj_proj.bias": (8,)}
    shapes |= {"bkg_decoder.weight": (1, width, 1, 1), "bkg_decoder.bias": (1,), "clip_backbone.x": (2,)}
    state = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    stream = io.BytesIO()
    torch.save({"epoch": 99, "model_state_dict": state}, stream)
    return stream.getvalue()


@cache
def subwords(repository: str) -> Tokenizer:
    """A small tokenizer with the special tokens, and their numbers, of the repository's own."""
    kind, start, end = _SUBWORDS[repository]
    special = ["<s>", "<pad>", "</s>", "<unk>"] if start else ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = [f"{mark}{letter}" for mark in ("", "▁") for letter in "abcdefghijklmnopqrstuvwxyz.,'- "]
    pieces = [*dict.fromkeys([*letters, "▁", *(f"▁{word}" for word in WORDS)])]
    scores = [(piece, 0.0) for piece in special] + [(piece, -10.0 + len(piece)) for piece in pieces]
    made = Tokenizer(models.Unigram(scores, unk_id=special.index("<unk>")))
    if kind == "GemmaTokenizer":
        vocabulary = {piece: number for number, (piece, _) in enumerate(scores)}
        made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Replace(" ", "▁")
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    frame = f"{start} $A {end}" if start else f"$A {end}"
    numbers = [(token, made.token_to_id(token)) for token in (start, end) if token]
    made.post_processor = processors.TemplateProcessing(single=frame, special_tokens=numbers)
    made.add_special_tokens(special)
    return made


def subword_files(repository: str) -> dict[str, bytes]:
    """``tokenizer.json`` and ``tokenizer_config.json`` of a tokenizer by pieces of words."""
    kind, start, end = _SUBWORDS[repository]
    config = {"tokenizer_class": kind, "eos_token": end, "pad_token": "<pad>", "unk_token": "<unk>"}
    config |= {"bos_token": start or "<bos>", "model_max_length": 64}
    if start:
        config |= {"sep_token": "</s>", "cls_token": "<s>"}
    else:
        config |= {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
        config |= {"do_lower_case": True, "model_input_names": ["input_ids"]}
    return {"tokenizer.json": subwords(repository).to_str().encode(), "tokenizer_config.json": _json(config)}


def bpe_files() -> dict[str, bytes]:
    """CLIP's own tokenizer in the files of transformers, from the merges that open_clip brings along."""
    from open_clip.tokenizer import SimpleTokenizer

    known = SimpleTokenizer()
    vocabulary = {token: number for token, number in known.encoder.items()}
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {{"<start_of_text>": start, "<end_of_text>": end}.get(t, t): n for t, n in vocabulary.items()}
    ordered = sorted(known.bpe_ranks, key=known.bpe_ranks.__getitem__)
    merges = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in ordered)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": start}
    config |= {"eos_token": end, "pad_token": end, "unk_token": end}
    return {
        "vocab.json": json.dumps(vocabulary).encode(),
        "merges.txt": merges.encode(),
        "tokenizer_config.json": _json(config),
    }


State = dict[str, torch.Tensor]


def clip_state(theirs: State) -> State:
    """Weights of a ``CLIPModel`` of transformers under open_clip's names."""
    vision, text = "vision_model.embeddings.", "text_model.embeddings."
    state = {
        "visual.class_embedding": theirs[f"{vision}class_embedding"],
        "visual.conv1.weight": theirs[f"{vision}patch_embedding.weight"],
        "visual.positional_embedding": theirs[f"{vision}position_embedding.weight"],
        "visual.proj": theirs["visual_projection.weight"].T,
        "token_embedding.weight": theirs[f"{text}token_embedding.weight"],
        "positional_embedding": theirs[f"{text}position_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T,
        "logit_scale": theirs["logit_scale"],
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for ours, other in norms.items():
        state |= _layer(theirs, other, ours)
    state |= _blocks(theirs, "vision_model", "visual.transformer.resblocks", _OPENCLIP_BLOCK)
    state |= _blocks(theirs, "text_model", "transformer.resblocks", _OPENCLIP_BLOCK)
    return {name: value.contiguous() for name, value in state.items()}


def siglip_state(theirs: State) -> State:
    """Weights of a ``SiglipModel`` of transformers under the names of timm's trunk and open_clip's text tower."""
    vision, text, pool = "vision_model.embeddings.", "text_model.embeddings.", "visual.trunk.attn_pool"
    head = "vision_model.head"
    state = {
        "visual.trunk.pos_embed": theirs[f"{vision}position_embedding.weight"][None],
        f"{pool}.latent": theirs[f"{head}.probe"],
        "text.token_embedding.weight": theirs[f"{text}token_embedding.weight"],
        "text.positional_embedding": theirs[f"{text}position_embedding.weight"],
        "logit_scale": theirs["logit_scale"],
        "logit_bias": theirs["logit_bias"],
    }
    for end in ("weight", "bias"):
        query, *rest = theirs[f"{head}.attention.in_proj_{end}"].chunk(3)
        state |= {f"{pool}.q.{end}": query, f"{pool}.kv.{end}": torch.cat(rest)}
    layers = {
        "visual.trunk.patch_embed.proj": f"{vision}patch_embedding",
        "visual.trunk.norm": "vision_model.post_layernorm",
        f"{pool}.proj": f"{head}.attention.out_proj",
        f"{pool}.norm": f"{head}.layernorm",
        f"{pool}.mlp.fc1": f"{head}.mlp.fc1",
        f"{pool}.mlp.fc2": f"{head}.mlp.fc2",
        "text.ln_final": "text_model.final_layer_norm",
        "text.text_projection": "text_model.head",
    }
    for ours, other in layers.items():
        state |= _layer(theirs, other.removesuffix("."), ours)
    state |= _blocks(theirs, "vision_model", "visual.trunk.blocks", _TIMM_BLOCK)
    state |= _blocks(theirs, "text_model", "text.transformer.resblocks", _OPENCLIP_BLOCK)
    return {name: value.contiguous() for name, value in state.items()}


_OPENCLIP_BLOCK = {
    "attn.in_proj_": "",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TIMM_BLOCK = {
    "attn.qkv.": "",
    "attn.proj": "self_attn.out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _layer(theirs: State, name: str, ours: str) -> State:
    return {f"{ours}.{end}": theirs[f"{name}.{end}"] for end in ("weight", "bias")}


def _blocks(theirs: State, tower: str, ours: str, names: dict[str, str]) -> State:
    state: State = {}
    marks = {name.split(".")[3] for name in theirs if name.startswith(f"{tower}.encoder.layers.")}
    for number in marks:
        block, here = f"{tower}.encoder.layers.{number}", f"{ours}.{number}"
        for own, other in names.items():
            if other:
                state |= _layer(theirs, f"{block}.{other}", f"{here}.{own}")
                continue
            for end in ("weight", "bias"):
                parts = [theirs[f"{block}.self_attn.{part}_proj.{end}"] for part in "qkv"]
                state[f"{here}.{own}{end}"] = torch.cat(parts)
    return state
