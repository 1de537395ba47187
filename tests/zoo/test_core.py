"""Twenty networks of the zoo, one of each kind of trouble; ``make zoo`` runs all."""

from pathlib import Path

import pytest
from cut import resumed
from zoo.adapters import adapters_of
from zoo.networks import MORE, ZOO
from zoo.rows import row_of, task_of

CORE = {
    "old weight_norm": "vmap",
    "spectral_norm": "",
    "LoRA on a frozen base": "",
    "KAN with B-splines": "",
    "MBConv with stochastic depth": "",
    "conv VAE (rsample)": "",
    "VQ-VAE with EMA buffers": "",
    "Fourier neural operator (complex)": "",
    "LSTM, two layers, dropout": "loop",
    "LSTM language model, tied weights": "",
    "selective scan in a loop": "vmap",
    "TransformerEncoder, dropout": "",
    "GPT, rotary embeddings, cache": "",
    "experts with nonzero": "loop",
    "EmbeddingBag": "",
    "sparse Embedding": "",
    "wide and deep (dict inputs)": "",
    "mixture density network (dataclass)": "",
    "energy model, gradient in forward": "",
    "Beta, Gamma, Poisson, Categorical draws": "",
    "checkpointing, with dropout": "",
    "branch on values": "loop",
    "lazy modules": "",
    "sparse-adjacency GCN": "loop",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", CORE)
def test_a_network_runs_as_in_a_plain_loop_and_the_same_alone_stacked_traced_and_resumed(name, tmp_path):
    row = row_of(ZOO[name])
    assert row.runs == "runs", row.note
    assert CORE[name] in ("", row.form)
    assert not resumed(lambda: task_of(ZOO[name], 0.1), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("Bilinear", "LeNet", "RNN"),  # their second derivatives are the ones that differed for a lone member
        pytest.param("LSTM, two layers, dropout", marks=pytest.mark.slow),
        pytest.param("TransformerEncoder, dropout", marks=pytest.mark.slow),
    ],
)
def test_every_adapter_trains_it_in_a_stack_as_alone_bit_for_bit(name):
    found = adapters_of(ZOO[name])
    assert set(found.values()) == {"works"}, found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_module_is_refused_by_its_name():
    row = row_of(ZOO["jit-scripted module"])
    assert row.runs == "refused" and "ScriptModule" in row.note and "torch.jit" in row.note


def test_the_list_is_the_one_that_was_fixed():
    """105 networks and two more, and the page has a row for each."""
    assert len(ZOO) == 105 + len(MORE) and {*MORE, *CORE} <= {*ZOO}
    page = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text()
    assert [name for name in ZOO if f"| {name} |" not in page] == []
