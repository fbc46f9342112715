"""Equal servers and models are equal, however they are written."""

import doctest
import subprocess
import sys

import pytest

from mmreward.judge.backends import openai_address
from mmreward.judge.backends.openai_address import ServedModel, canonical_address, served_model


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/v1/",
        "http://localhost:8000/v1",
        "HTTP://LOCALHOST:8000//v1//",
        "http://[::1]:8000/v1",
        "http://0.0.0.0:8000/v1",
        " http://localhost.:8000/v1 ",
    ],
)
def test_names_of_this_machine_are_one(url):
    assert canonical_address(url) == "http://127.0.0.1:8000/v1"


def test_a_default_port_is_there_whether_written_or_not():
    assert canonical_address("https://Host/v1") == canonical_address("https://host:443/v1/") == "https://host:443/v1"
    assert canonical_address("http://host") == "http://host:80" != canonical_address("https://host")
    assert canonical_address("http://host/v1") != canonical_address("http://host/V1")
    assert canonical_address("http://[2001:DB8::1]:9/v1") == "http://[2001:db8::1]:9/v1"


@pytest.mark.parametrize("url", ["somewhere", "ftp://host/v1", "http://", "http://host:port/v1", ""])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError):
        canonical_address(url)


@pytest.mark.parametrize(
    ("spec", "served"),
    [
        ("openai:http://h:1/v1#A/B?way=rubric", ServedModel("http://h:1/v1", "A/B")),
        ("openai:http://H:1/v1/#A/B", ServedModel("http://h:1/v1", "A/B")),
        ("openai:http://h:1/v1", ServedModel("http://h:1/v1", "")),
        ("editscore:E/S?server=http://h:1/v1#M&passes=4", ServedModel("http://h:1/v1", "M")),
        ("published:V/F?judge=firm&server=http://h:1/v1", ServedModel("http://h:1/v1", "V/F")),
        ("editscore:E/S?passes=4", None),
        ("vlm:tiny", None),
        ("recommended", None),
    ],
)
def test_the_model_behind_a_spec(spec, served):
    assert served_model(spec) == served


def test_the_examples_are_right():
    assert doctest.testmod(openai_address).attempted == 2 and doctest.testmod(openai_address).failed == 0


def test_it_imports_nothing_heavy():
    code = "import sys, mmreward.judge.backends.openai_address; assert not {'torch', 'openai'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
