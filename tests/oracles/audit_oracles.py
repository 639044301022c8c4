"""Slow, obvious twins of `dptrain.audit`."""

import itertools
import math

import numpy as np
from scipy import stats

from tests.oracles import attack_oracles


def auc(inside, outside):
    """Every member against every non-member."""
    wins = sum((x > y) + 0.5 * (x == y) for x in inside for y in outside)
    return wins / (len(inside) * len(outside)) if len(inside) and len(outside) else math.nan


def patient_auc(evidence, membership):
    num_models, num_patients = np.shape(evidence)
    return [
        auc(
            [evidence[m][p] for m in range(num_models) if membership[m][p]],
            [evidence[m][p] for m in range(num_models) if not membership[m][p]],
        )
        for p in range(num_patients)
    ]


def roc_points(scores, member):
    points = [(math.inf, 0, 0)]
    for threshold in sorted(set(scores), reverse=True):
        tp = sum(1 for s, m in zip(scores, member, strict=True) if m and s >= threshold)
        fp = sum(1 for s, m in zip(scores, member, strict=True) if not m and s >= threshold)
        points.append((threshold, tp, fp))
    return points


def tpr_at_fpr(scores, member, fpr):
    """The most true positives of any threshold whose false positives are at most fpr of the non-members."""
    num_out = sum(1 for m in member if not m)
    return max((tp, fp) for _, tp, fp in roc_points(scores, member) if fp <= fpr * num_out)


def crossfit_auc(signals, membership, patient, num_folds):
    """Pooled-variance likelihood ratio of neighbouring twins; folds of pairs; weights n_in n_out."""
    num_models, num_records = np.shape(signals)
    num_patients = np.shape(membership)[1]
    fold_of = [(m // 2) % num_folds for m in range(num_models)]
    member = [[membership[m][patient[n]] for n in range(num_records)] for m in range(num_models)]
    total, weight = np.zeros(num_patients), np.zeros(num_patients)
    for fold in range(num_folds):
        references = [m for m in range(num_models) if fold_of[m] != fold]
        groups = [attack_oracles.sides(signals, member, references, n) for n in range(num_records)]
        sd = [math.sqrt(attack_oracles.pooled_variance([g[side] for g in groups])) for side in (0, 1)]
        targets = [m for m in range(num_models) if fold_of[m] == fold]
        scores = []
        for m in targets:
            ratios = [
                stats.norm.logpdf(signals[m][n], np.mean(groups[n][0]), sd[0])
                - stats.norm.logpdf(signals[m][n], np.mean(groups[n][1]), sd[1])
                for n in range(num_records)
            ]
            scores.append(attack_oracles.gather(ratios, patient, num_patients, sum))
        for p in range(num_patients):
            inside = [s[p] for s, m in zip(scores, targets, strict=True) if membership[m][p]]
            outside = [s[p] for s, m in zip(scores, targets, strict=True) if not membership[m][p]]
            total[p] += auc(inside, outside) * len(inside) * len(outside)
            weight[p] += len(inside) * len(outside)
    return total / weight


def knolle2026(signals, membership, patient):
    num_models, num_records = np.shape(signals)
    largest = {}
    for n in range(num_records):
        inside = [signals[m][n] for m in range(num_models) if membership[m][patient[n]]]
        outside = [signals[m][n] for m in range(num_models) if not membership[m][patient[n]]]
        gap = np.mean(inside) - np.mean(outside)
        area = stats.norm.cdf(gap / math.sqrt(np.var(inside, ddof=1) + np.var(outside, ddof=1)))
        largest[patient[n]] = max(area, largest.get(patient[n], 0.0))
    return [largest[p] for p in sorted(largest)]


def all_swaps_auc(evidence, membership):
    """(2^H, P) the AUCs of one patient column under every swap of the neighbouring twins."""
    num_models = len(evidence)
    results = []
    for swaps in itertools.product((False, True), repeat=num_models // 2):
        swapped = [[bool(x) != swaps[m // 2] for x in membership[m]] for m in range(num_models)]
        results.append(patient_auc(evidence, swapped))
    return np.array(results)


def benjamini_hochberg(p_values, rate):
    known = sorted(p for p in p_values if not math.isnan(p))
    passing = [p for k, p in enumerate(known, 1) if p <= rate * k / len(known)]
    return [not math.isnan(p) and bool(passing) and p <= max(passing) for p in p_values]


def top_weights(risk, num_top):
    """How much of each patient is among the `num_top` highest: the mean over all orders of tied patients."""
    weights = []
    for value in risk:
        above = sum(1 for other in risk if other > value)
        tied = sum(1 for other in risk if other == value)
        weights.append(min(1.0, max(0.0, (num_top - above) / tied)))
    return weights


def holm(p_values):
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted


def all_permutations_p(values, in_group, stratum):
    """Two-sided p of a group's sum over every assignment of the labels to the patients of each stratum."""
    strata = sorted(set(stratum))
    members = [[p for p, s in enumerate(stratum) if s == one] for one in strata]
    sizes = [sum(in_group[p] for p in some) for some in members]
    choices = [itertools.combinations(some, size) for some, size in zip(members, sizes, strict=True)]
    sums = [sum(values[p] for part in parts for p in part) for parts in itertools.product(*choices)]
    observed = sum(v for v, inside in zip(values, in_group, strict=True) if inside)
    centre = sum(sums) / len(sums)
    return sum(abs(s - centre) >= abs(observed - centre) - 1e-9 for s in sums) / len(sums)
