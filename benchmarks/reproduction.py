"""Write docs/results/reproduction.md from the folders of finished reproductions.

Nothing is computed a second time.

leadapron reproduce nwadike2020 --preset smoke --out runs/r0
leadapron reproduce nwadike2020 --preset quick --source nih:/data/nih --out runs/r1
leadapron study examples/nwadike2020-longer.yaml --out runs/r1b
python benchmarks/reproduction.py runs/r0 runs/r1 runs/r1b --out docs/results/reproduction.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from leadapron.report.reproduction import UNKNOWN, epochs_of, reproduction
from leadapron.report.summary import named
from leadapron.results.folder import read_study

INTRO = """\
# The paper, reproduced and tested

Nwadike, Miyawaki, Sarkar, Maniatakos and Shamout, "Explainability Matters: Backdoor Attacks on
Medical Imaging" (arXiv 2101.00008): a trigger of a few pixels on chest radiographs, a black square
stamped on the film before it is cropped and made smaller. `leadapron reproduce nwadike2020` runs
it; this page is made from the rows that it left, by `python benchmarks/reproduction.py`. Each
number is compared with an identically trained clean twin and, for micro AUROCs, with a model
without vision.

The last part is the main attack with twice the training: in two epochs one pixel of the image takes
in some seeds and not in others, in four it took in all three.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    parts = [INTRO]
    last = "### What could not be checked\n\n" + UNKNOWN
    for folder in given.folders:
        body = reproduction(folder).replace(last.strip(), "").strip()
        study = read_study(folder)
        epochs = epochs_of(study)
        parts.append(f"## On {named(study, 'source')} films, {epochs} epochs\n\n{body}\n")
    parts.append(last.replace("###", "##"))
    given.out.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
