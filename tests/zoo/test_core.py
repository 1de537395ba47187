"""Twenty networks of the zoo, one of each kind of trouble; ``make zoo`` runs all."""

import pytest
from zoo.networks import ZOO
from zoo.rows import row_of

CORE = {
    "old weight_norm": "vmap",
    "spectral_norm": "",
    "LoRA on a frozen base": "",
    "KAN with splines": "",
    "MBConv with stochastic depth": "",
    "VAE (rsample)": "",
    "VQ-VAE with EMA buffers": "",
    "Fourier neural operator (complex)": "",
    "LSTM, two layers, dropout": "",
    "LSTM language model, tied weights": "",
    "selective scan in a loop": "",
    "TransformerEncoder, dropout": "",
    "GPT, rotary embeddings, cache": "",
    "experts with nonzero": "loop",
    "EmbeddingBag": "",
    "wide and deep (dict inputs)": "",
    "mixture density network (dataclass)": "",
    "energy model, gradient in forward": "",
    "Beta, Gamma, Poisson, Categorical draws": "",
    "checkpointing, with dropout": "",
    "branch on values": "loop",
    "lazy modules": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CORE)
def test_a_network_runs_as_in_a_plain_loop_and_the_same_alone_stacked_traced_and_resumed(name):
    row = row_of(ZOO[name])
    assert row.runs == "runs", row.note
    assert CORE[name] in ("", row.form)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_module_is_refused_by_its_name():
    row = row_of(ZOO["jit-scripted module"])
    assert row.runs == "refused" and "ScriptModule" in row.note and "torch.jit" in row.note
