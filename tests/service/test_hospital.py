"""The service beside a real Orthanc: films come in, results go back, whatever is killed between."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import time

import pytest
from hospital import (
    ARCHIVE,
    GATE,
    USER,
    XRAY,
    Orthanc,
    film,
    free_ports,
)
from input_scenes import films
from pydicom import dcmread
from service_scenes import Server

from dicom_files import SECRETS

pytestmark = pytest.mark.service

KILLS = int(os.environ.get("LEADAPRON_KILLS", "5"))
FILMS = int(os.environ.get("LEADAPRON_FILMS", "12"))
"""Of the test that kills; two films come before each kill, the others in the end."""

CR = "1.2.840.10008.5.1.4.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def orthanc(tmp_path):
    (gate_port,) = free_ports(1)
    orthanc = Orthanc(tmp_path / "orthanc", gate_port)
    try:
        orthanc.start()
        yield orthanc
    finally:
        orthanc.close()


@pytest.fixture
def polling(gate, orthanc):
    """The words of a service that polls Orthanc."""
    user = gate.parent / "user"
    user.touch(0o600)
    user.write_text(":".join(USER) + "\n")
    return "--orthanc", orthanc.url, "--orthanc-user-file", str(user)


def takes_films(server):
    """Wait until a service knows where in Orthanc's changes it is."""
    end = time.monotonic() + 60
    while not (server.spool / "orthanc.json").exists():
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.02)


def delivered(server):
    """Wait until nothing waits in the spool."""
    end = time.monotonic() + 60
    while any(any((server.spool / name).iterdir()) for name in ("waiting", "outbox", "arriving")):
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.05)


def referred(result):
    """The SOP instance UID of the film that a result is about."""
    if result.Modality == "SR":
        study = result.CurrentRequestedProcedureEvidenceSequence[0]
        return study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    return result.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID


def about(results):
    """The kinds of results by film, and that each is there once."""
    found = {}
    for result in results.values():
        found.setdefault(referred(result), []).append(result.Modality)
    return {uid: sorted(kinds) for uid, kinds in found.items()}


