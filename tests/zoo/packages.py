"""Networks of public packages, small and with random weights; ``make zoo`` installs them (the extra ``zoo``)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.entry import Of, entry, next_token

P = "public packages"


def with_torchvision() -> None:
    """Import torchvision, which two packages ask for, also where its compiled operators are of another torch build.

    Then the shapes of these operators cannot be registered; no network here calls one.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        with mock.patch("torch.library.register_fake", lambda *_: lambda function: function):
            import torchvision  # noqa: F401


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def bert(p: float) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    drop = {"hidden_dropout_prob": p, "attention_probs_dropout_prob": p}
    return BertForSequenceClassification(
        BertConfig(vocab_size=17, max_position_embeddings=32, num_labels=10, **SMALL, **drop)
    )


def gpt2(p: float) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    drop = {"resid_pdrop": p, "embd_pdrop": p, "attn_pdrop": p}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=32, n_embd=16, n_layer=2, n_head=2, **drop, **ends))


def llama(p: float) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {**SMALL, "num_key_value_heads": 1, "attention_dropout": p}
    return LlamaForCausalLM(LlamaConfig(vocab_size=17, max_position_embeddings=32, **small))


def t5(p: float) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=17, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=p)
    return Of(
        lambda m, input_ids, attention_mask, labels: {
            "loss": F.cross_entropy(m.o(m.t(input_ids, attention_mask).last_hidden_state.mean(1)), labels)
        },
        t=T5EncoderModel(config),
        o=nn.Linear(16, 10),
    )


def hf_vit(p: float) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    drop = {"hidden_dropout_prob": p, "attention_probs_dropout_prob": p}
    size = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
    return ViTForImageClassification(ViTConfig(**SMALL, **size, **drop))


def hf_resnet(p: float) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    size: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=10, **size))


def image(x: Tensor) -> Tensor:
    return x.view(-1, 1, 8, 8)


def lucid_vit(p: float) -> nn.Module:
    from vit_pytorch.vit import ViT

    size = {"image_size": 8, "patch_size": 2, "channels": 1, "num_classes": 10}
    net = ViT(**size, dim=16, depth=2, heads=2, dim_head=8, mlp_dim=32, dropout=p, emb_dropout=p)
    return Of(lambda m, x: m.net(image(x)), net=net)


def lucid_cait(p: float) -> nn.Module:
    from vit_pytorch.cait import CaiT

    size = {"image_size": 8, "patch_size": 2, "num_classes": 10}  # its layer_dropout draws by Python's random
    net = CaiT(**size, dim=16, depth=2, cls_depth=1, heads=2, dim_head=8, mlp_dim=32, dropout=p, emb_dropout=p)
    return Of(lambda m, x: m.net(image(x).expand(-1, 3, 8, 8)), net=net)


def x_decoder(p: float) -> nn.Module:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=16, depth=2, heads=2, attn_dim_head=8, attn_dropout=p, ff_dropout=p, rotary_pos_emb=True)
    net = TransformerWrapper(num_tokens=17, max_seq_len=32, attn_layers=layers)
    return Of(lambda m, x: (m.net(x[:, :15]), x[:, 1:16]), net=net)


def rtdl_mlp(p: float) -> nn.Module:
    from rtdl_revisiting_models import MLP

    return MLP(d_in=64, d_out=10, n_blocks=2, d_block=32, dropout=p)


def rtdl_resnet(p: float) -> nn.Module:
    from rtdl_revisiting_models import ResNet

    blocks = {"n_blocks": 2, "d_block": 32, "d_hidden": None, "d_hidden_multiplier": 2.0}
    return ResNet(d_in=64, d_out=10, **blocks, dropout1=p, dropout2=p)


def rtdl_transformer(p: float) -> nn.Module:
    from rtdl_revisiting_models import FTTransformer

    attention = {"n_blocks": 1, "d_block": 16, "attention_n_heads": 2, "attention_dropout": p}
    feed = {"ffn_d_hidden": None, "ffn_d_hidden_multiplier": 2.0, "ffn_dropout": p, "residual_dropout": 0.0}
    net = FTTransformer(n_cont_features=16, cat_cardinalities=[17], d_out=10, **attention, **feed)
    return Of(lambda m, x: m.net(x[:, :16], ((x[:, 20:21] + 2).clamp(0, 4) * 4).long()), net=net)


def tabm(p: float) -> nn.Module:
    import tabm

    return tabm.TabM.make(n_num_features=64, d_out=10, n_blocks=2, d_block=32, dropout=p, k=4)


def each_of_the_ensemble(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.repeat_interleave(output.shape[1]))


def tabnet(p: float) -> nn.Module:
    from pytorch_tabnet.tab_network import TabNet

    return TabNet(64, 10, n_steps=2, virtual_batch_size=16, group_attention_matrix=torch.eye(64))


def sparse_tabnet(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(output[0], target) - 1e-3 * output[1]


def timm_cnn(p: float) -> nn.Module:
    import timm

    net = timm.create_model("test_efficientnet", num_classes=10, in_chans=1, drop_rate=p)
    return Of(lambda m, x: m.net(F.interpolate(image(x), scale_factor=4)), net=net)


def public(name: str, make: Callable[[float], nn.Module], **settings: Any) -> None:
    def made(p: float) -> nn.Module:
        with_torchvision()
        return make(p)

    entry(P, name, **settings)(made)


public("transformers: BERT", bert, loss=None, reads="text", tolerance=1e-3)
public("transformers: GPT-2", gpt2, loss=None, reads="causal", tolerance=1e-3)
public("transformers: Llama", llama, loss=None, reads="causal", tolerance=1e-3)
public("transformers: T5 encoder", t5, loss=None, reads="text", tolerance=1e-3)
public("transformers: ViT", hf_vit, loss=None, reads="pixels", tolerance=1e-3)
public("transformers: ResNet", hf_resnet, loss=None, reads="pixels", tolerance=1e-3)
public("vit-pytorch: ViT", lucid_vit, tolerance=1e-3)
public("vit-pytorch: CaiT without layer_dropout", lucid_cait, tolerance=1e-3)
public("x-transformers: decoder", x_decoder, loss=next_token, reads="tokens", tolerance=1e-3)
public("rtdl_revisiting_models: MLP", rtdl_mlp)
public("rtdl_revisiting_models: ResNet", rtdl_resnet, tolerance=1e-3)
public("rtdl_revisiting_models: FT-Transformer", rtdl_transformer, tolerance=1e-3)
public("tabm: TabM", tabm, loss=each_of_the_ensemble)
public("pytorch-tabnet: TabNet", tabnet, loss=sparse_tabnet, tolerance=1e-3)
public("timm: EfficientNet", timm_cnn, tolerance=1e-3)
