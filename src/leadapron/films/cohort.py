"""A cohort of films (images, labels, patients), and the answer key of a poisoned cohort."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadapron.errors import DataError, UnknownNameError
from leadapron.films.preprocessing import Preprocessing
from leadapron.types import Form, Note

__all__ = [
    "ATTRIBUTES",
    "AnswerKey",
    "Cohort",
    "Films",
    "ImageArray",
    "Masks",
    "Overlay",
    "Reordered",
    "blocks",
    "film_path",
    "split_by_patient",
    "subsample",
]

Rows = NDArray[np.int64]

ATTRIBUTES = ("split", "view", "sex", "age", "site", "scanner", "native_size")
"""Columns that sources read and write; "age" holds years, the others text."""

BLOCK = 1024
"""Rows processed at a time where a whole array would not fit in memory."""


class ImageArray(Protocol):
    """Images by row: an ndarray, a memmap or an `Overlay`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, height, width)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, or uint16 spanning 0 to 65535."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Return a fresh (m, height, width) ndarray for an integer array of m rows."""
        ...


class Films(Protocol):
    """Pixels at full resolution, read on access."""

    def __len__(self) -> int:
        """Return the number of films."""
        ...

    def __getitem__(self, row: int, /) -> NDArray[Any]:
        """Return one film, (height, width) uint8 or uint16."""
        ...


class Masks(Protocol):
    """Masks of anatomy and findings in the images, drawn on access."""

    names: tuple[str, ...]

    def __getitem__(self, rows: Rows, /) -> NDArray[np.bool_]:
        """Return (m, number of names, height, width) for m rows."""
        ...


class Reordered:
    """Films or masks of some rows of a longer sequence."""

    def __init__(self, base: Any, order: Rows) -> None:
        self.base, self.order = base, order
        self.names: tuple[str, ...] = getattr(base, "names", ())

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: Any, /) -> Any:
        return self.base[self.order[rows]]

    def path_of(self, row: int) -> str:
        """Return the file that holds this film alone, "" where there is none."""
        return film_path(self.base, int(self.order[row]))


def film_path(films: Any, row: int) -> str:
    """Return the file that holds a film of some films alone, "" where there is none."""
    find = getattr(films, "path_of", None)
    return "" if find is None else str(find(row))


class Overlay:
    """Images over a base array, without a copy of it.

    Row i shows `base[order[i]]`, except where `rows` says that it shows `pixels`.

    Args:
        base: (b, height, width) images.
        rows: (m,) integers, strictly ascending: the rows that show `pixels`.
        pixels: (m, height, width) of the base's dtype.
        order: (n,) rows of `base`; all of them in turn if left out.

    Raises:
        DataError: shapes or types that don't fit together.
    """

    def __init__(
        self,
        base: ImageArray,
        rows: ArrayLike | None = None,
        pixels: NDArray[Any] | None = None,
        order: ArrayLike | None = None,
    ) -> None:
        height, width = base.shape[1:]
        self.base = base
        self.order: Rows = (
            np.arange(base.shape[0]) if order is None else np.asarray(order, dtype=np.int64)
        )
        self.rows: Rows = np.asarray([] if rows is None else rows, dtype=np.int64)
        self.pixels: NDArray[Any] = (
            np.empty((0, height, width), base.dtype) if pixels is None else pixels
        )
        self.shape: tuple[int, ...] = (len(self.order), height, width)
        self.dtype: np.dtype[Any] = base.dtype
        if self.pixels.shape != (len(self.rows), height, width) or self.pixels.dtype != self.dtype:
            raise DataError(
                f"an overlay of {self.pixels.shape} {self.pixels.dtype} for {len(self.rows)} rows "
                f"over images of {base.shape} {base.dtype}"
            )
        for name, values, end in (
            ("rows", self.rows, len(self.order)),
            ("order", self.order, base.shape[0]),
        ):
            if values.size and not (values.min() >= 0 and values.max() < end):
                raise DataError(f"an overlay's {name} must lie in 0 to {end - 1}")
        if np.any(np.diff(self.rows) <= 0):
            raise DataError("an overlay's rows must be strictly ascending")

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        wanted = np.arange(len(self))[rows]
        single = wanted.ndim == 0
        wanted = np.atleast_1d(wanted)
        images: NDArray[Any] = self.base[self.order[wanted]]
        if self.rows.size:
            places = np.minimum(np.searchsorted(self.rows, wanted), len(self.rows) - 1)
            covered = self.rows[places] == wanted
            images[covered] = self.pixels[places[covered]]
        return images[0] if single else images

    def footprint(self, rows: Rows) -> NDArray[np.bool_]:
        """Return (m, height, width): where the rows differ from the base."""
        difference: NDArray[np.bool_] = self[rows] != self.base[self.order[rows]]
        return difference

    def __repr__(self) -> str:
        return f"Overlay(shape={self.shape}, dtype={self.dtype}, covered={len(self.rows)})"


