"""Numbers with intervals: AUROC, attack success, localisation. Needs no torch.

Conventions, everywhere in this module:

- labels are 0, 1 or NaN (not stated; such cells are left out), scores are finite, higher is
  more positive; anything else raises `DataError`;
- a score is above a threshold when it is strictly greater, as in the paper's p > 0.6;
- intervals are 95 % and clustered by patient; what can't be computed is NaN ("undefined");
- `n` and `positives` count the cells that a number rests on (films, or film-finding pairs).
"""

from leadapron.metrics.association import odds_ratio
from leadapron.metrics.auroc import (
    auroc,
    finding_auroc,
    finding_resamples,
    macro_auroc,
    macro_resamples,
    micro_auroc,
    no_vision_floor,
    one_hot_target,
    roc_curve,
    separation,
)
from leadapron.metrics.comparison import delong, paired_difference
from leadapron.metrics.dose import Crossing, crossing, mean_crossing
from leadapron.metrics.localisation import (
    centre_hit,
    chance_hit,
    energy_in_footprint,
    pointing_hits,
    rank_correlation,
    top_overlap,
)
from leadapron.metrics.rates import (
    FALSE_POSITIVES,
    attack_success,
    clopper_pearson,
    exact_rate,
    mean,
    rate,
    rate_difference,
    threshold_at_false_positive_rate,
    wilson,
)
from leadapron.metrics.resampling import PatientBootstrap, bootstrap_auroc
from leadapron.metrics.values import (
    COVERAGE,
    Booleans,
    Difference,
    Floats,
    Integers,
    Macro,
    Z,
)
from leadapron.types import Estimate

__all__ = [
    "COVERAGE",
    "FALSE_POSITIVES",
    "Booleans",
    "Crossing",
    "Difference",
    "Estimate",
    "Floats",
    "Integers",
    "Macro",
    "PatientBootstrap",
    "Z",
    "attack_success",
    "auroc",
    "bootstrap_auroc",
    "centre_hit",
    "chance_hit",
    "clopper_pearson",
    "crossing",
    "delong",
    "energy_in_footprint",
    "exact_rate",
    "finding_auroc",
    "finding_resamples",
    "macro_auroc",
    "macro_resamples",
    "mean",
    "mean_crossing",
    "micro_auroc",
    "no_vision_floor",
    "odds_ratio",
    "one_hot_target",
    "paired_difference",
    "pointing_hits",
    "rank_correlation",
    "rate",
    "rate_difference",
    "roc_curve",
    "separation",
    "threshold_at_false_positive_rate",
    "top_overlap",
    "wilson",
]
