"""Fine-tune a transformer of Hugging Face's: dict batches, its own loss, frozen embeddings, AdamW and a linear warm-up.

The weights are random here, so that nothing is downloaded; with ``from_pretrained`` in place of the configuration the
rest stays. The digits are 16 patches of 2 by 2 pixels. Needs the package transformers::

    python examples/fine_tuning.py
"""

import torch
from transformers import ViTConfig, ViTForImageClassification, get_linear_schedule_with_warmup

import luthier as lt

EPOCHS, ROWS = 5, 32


def model(config):
    settings = ViTConfig(
        **{"image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 32, "intermediate_size": 64},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 10, "initializer_range": 0.2},
    )
    network = ViTForImageClassification(settings)
    network.vit.embeddings.requires_grad_(False)
    return network


def part(split):
    """A split as the model's arguments: the targets are among them, so that it returns the loss."""
    return lt.Split({"pixel_values": split.inputs, "labels": split.targets})


def optimizer(model, config):
    """A higher rate for the new head, and no weight decay on biases and norms."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    head = [p for name, p in trained if name.startswith("classifier")]
    plain = [p for name, p in trained if p.ndim == 1 and not name.startswith("classifier")]
    rest = [p for name, p in trained if p.ndim > 1 and not name.startswith("classifier")]
    groups = [{"params": head, "lr": 3 * config["lr"]}, {"params": plain, "weight_decay": 0.0}, {"params": rest}]
    return torch.optim.AdamW(groups, lr=config["lr"], weight_decay=config["weight_decay"])


def scheduler(optimizer):
    steps = EPOCHS * (len(digits.train) // ROWS)
    return get_linear_schedule_with_warmup(optimizer, steps // 10, 2 * steps)


def accuracy(output, batch):
    return output["logits"].argmax(1).eq(batch["labels"]).float().mean()


digits = lt.data.digits()
task = lt.TorchTask(
    space=lt.Space(lr=lt.Float(1e-3, 1e-2, log=True), weight_decay=lt.Float(1e-3, 0.1, log=True)),
    model=model,
    data=lt.Splits(part(digits.train), part(digits.valid)),
    optimizer=optimizer,
    scheduler=(scheduler, "step"),
    clip_norm=1.0,
    batch_size=ROWS,
    metrics={"accuracy": accuracy},
    keep="best",
)


def main() -> None:
    study = lt.tune(task, method="random", trials=3, epochs=EPOCHS, seed=0, progress=False)
    for trial in study.trials:
        print(f"lr {trial.config['lr']:.1e}: validation accuracy {trial.metrics['accuracy']:.3f}")
    network = study.model()
    with torch.no_grad():
        output = network(**part(digits.test).inputs)
    print(f"{type(network).__name__}, test accuracy {accuracy(output, part(digits.test).inputs):.3f}")


if __name__ == "__main__":
    main()
