"""The metrics, tested on themselves: which notice an explanation that is too narrow or too broad.

After arXiv 2506.05774: of an exact explanation half of the true labels are taken away, or as many
false ones added as there are true ones. A metric notices if it falls by more than 0.001, as there,
in more than 90 % of the latents.
"""

import numpy as np
import pytest

from lite_interp.rates import rates
from lite_interp.stats import auroc, balanced_accuracy

ALL = {"auroc", "balanced_accuracy", "recall", "precision", "f1", "average_precision"}
N_TRUE = 60


def judged(design, base_rate, random):
    """Truth, which windows a too broad explanation adds, and weights, of the windows judged.

    Those that it adds are half of the silent windows that look alike.
    """
    n = round(N_TRUE / base_rate)
    place = np.arange(n)
    if design == "all":
        parts = [place]
    elif design == "random":
        parts = [place[:N_TRUE], place[N_TRUE:]]
    else:
        parts = [place[:N_TRUE], place[N_TRUE : 3 * N_TRUE], place[3 * N_TRUE :]]
    n_judged = {1: [n], 2: [50, 50], 3: [50, 25, 25]}[len(parts)]
    drawn = [random.choice(p, k, replace=False) for p, k in zip(parts, n_judged, strict=True)]
    weights = [np.full(k, len(p) / k) for p, k in zip(parts, n_judged, strict=True)]
    windows = np.concatenate(drawn)
    added = (windows >= N_TRUE) & (windows < 2 * N_TRUE)
    return windows < N_TRUE, added, np.concatenate(weights)


def metrics(active, values, weights):
    found = rates(active, values, weights, 0.0)
    numbers = {name: getattr(found, name).value for name in ALL - {"auroc", "balanced_accuracy"}}
    accuracy = balanced_accuracy(active, values > 0).value
    return numbers | {"auroc": auroc(active, values), "balanced_accuracy": accuracy}


def falls(design, base_rate, corruption, n_latents):
    """How much each metric falls: one number for each simulated latent."""
    random = np.random.default_rng(0)
    found = {name: [] for name in ALL}
    for _ in range(n_latents):
        active, added, weights = judged(design, base_rate, random)
        noise = random.normal(size=len(active))
        before = metrics(active, noise + np.where(active, 6, -6), weights)
        if corruption == "missing":
            true = np.flatnonzero(active)
            said = active.copy()
            said[random.choice(true, len(true) // 2, replace=False)] = False
        else:
            said = active | added
        after = metrics(active, noise + np.where(said, 6, -6), weights)
        for name in ALL:
            found[name].append(before[name] - after[name])
    return {name: np.array(each) for name, each in found.items()}


def noticed(found):
    return {name for name, each in found.items() if (each > 0.001).mean() > 0.9}


@pytest.mark.parametrize(
    ("design", "base_rate", "n_latents"),
    [("all", 0.01, 20), ("all", 0.001, 4), ("random", 0.01, 100), ("alike", 0.01, 100)],
)
def test_all_but_precision_notice_missing_labels(design, base_rate, n_latents):
    assert noticed(falls(design, base_rate, "missing", n_latents)) == ALL - {"precision"}


def test_areas_and_accuracies_hardly_notice_extra_labels_of_a_rare_latent():
    found = falls("all", 0.01, "extra", 20)
    assert noticed(found) == ALL - {"recall"}
    # A false label in a hundred windows moves them by half of a hundredth.
    for name in ("auroc", "balanced_accuracy"):
        assert found[name].mean() == pytest.approx(0.005, abs=0.001)
    for name in ("precision", "f1", "average_precision"):
        assert found[name].mean() > 0.3
    rarer = falls("all", 0.001, "extra", 4)
    assert noticed(rarer) == {"precision", "f1", "average_precision"}


def test_a_few_random_silent_windows_show_extra_labels_to_no_metric():
    # One of the false labels is among 50 random silent windows with a chance of 1 − .99⁵⁰ = .4.
    found = falls("random", 0.01, "extra", 300)
    assert noticed(found) == set()
    for name in ALL - {"recall"}:
        assert (found[name] > 0.001).mean() == pytest.approx(0.4, abs=0.06)


def test_silent_windows_that_look_alike_show_extra_labels_to_all_but_recall():
    assert noticed(falls("alike", 0.01, "extra", 100)) == ALL - {"recall"}
