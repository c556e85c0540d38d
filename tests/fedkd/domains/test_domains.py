"""Domains: what cards read decides priors, student and mutation."""

import pytest
import torch

from fedkd.domains import Images, Table, domain_of
from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.models.table_networks import ColumnEmbedding
from fedkd.procedural.table_priors import GaussianRows
from fedkd.protocol import Card, Column, Signal, decode_rows

COLUMNS = (Column("x", -1.0, 1.0), Column("ward", levels=("a", "b", "c")))
LOGITS = frozenset({Signal.LOGITS})


def card(name: str, columns: tuple[Column, ...] = COLUMNS) -> Card:
    return Card(name, 2, (1, 1, 2), LOGITS, columns=columns)


def test_the_domain_is_what_all_cards_read() -> None:
    assert domain_of([card("a"), card("b")]) == Table(COLUMNS)
    assert domain_of([Card("a", 2, (1, 8, 8), LOGITS)]) == Images((1, 8, 8))
    assert Table(COLUMNS).shape == (1, 1, 2)


def test_institutions_of_other_columns_do_not_share_a_run() -> None:
    other = (Column("x", -1.0, 2.0), COLUMNS[1])
    with pytest.raises(SettingsError):
        domain_of([card("a"), card("b", other)])
    with pytest.raises(SettingsError):
        domain_of([card("a"), card("b", ())])


def test_a_table_takes_the_rows_priors_and_a_network_of_its_columns() -> None:
    experiment = load_experiment("diabetes", ['rows.priors=["gaussian"]'])
    table = Table(COLUMNS)
    assert table.priors(experiment) == {"gaussian": GaussianRows()}
    student = table.student(experiment, 3)
    assert student(torch.rand(5, 1, 1, 2)).shape == (5, 3)
    with pytest.raises(SettingsError, match="reads images"):
        table.student(load_experiment("diabetes", ["student.model=cnn"]), 3)


def test_a_mutation_changes_some_columns_to_bytes_and_keeps_the_rest() -> None:
    columns = tuple(Column(f"x{place}") for place in range(20))
    samples = torch.full((500, 1, 1, 20), 300.0)  # no byte, so that what was redrawn is seen
    rng = torch.Generator().manual_seed(0)
    mutated = Table(columns).mutated(samples, rng)
    changed = mutated != samples
    assert 0.08 < float(changed.float().mean()) < 0.12
    assert 0 <= float(mutated[changed].min()) < float(mutated[changed].max()) <= 255


def test_levels_are_embedded_and_numbers_standardised() -> None:
    torch.manual_seed(0)
    embedding = ColumnEmbedding(COLUMNS)
    rows = torch.tensor([[0.0, 0.1], [1.0, 0.2], [0.5, 0.9]])[:, None, None, :]
    out = embedding(rows)
    assert embedding.width == out.shape[1] == 1 + 3
    assert out[:, 0].tolist() == pytest.approx([-(3**0.5), 3**0.5, 0.0])
    levels = decode_rows(rows, COLUMNS)[:, 1].tolist()
    assert levels == [0.0, 0.0, 2.0]
    assert torch.equal(out[0, 1:], out[1, 1:])  # one level, one embedding
    assert not torch.equal(out[0, 1:], out[2, 1:])


def test_what_result_json_says_of_a_table_has_the_step_of_every_column() -> None:
    told = Table(COLUMNS).record()
    assert told["kind"] == "table"
    assert [column["step"] for column in told["columns"]] == [2 / 255, 1.0]