def store(orthanc, folder, contents):
    """Store films as an X-ray machine does, with dcmtk."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(content)
    call = ["storescu", "-aet", XRAY, "-aec", ARCHIVE, "127.0.0.1", str(orthanc.dicom), *paths]
    subprocess.run(call, check=True, capture_output=True, timeout=60)


def test_from_the_machine_to_orthanc_to_the_gate_and_back(
    nursery, gate, orthanc, polling, tmp_path
):
    """Results are read by DICOMweb. What isn't a film stays alone, the gate's results too."""
    images = films(4, seed=30)
    store(orthanc, tmp_path, [film(images[3])])  # before the first start: left alone
    server = Server(nursery, gate, *polling, "--result-kinds", "sr,gsps,sc")
    try:
        assert server.listens(), server.log.read_text()
        takes_films(server)
        sent = [
            film(images[0]),
            film(images[1], SOPClassUID=CR, Modality="CR", PhotometricInterpretation="MONOCHROME1"),
        ]
        store(orthanc, tmp_path, [*sent, film(images[2], SOPClassUID=CT, Modality="CT")])
        results = orthanc.await_results(6 + 1)
        uids = [dcmread(io.BytesIO(each)).SOPInstanceUID for each in sent]
        others = {uid: each for uid, each in results.items() if each.Modality in ("SR", "PR")}
        assert about(others) == {uid: ["PR", "SR"] for uid in uids}
        study = dcmread(io.BytesIO(sent[0])).StudyInstanceUID
        series = orthanc.client.get(f"/dicom-web/studies/{study}/series").json()
        kinds = sorted(each["00080060"]["Value"][0] for each in series)
        assert kinds == ["DX", "OT", "PR", "SR"]
        found = orthanc.client.get(
            f"/dicom-web/studies/{study}/metadata", headers={"Accept": "application/dicom+json"}
        ).json()
        (report,) = (each for each in found if each["00080060"]["Value"] == ["SR"])
        assert report["0040A493"]["Value"] == ["UNVERIFIED"]
        assert report["00100020"]["Value"] == [SECRETS[1]]  # it belongs to the patient
        delivered(server)
        time.sleep(1.5)  # another look at the changes: the results are no films
        status, _, metrics = server.ask("GET", "/metrics")
        assert status == 200
        assert b"leadapron_films_accepted_total 2.0" in metrics
        assert b"leadapron_results_delivered_total 6.0" in metrics
        assert server.end(signal.SIGTERM) == 0
    finally:
        server.end(signal.SIGKILL)
    said = [server.log.read_text(), metrics.decode()]
    for path in server.spool.rglob("*"):
        said.append(str(path.relative_to(server.spool)))
        if path.suffix == ".json":
            said.append(path.read_text())
    for secret in (*SECRETS, *USER, *uids, study, XRAY):
        assert not any(secret in text for text in said), secret


def test_orthanc_forwards_to_the_gate_and_gets_results_by_dicom(nursery, gate, tmp_path):
    """Without HTTP; Orthanc is down for a while before the results are there."""
    (port,) = free_ports(1)
    orthanc = Orthanc(tmp_path / "orthanc", port)
    orthanc.start()
    server = Server(
        nursery, gate, "--dicom", f"{GATE}@127.0.0.1:{port}",
        "--results", f"{ARCHIVE}@127.0.0.1:{orthanc.dicom}", http=False,
    )  # fmt: skip
    try:
        assert server.says("listening for DICOM"), server.log.read_text()
        sent = [film(image) for image in films(3, seed=31)]
        for content in sent[:2]:
            orthanc.put(content)
        names = orthanc.client.get("/instances").json()
        answer = orthanc.client.post(
            "/modalities/gate/store", json={"Resources": names, "Synchronous": True}
        )
        assert (answer.status_code, answer.json()["FailedInstancesCount"]) == (200, 0)
        assert len(about(orthanc.await_results(4))) == 2
        delivered(server)
        while any((server.spool / "stored").iterdir()):  # until Orthanc has committed to them
            time.sleep(0.05)
        assert "count as delivered" not in server.log.read_text()
        orthanc.stop()
        call = ["storescu", "-aet", ARCHIVE, "-aec", GATE, "127.0.0.1", str(port)]
        (tmp_path / "third.dcm").write_bytes(sent[2])
        subprocess.run([*call, tmp_path / "third.dcm"], check=True, capture_output=True, timeout=60)
        assert server.says("results can't be delivered"), server.log.read_text()
        assert len(list((server.spool / "outbox").iterdir())) == 2
        orthanc.start()
        assert len(about(orthanc.await_results(6))) == 3
        wrong = ["echoscu", "-aet", "STRANGER", "-aec", GATE, "127.0.0.1", str(port)]
        refused = subprocess.run(wrong, capture_output=True, timeout=60, check=False)
        assert b"Calling AE Title Not Recognized" in refused.stdout + refused.stderr
        assert server.end(signal.SIGTERM) == 0
    finally:
        server.end(signal.SIGKILL)
        orthanc.close()
    assert not any(secret in server.log.read_text() for secret in (*SECRETS, "STRANGER"))


def test_a_gate_killed_at_random_moments_loses_no_film_and_doubles_no_result(
    nursery, gate, orthanc, polling
):
    """Films keep coming into Orthanc while the gate is down, and Orthanc is down once as well."""
    rng = random.Random(11)
    contents = [film(image) for image in films(FILMS, seed=32)]
    uids = [dcmread(io.BytesIO(each)).SOPInstanceUID for each in contents]
    server = Server(nursery, gate, *polling)
    try:
        assert server.listens(), server.log.read_text()
        takes_films(server)
        for kill in range(KILLS):
            for content in contents[2 * kill : 2 * kill + 2]:
                orthanc.put(content)
            time.sleep(rng.uniform(0.0, 1.8))
            server.end(signal.SIGKILL)
            if kill == 2:
                orthanc.stop()
            server = Server(nursery, gate, *polling)
            if kill == 2:
                assert server.says("can't take films from Orthanc"), server.log.read_text()
                orthanc.start()
        for content in contents[2 * KILLS :]:
            orthanc.put(content)
        orthanc.await_count(3 * FILMS, 90 + FILMS)
        delivered(server)
        results = orthanc.results()
        assert server.end(signal.SIGTERM) == 0
    finally:
        server.end(signal.SIGKILL)
    assert about(results) == {uid: ["PR", "SR"] for uid in uids}
    assert orthanc.count() == 3 * FILMS
    assert len(list((server.spool / "done").glob("*.json"))) == FILMS
    for folder in ("waiting", "arriving", "outbox", "undelivered", "dead"):
        assert list((server.spool / folder).iterdir()) == []
