"""What is written as YAML reads back equal, to the type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcs_nas.settings import dump_yaml, parse_yaml
from dcs_nas.space import Genotype
from tests.run_folders import genotypes


@pytest.mark.parametrize("text", ["974e57180983", "1e3", "-2E+5", "1_0e5", "yes", "0x1f", "1:30", "~", "", "1.5", "12"])
def test_a_string_that_looks_like_a_number_stays_a_string(text: str) -> None:
    assert parse_yaml(dump_yaml({"hash": text, "all": [text]}), source="x") == {"hash": text, "all": [text]}


@given(st.text("0123456789eE.+-_", max_size=12), st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_strings_and_numbers_read_back_equal(text: str, number: float, whole: int) -> None:
    data = {"text": text, "number": number, "whole": whole}
    found = parse_yaml(dump_yaml(data), source="x")
    assert found == data
    assert [type(v) for v in found.values()] == [str, float, int]


def test_a_genotype_whose_space_hashes_to_a_number_in_disguise_reads_back() -> None:
    """A hash such as 974e57180983, one of about 240, is 9.74e57180985 to a reader of numbers."""
    genotype = genotypes(1)[0]
    fields = genotype.model_dump(mode="json", by_alias=True)
    fields["space"]["hash"] = "974e57180983"
    assert parse_yaml(dump_yaml(fields), source="x")["space"]["hash"] == "974e57180983"
    assert Genotype.model_validate(parse_yaml(genotype.to_yaml(), source="x")) == genotype
