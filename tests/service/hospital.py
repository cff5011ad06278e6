"""A hospital for tests: films as DICOM files, an Orthanc, and results in few bytes."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_files import with_pixels

ARCHIVE, GATE, XRAY = "HOSPITAL", "GATE", "XRAY"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
USER = ("film-router", "a-password-of-Orthanc")

ORTHANC = {
    "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
    "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
    "RegisteredUsers": dict([USER]), "DicomAet": ARCHIVE, "DicomCheckCalledAet": True,
    "DicomAlwaysAllowStore": False, "StableAge": 1, "OverwriteInstances": True,
    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
}  # fmt: skip


def part10(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return a dataset as a file."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    content = io.BytesIO()
    dcmwrite(content, dataset, enforce_file_format=True)
    return content.getvalue()


def film(image: np.ndarray, **values: object) -> bytes:
    """Return a DX film as a file; `values` as of `header`."""
    from pydicom.uid import generate_uid

    facts = {"SeriesInstanceUID": generate_uid(), "ImageType": ["ORIGINAL", "PRIMARY"]}
    return part10(with_pixels(image, **{**facts, **values}))


def result_uid(uid: str) -> str:
    """Return the UID of a film's result by `short_results`."""
    return f"{uid[:60]}.77"


def short_results(header: Dataset, answer, image) -> list[Dataset]:
    """Make results as the service does, but in few bytes."""
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID = SR, result_uid(header.SOPInstanceUID)
    result.StudyInstanceUID, result.Modality = header.StudyInstanceUID, "SR"
    result.SeriesInstanceUID = f"{header.StudyInstanceUID[:60]}.78"
    result.PatientID, result.PatientName = header.PatientID, header.PatientName
    result.SeriesDescription = answer.verdict.word
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    return [result]


def free_ports(number: int) -> list[int]:
    """Return ports of this machine that are free."""
    taken = [socket.socket() for _ in range(number)]
    try:
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]
    finally:
        for each in taken:
            each.close()


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return certificate and key of a node of this machine."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    call = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
            f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out",
            cert]  # fmt: skip
    subprocess.run(call, check=True, capture_output=True)
    return cert, key


def refuse_open_network() -> None:
    """Fail the test where others reach this machine: Orthanc listens on all addresses.

    `tools/alone.py` says so where there is no other way.
    """
    if os.environ.get("LEADAPRON_SHARED_NETWORK"):
        return
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    if others := {line.partition(":")[0].strip() for line in lines} - {"lo"}:
        pytest.fail(
            f"Orthanc would listen on {', '.join(sorted(others))} too; run the test by "
            "python tools/alone.py pytest ...",
            pytrace=False,
        )


class Orthanc:
    """An Orthanc in a process of its own; its database lies in `folder`.

    Args:
        folder: where it keeps films.
        gate_port: where it sends films that it forwards to the gate.
    """

    def __init__(self, folder: Path, gate_port: int = 1) -> None:
        import httpx  # of the extra, which not all users of this module need

        self.http, self.dicom = free_ports(2)
        folder.mkdir(exist_ok=True)
        self._folder = folder
        modalities = {
            "gate": {"AET": GATE, "Host": "127.0.0.1", "Port": gate_port, "AllowStore": True},
            "xray": {"AET": XRAY, "Host": "127.0.0.1", "Port": 1, "AllowStore": True},
        }
        settings = {
            **ORTHANC, "HttpPort": self.http, "DicomPort": self.dicom,
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "DicomModalities": modalities,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.url = f"http://127.0.0.1:{self.http}"
        self.client = httpx.Client(base_url=self.url, auth=USER, timeout=30, trust_env=False)
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        refuse_open_network()
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/Orthanc", self._folder / "orthanc.json"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.http)):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self._folder / "orthanc.log").read_text())

    def stop(self) -> None:
        """End it; its films stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self.client.close()

    def put(self, content: bytes) -> None:
        """Store a film as a modality's software would over HTTP."""
        self.client.post("/instances", content=content).raise_for_status()

    def count(self) -> int:
        """Return the number of its instances."""
        return int(self.client.get("/statistics").json()["CountInstances"])

    def await_count(self, number: int, seconds: float) -> None:
        """Wait until it has as many instances."""
        end = time.monotonic() + seconds
        while (found := self.count()) < number:
            assert time.monotonic() < end, f"{found} instances of {number}"
            time.sleep(0.1)

    def results(self) -> dict[str, Dataset]:
        """Return its instances that aren't films, by SOP instance UID."""
        found = {}
        for name in self.client.get("/instances").json():
            content = self.client.get(f"/instances/{name}/file").content
            dataset = dcmread(io.BytesIO(content))
            if dataset.Modality not in ("DX", "CR"):
                found[dataset.SOPInstanceUID] = dataset
        return found

    def await_results(self, number: int, seconds: float = 60) -> dict[str, Dataset]:
        """Return its results once there are as many."""
        end = time.monotonic() + seconds
        while len(found := self.results()) < number:
            assert time.monotonic() < end, f"{len(found)} results of {number}"
            time.sleep(0.1)
        return found
