"""What commands show on a terminal of 80 columns, from what they found."""

import pytest

from gradsift.cli import tables
from gradsift.pipelines.runs.dryrun import Plan


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_a_plan_has_words_and_units(capsys):
    plan = Plan(
        1_234_567, 3, 0.973, 81.26, 2, 9, 3 << 30, 700 << 20, 1234.5, {"gradients": 61.25}, ["look out"], 1, 2_000,
        {"method 'less'": 5 << 20, "allowed": 2 << 30},
    )  # fmt: skip
    tables.show_plan(plan)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for wanted in (
        "rows of the pool 1,234,567",
        "rows with a label 97.3%",
        "tokens of a row, mean 81.3",
        "gradient rows to compute 2,000",
        "disk needed 3.0 GiB",
        "disk free 700.0 MiB",
        "gradients 61.2",
        "method 'less' 5.0 MiB",
        "allowed 2.0 GiB",
        "Note: look out",
    ):
        assert wanted in lines
