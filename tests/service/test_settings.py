"""Settings of the DICOM doors: what is refused before anything is opened, and in what words."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from leadapron.cli import run
from leadapron.errors import UsageError
from leadapron.service.settings import Node, Nodes

RESULTS = "HOSPITAL@127.0.0.1:14242"
DOOR = "GATE@127.0.0.1:11112"
URL = "http://127.0.0.1:8042"


@pytest.mark.parametrize(
    ("text", "node"),
    [
        (DOOR, Node(title="GATE", host="127.0.0.1", port=11112)),
        ("A B-1@[::1]:0", Node(title="A B-1", host="::1", port=0)),
        ("GATE@pacs.example.org:104", Node(title="GATE", host="pacs.example.org", port=104)),
    ],
)
def test_a_node(text, node):
    assert Node.parsed("dicom", text) == node


@pytest.mark.parametrize(
    "text",
    ["", "GATE", "127.0.0.1:104", "@127.0.0.1:104", "GATE@127.0.0.1", "GATE@:104", "GATE@h:99999",
     "SEVENTEEN-LETTERS@h:104", " GATE@h:104", "GA\\TE@h:104", "GÄTE@h:104", "GATE@h:1x"],
)  # fmt: skip
def test_what_is_no_node(text):
    with pytest.raises(UsageError, match="expected AET@HOST:PORT, as GATE@127"):
        Node.parsed("dicom", text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dicom": DOOR}, "nobody gets their results"),
        ({"dicom": "GATE@0.0.0.0:11112", "orthanc": URL}, "AE titles that may send"),
        ({"dicom": DOOR, "results": RESULTS, "callers": ["X" * 17]}, "1 to 16 characters"),
        ({"results": "HOSPITAL"}, "`results` HOSPITAL: expected AET@HOST:PORT"),
        ({"orthanc": "127.0.0.1:8042"}, "no URL of an Orthanc"),
        ({"orthanc": "ftp://127.0.0.1:8042"}, "no URL of an Orthanc"),
        ({"orthanc": "http://user:word@127.0.0.1:8042"}, "the user in `orthanc_user_file`"),
        ({"orthanc": "http://127.0.0.1:99999"}, "no URL of an Orthanc"),
        ({"orthanc_user_file": Path("user")}, "need `orthanc`"),
        ({"orthanc_ca": Path("ca.pem")}, "need `orthanc`"),
        ({"orthanc": URL, "orthanc_ca": Path("ca.pem")}, "begins with https://"),
        ({"dicom_ca": Path("ca.pem")}, "needs `dicom` or `results`"),
    ],
)
def test_nodes_that_do_not_fit(settings, words):
    with pytest.raises(UsageError, match=words) as refused:
        Nodes(**settings)
    assert "word" not in str(refused.value)


def test_who_may_send():
    assert Nodes(dicom=DOOR, results=RESULTS).admitted == ("HOSPITAL",)
    assert Nodes(dicom=DOOR, results=RESULTS, callers=["XRAY"]).admitted == ["XRAY"]
    assert Nodes(dicom=DOOR, orthanc=URL).admitted == ()


@pytest.mark.service
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dicom", "GATE"), "--dicom GATE: expected AET@HOST:PORT"),
        (("--dicom", DOOR, "--results", RESULTS, "--callers", ","), "holds no name"),
        (("--dicom", "GATE@0.0.0.0:11112", "--results", RESULTS), "travel in the clear"),
        (("--dicom", DOOR, "--results", RESULTS, "--dicom-ca", "ca.pem"), "needs --tls-cert"),
        (("--orthanc", URL, "--result-kinds", "sr,pdf"), "--result-kinds pdf: expected sr"),
        (("--orthanc", URL, "--orthanc-user-file", "nofile"), "can't read nofile"),
        (("--dicom", "GATE@127.0.0.1:{port}", "--results", RESULTS), "give another address or"),
    ],
)
def test_what_the_command_line_says(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = run(["serve", "gate.json", *(word.format(port=port) for word in words)])
    output = capsys.readouterr()
    assert (code, output.out) == (4, "")
    assert said in output.err
    assert output.err.count("\n") == 1