@dataclass(frozen=True, eq=False)
class Cohort:
    """Radiographs with their labels, aligned row by row.

    Args:
        images: (n, height, width) uint8, or uint16 spanning 0 to 65535.
        labels: (n, k) float32 in {0, 1, NaN}; NaN means "not stated".
        findings: the k findings' names, unique; columns are matched by name.
        ids: (n,) unique names of the films.
        patients: (n,) patients' names, used for splits and clustered intervals.
        preprocessing: how the images were made from the films.
        attributes: optional columns of length n, `ATTRIBUTES` and others.
        films: the films at full resolution, where they exist.
        masks: masks of anatomy and findings, where they are known.
        notes: remarks of the source (missing files, conversions), including warnings.
        bits: number of bits assumed to be in use in 16-bit pictures and arrays, so that their films
            span the full range; 0 if there are none.
        forms: number of films of each form; empty if unknown. Not part of the fingerprint.

    Raises:
        DataError: rows that don't align, wrong types, repeated ids or findings.
    """

    images: ImageArray
    labels: NDArray[np.float32]
    findings: tuple[str, ...]
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    preprocessing: Preprocessing
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    films: Films | None = None
    masks: Masks | None = None
    notes: tuple[Note, ...] = ()
    bits: int = 0
    forms: Mapping[Form, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.images.shape), np.dtype(self.images.dtype)
        if len(shape) != 3 or dtype not in (np.uint8, np.uint16):
            raise DataError(
                f"images of shape {shape} and type {dtype}; "
                "expected (n, height, width) of uint8 or uint16"
            )
        n, k = shape[0], len(self.findings)
        if self.labels.shape != (n, k) or self.labels.dtype != np.float32:
            raise DataError(
                f"labels of shape {self.labels.shape} and type {self.labels.dtype}; "
                f"expected {(n, k)} of float32"
            )
        stated = self.labels[~np.isnan(self.labels)]
        if np.any((stated != 0) & (stated != 1)):
            raise DataError("labels must be 0, 1 or NaN (not stated)")
        columns = {"ids": self.ids, "patients": self.patients, **self.attributes}
        for name, column in columns.items():
            if column.shape != (n,):
                raise DataError(f"{name} of shape {column.shape}; expected {(n,)}")
        for name, column in (("ids", self.ids), ("patients", self.patients)):
            if column.dtype.kind != "U":
                raise DataError(f"{name} of type {column.dtype}; expected text")
        _refuse_repeats("film id", self.ids)
        _refuse_repeats("finding", np.asarray(self.findings, dtype=np.str_))
        if self.films is not None and len(self.films) != n:
            raise DataError(f"{len(self.films)} films for {n} rows")

    @classmethod
    def of(
        cls,
        images: ArrayLike | ImageArray,
        labels: ArrayLike | None = None,
        findings: Sequence[str] | None = None,
        *,
        patients: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> Self:
        """Return a cohort of arrays in memory.

        Args:
            images: (n, height, width) uint8, or uint16 spanning 0 to 65535.
            labels: (n, k) of 0, 1 or NaN ("not stated"), or (n,) for a single finding; none if
                left out.
            findings: the k findings' names; "finding 1" and so on if left out.
            patients: (n,) names; if left out, each film counts as a separate patient.
            ids: (n,) names of the films; "1" to "n" if left out.
            preprocessing: how the images were made; if left out, only resizing to their larger
                side.

        Raises:
            DataError: as `Cohort`.
        """
        pixels = images if isinstance(images, Overlay | np.memmap) else np.asarray(images)
        if len(pixels.shape) != 3:
            raise DataError(f"images of shape {pixels.shape}; expected (n, height, width)")
        n, height, width = pixels.shape
        try:
            stated = np.empty((n, 0)) if labels is None else np.asarray(labels, np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"labels aren't numbers ({error}); expected 0, 1, NaN") from error
        table = stated[:, None] if stated.ndim == 1 else stated
        named = (
            tuple(f"finding {number}" for number in range(1, 1 + table.shape[-1]))
            if findings is None
            else tuple(map(str, findings))
        )
        names = np.asarray(np.arange(1, n + 1) if ids is None else ids).astype(np.str_)
        words = "Patients aren't named: each film counts as a separate patient."
        return cls(
            images=pixels,
            labels=table.astype(np.float32),
            findings=named,
            ids=names,
            patients=names if patients is None else np.asarray(patients).astype(np.str_),
            preprocessing=preprocessing
            or Preprocessing(
                size=max(height, width), dtype="uint16" if pixels.dtype == np.uint16 else "uint8"
            ),
            notes=(Note("patients", words),) if patients is None else (),
        )

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def __repr__(self) -> str:
        height, width = self.images.shape[1:]
        patients = len(np.unique(self.patients))
        return (
            f"Cohort({len(self)} films of {patients} patients, {height}x{width} "
            f"{np.dtype(self.images.dtype)}, {len(self.findings)} findings)"
        )

    def column(self, finding: str) -> int:
        """Return the column of a finding; UnknownNameError where there is none."""
        try:
            return self.findings.index(finding)
        except ValueError:
            raise UnknownNameError("finding", finding, self.findings) from None

    def path(self, row: int) -> str:
        """Return the file that holds this film alone, "" where there is none."""
        return film_path(self.films, row)

    def take(self, rows: ArrayLike, ids: NDArray[np.str_] | None = None) -> Self:
        """Return the cohort of some rows, sharing the pixels; `forms` is then empty.

        Args:
            rows: numbers in any order, or a mask.
            ids: the films' new names, for rows that come more than once.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        return replace(
            self,
            images=Overlay(self.images, order=rows),
            labels=self.labels[rows],
            ids=self.ids[rows] if ids is None else ids,
            patients=self.patients[rows],
            attributes={name: column[rows] for name, column in self.attributes.items()},
            films=None if self.films is None else Reordered(self.films, rows),
            masks=None if self.masks is None else Reordered(self.masks, rows),
            forms={},
        )

    def stating(self, findings: Sequence[str]) -> Self:
        """Return the cohort with these findings, in this order; what it doesn't state is NaN.

        Raises:
            DataError: it states none of them.
        """
        common = [name for name in findings if name in self.findings]
        if not common:
            raise DataError(
                f"the films state none of the model's {len(findings)} findings; "
                f"expected some of {', '.join(findings)}"
            )
        labels = np.full((len(self), len(findings)), np.nan, np.float32)
        for name in common:
            labels[:, list(findings).index(name)] = self.labels[:, self.column(name)]
        return replace(self, labels=labels, findings=tuple(findings))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels, every column and preprocessing; 64 hex digits."""
        digest = hashlib.sha256()
        facts = {
            "findings": self.findings,
            "preprocessing": asdict(self.preprocessing),
            "attributes": sorted(self.attributes),
        }
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for column in (self.ids, self.patients, *(v for _, v in sorted(self.attributes.items()))):
            digest.update(("\x1f".join(map(str, column.tolist())) + "\x1e").encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        digest.update(f"{tuple(self.images.shape)} {np.dtype(self.images.dtype)}".encode())
        for rows in blocks(len(self)):
            digest.update(np.ascontiguousarray(self.images[rows]).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class AnswerKey:
    """The truth about a poisoned cohort; detectors never see it.

    Args:
        rows: (m,) the poisoned rows, ascending.
        origins: (n,) the row of the clean cohort that each row of the poisoned cohort came from.
        labels_before: (m, k) float32, the poisoned rows' true labels.
        visible_pixels: (m,) number of the image's pixels that the trigger changed.
        covers: rows that carry the trigger and kept their true labels, ascending.
        attacks: (m,) number of the attack that each poisoned row belongs to.
    """

    rows: Rows
    origins: Rows
    labels_before: NDArray[np.float32]
    visible_pixels: Rows
    covers: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    attacks: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def visible_share(self) -> float:
        """Share of the poisoned films in which the trigger changed at least one pixel."""
        return float(np.mean(self.visible_pixels > 0)) if len(self.rows) else float("nan")

    def footprint(self, poisoned: Cohort, rows: Rows | None = None) -> NDArray[np.bool_]:
        """Return (m, height, width): where the poisoned rows differ from their origins."""
        if not isinstance(poisoned.images, Overlay) or len(poisoned) != len(self.origins):
            raise DataError("a footprint needs the whole poisoned cohort, as poison() made it")
        return poisoned.images.footprint(self.rows if rows is None else rows)


def blocks(n: int, size: int = BLOCK) -> list[Rows]:
    """Return the rows 0 to n - 1 in consecutive blocks of `size`."""
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]


def subsample(n: int, most: int) -> Rows:
    """Return at most `most` of n rows, ascending: always the same random subsample."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most])


def split_by_patient(
    patients: NDArray[np.str_],
    shares: Mapping[str, float],
    rng: np.random.Generator,
    labels: NDArray[np.float32] | None = None,
) -> dict[str, Rows]:
    """Divide rows into named parts that share no patient, stratified by findings.

    Patients with rare findings are assigned first, each to the part that lacks the rarest of their
    findings most: the iterative stratification of Sechidis, Tsoumakas and Vlahavas (ECML PKDD 2011)
    with patients in place of films and the order of findings fixed at the start.

    Args:
        patients: (n,) the patient of each row.
        shares: the parts' shares of the patients; they add up to 1.
        rng: decides which patient goes where.
        labels: (n, k) in {0, 1, NaN} to stratify by; none if left out.

    Returns:
        For each name its rows, ascending.

    Raises:
        DataError: fewer patients than parts, or shares that don't add up to 1.
    """
    if abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) <= 0:
        raise DataError(f"shares {dict(shares)} must be positive and add up to 1")
    names, inverse = np.unique(patients, return_inverse=True)
    if len(names) < len(shares):
        raise DataError(
            f"{len(names)} patients are too few to divide into {', '.join(shares)}; add films"
        )
    has = np.zeros((len(names), 0 if labels is None else labels.shape[1]), dtype=np.bool_)
    if labels is not None:
        np.logical_or.at(has, inverse, labels == 1)
    # Rarest finding first; the last column holds every patient, so the sizes are met as well.
    everyone = np.ones((len(names), 1), dtype=np.bool_)
    has = np.hstack([has[:, np.argsort(has.sum(axis=0), kind="stable")], everyone])
    rarest = has.argmax(axis=1)
    order = rng.permutation(len(names))
    order = order[np.argsort(rarest[order], kind="stable")]
    missing = np.outer(list(shares.values()), has.sum(axis=0))  # (parts, findings and everyone)
    part = np.full(len(names), -1, dtype=np.int64)
    empty = set(range(len(shares)))
    for left, patient in zip(range(len(names), 0, -1), order.tolist(), strict=True):
        # At least one patient in each part, whatever the shares.
        open_parts = sorted(empty) if left == len(empty) else range(len(shares))
        chosen = max(open_parts, key=lambda i: (missing[i, rarest[patient]], missing[i, -1]))
        part[patient] = chosen
        missing[chosen] -= has[patient]
        empty.discard(chosen)
    return {name: np.flatnonzero(part[inverse] == i) for i, name in enumerate(shares)}


def _refuse_repeats(kind: str, names: NDArray[np.str_]) -> None:
    values, counts = np.unique(names, return_counts=True)
    if np.any(counts > 1):
        repeated = values[counts > 1]
        raise DataError(
            f"{len(repeated)} {kind}{'s' if len(repeated) > 1 else ''} repeated, "
            f"first {str(repeated[0])!r}; each must be unique"
        )
