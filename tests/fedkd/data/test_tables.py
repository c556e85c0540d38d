"""Tables: those that ship, schema files, and what is wrong with a file, each in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedkd.data.datasets import open_data
from fedkd.data.partition import partition_by_column
from fedkd.errors import DataError, FedkdError, SettingsError
from fedkd.protocol import Column, Number, decode_numbers, decode_rows

SCHEMA = """
[[columns]]
name = "age"
low = 18
high = 100
whole = true

[[columns]]
name = "ward"
levels = ["general", "intensive"]
"""
CLASSES = SCHEMA + '[predict]\nname = "outcome"\nclasses = ["well", "ill"]\n'
NUMBERS = SCHEMA + '[[predict]]\nname = "stay"\nunit = "days"\nlow = 0\nhigh = 60\n'
ROWS = [(20 + row, ("general", "intensive")[row % 2], row % 3 == 0, row) for row in range(16)]


def write(folder: Path, schema: str, lines: list[str] | None = None) -> str:
    """A CSV file and the schema beside it; the name of the table."""
    told = ["age,ward,outcome,stay,unused"]
    told += [f"{a},{w},{'ill' if ill else 'well'},{stay},?" for a, w, ill, stay in ROWS]
    (folder / "ward.csv").write_text("\n".join(lines or told) + "\n")
    (folder / "ward.schema.toml").write_text(schema)
    return f"table:{folder / 'ward.csv'}"


@pytest.mark.parametrize(
    ("name", "rows", "columns", "outputs", "numbers"),
    [
        ("table:diabetes", 442, 10, 1, True),
        ("table:breast-cancer", 569, 30, 2, False),
        ("table:wine", 178, 13, 3, False),
        ("table:friedman", 1000, 105, 1, True),
    ],
)
def test_a_table_that_ships_is_split_and_encoded(
    name: str, rows: int, columns: int, outputs: int, numbers: bool
) -> None:
    data = open_data(name)
    assert data.shape == (1, 1, columns)
    assert len(data.train_labels) + len(data.test_labels) == rows
    assert len(data.test_labels) == rows // 4
    assert data.classes == outputs
    assert bool(data.numbers) is numbers
    assert len(data.columns) == columns
    for samples in (data.train_images, data.test_images):
        assert samples.dtype == torch.float32
        assert 0.0 <= float(samples.min()) <= float(samples.max()) <= 1.0
    again = open_data(name)
    assert torch.equal(data.test_images, again.test_images)


def test_rows_of_diabetes_are_the_patients_and_their_numbers() -> None:
    from sklearn.datasets import load_diabetes

    found, data = load_diabetes(scaled=False), open_data("table:diabetes")
    rows = decode_rows(torch.cat([data.train_images, data.test_images]), data.columns).numpy()
    rows[:, 1] += 1  # the level's index; sexes are 1 and 2
    truth = decode_numbers(torch.cat([data.train_labels, data.test_labels]), data.numbers).numpy()
    ours = np.column_stack([rows, truth])
    theirs = np.column_stack([found.data, found.target])
    ours, theirs = (each[np.lexsort(each.round(3).T)] for each in (ours, theirs))
    assert np.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # the latter is what Excel writes
def test_a_csv_file_of_classes_is_read_by_its_schema(tmp_path: Path, encoding: str) -> None:
    name = write(tmp_path, CLASSES)
    (tmp_path / "ward.csv").write_text((tmp_path / "ward.csv").read_text(), encoding)
    data = open_data(name)
    assert data.columns == (
        Column("age", 18.0, 100.0, whole=True),
        Column("ward", levels=("general", "intensive")),
    )
    assert data.class_names == ("well", "ill")
    assert not data.numbers
    rows = decode_rows(torch.cat([data.train_images, data.test_images]), data.columns)
    labels = torch.cat([data.train_labels, data.test_labels])
    told = {
        (age, ward, int(label)) for (age, ward), label in zip(rows.tolist(), labels, strict=True)
    }
    assert told == {(float(a), float(w == "intensive"), int(ill)) for a, w, ill, _ in ROWS}


def test_a_parquet_file_of_numbers_is_read_by_the_schema_of_its_folder(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    names = ("age", "ward", "outcome", "stay")
    table = {name: [row[at] for row in ROWS] for at, name in enumerate(names)}
    parquet.write_table(pyarrow.table(table), tmp_path / "ward.parquet")
    (tmp_path / "schema.toml").write_text(NUMBERS)
    data = open_data("table:ward.parquet", str(tmp_path))
    assert data.numbers == (Number("stay", "days", 0.0, 60.0),)
    truth = decode_numbers(torch.cat([data.train_labels, data.test_labels]), data.numbers)
    assert sorted(truth[:, 0].round().tolist()) == [float(row[3]) for row in ROWS]


HEAD = "age,ward,outcome,stay"


@pytest.mark.parametrize(
    ("schema", "lines", "said"),
    [
        ("", None, "is no schema of a table: columns: "),
        ("age = [", None, "is no schema of a table"),
        (CLASSES.replace("whole", "hole"), None, "columns.0.hole"),
        (CLASSES.replace('"ill"', '"well"'), None, "names a class twice"),
        (CLASSES.replace('"outcome"', '"ward"'), None, "predicts a column that teachers also read"),
        (NUMBERS.replace('"stay"', '"age"'), None, "predicts a column that teachers also read"),
        (SCHEMA, None, "predict: Field required"),
        ("predict = []\n" + SCHEMA, None, "predicts nothing; name classes or numbers"),
        (CLASSES.replace(', "ill"', ""), None, "predict."),
        (CLASSES.replace("high = 100", "high = 18"), None, "column 0: a range from 18.0 to 18.0"),
        (CLASSES.replace('"age"', '"ward"'), None, "two columns of one name"),
        (NUMBERS.replace("high = 60", "high = -1"), None, "number 0: a range"),
        (CLASSES.replace('"age"', '"weight"'), None, "has no column 'weight'"),
        (CLASSES, [HEAD], "has no column 'age'"),
        (CLASSES, [HEAD, *["30,general,well,1"] * 4], "4 rows, expected 8 or more"),
        (CLASSES, [HEAD, *["30,general,well,1"] * 9, "x,general,well,1"], "row 9 of column 'age'"),
        (CLASSES, [HEAD, *["30,general,well,1"] * 9, "nan,general,ill,1"], "is no number"),
        (CLASSES, [HEAD, "30,corridor,well,1"], "row 0 has a level of 'ward'"),
        (CLASSES, [HEAD, "30,general,dead,1"], "row 0 has a level of 'outcome'"),
        (CLASSES, [HEAD, "30"], "a level of 'ward'"),
        (NUMBERS, [HEAD, "30,general,well,"], "row 0 of column 'stay' is no number"),
        (
            CLASSES,
            [HEAD, *["30,general,well,1"] * 9, "30,general,ill,1"],
            "2 or more rows of every class",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(
    tmp_path: Path, schema: str, lines: list[str] | None, said: str
) -> None:
    with pytest.raises(FedkdError) as raised:
        open_data(write(tmp_path, schema, lines))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_table_that_is_not_there_and_one_without_a_schema_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="choose one of diabetes"):
        open_data("table:nothing")
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match=r"write a\.schema\.toml beside it"):
        open_data(f"table:{tmp_path / 'a.csv'}")
    (tmp_path / "a.parquet").write_text("no table")
    (tmp_path / "a.schema.toml").write_text(CLASSES)
    with pytest.raises(DataError, match="cannot be read as a table"):
        open_data(f"table:{tmp_path / 'a.parquet'}")


def test_a_value_outside_its_range_counts_as_the_end_of_the_range(tmp_path: Path) -> None:
    lines = [HEAD, *[f"{age},general,{c},1" for age in (5, 500) for c in ("well", "ill") * 4]]
    data = open_data(write(tmp_path, CLASSES, lines))
    assert set(data.train_images[:, 0, 0, 0].tolist()) == {0.0, 1.0}


def test_rows_are_dealt_out_by_thirds_of_a_column() -> None:
    values = torch.tensor([5.0, 1.0, 3.0, 2.0, 4.0, 0.0])
    parts = partition_by_column(values, 3)
    assert [sorted(values[torch.as_tensor(part)].tolist()) for part in parts] == [
        [0.0, 1.0],
        [2.0, 3.0],
        [4.0, 5.0],
    ]
