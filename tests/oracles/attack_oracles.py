"""Slow, obvious twins of `dptrain.attacks`: loops over models and records, formulas as the papers print them."""

import math

import numpy as np
from scipy import stats


def signal(logits, label, task):
    """The signal of one record from its list of logits."""
    if task == "binary":
        return logits[0] if label == 1 else -logits[0]
    if task == "multiclass":
        others = [z for j, z in enumerate(logits) if j != label]
        largest = max(others)
        return logits[label] - largest - math.log(sum(math.exp(z - largest) for z in others))
    return sum((2 * y - 1) * z for z, y in zip(logits, label, strict=True) if not math.isnan(y))


def log_probability(logits, label, task):
    """log p(y | x) of one record from its list of logits."""
    if task == "multiclass":
        return -math.log1p(sum(math.exp(z - logits[label]) for j, z in enumerate(logits) if j != label))
    if task == "binary":
        logits, label = logits[:1], [label]
    return -sum(math.log1p(math.exp((1 - 2 * y) * z)) for z, y in zip(logits, label, strict=True) if not math.isnan(y))


def references(membership, target):
    """Models that are neither the target nor its twin (the first other row that is its complement)."""
    for model in range(len(membership)):
        if all(a != b for a, b in zip(membership[model], membership[target], strict=True)):
            return [m for m in range(len(membership)) if m not in (target, model)]
    return [m for m in range(len(membership)) if m != target]


def sides(signals, membership, models, record):
    inside = [signals[m][record] for m in models if membership[m][record]]
    outside = [signals[m][record] for m in models if not membership[m][record]]
    return inside, outside


def pooled_variance(groups):
    """One variance of the deviations from each record's own mean."""
    squares = sum(sum((x - np.mean(g)) ** 2 for x in g) for g in groups if g)
    return squares / sum(len(g) - 1 for g in groups if g)


def lira_online(signals, membership, variance):
    """Leave-one-model-out, twin excluded; at least 2 references on each side of every record."""
    num_models, num_records = np.shape(signals)
    scores = np.empty((num_models, num_records))
    for target in range(num_models):
        models = references(membership, target)
        groups = [sides(signals, membership, models, n) for n in range(num_records)]
        pooled = [pooled_variance([g[side] for g in groups]) for side in (0, 1)]
        for n, (inside, outside) in enumerate(groups):
            log_p = []
            for side, group in enumerate((inside, outside)):
                sd = np.std(group) if variance == "per_record" else math.sqrt(pooled[side])
                log_p.append(stats.norm.logpdf(signals[target][n], np.mean(group), sd))
            scores[target, n] = log_p[0] - log_p[1]
    return scores


def lira_offline_probability(signals, membership):
    """Pr[N(mu_out, v_out) <= signal] with per-record variance."""
    num_models, num_records = np.shape(signals)
    scores = np.empty((num_models, num_records))
    for target in range(num_models):
        models = references(membership, target)
        for n in range(num_records):
            _, outside = sides(signals, membership, models, n)
            scores[target, n] = stats.norm.cdf(signals[target][n], np.mean(outside), np.std(outside))
    return scores


def shrunk_log_density(signal, group, prior_variance, prior_df):
    """Student-t predictive of a normal with a flat prior on the mean and scaled inverse chi-square on the variance."""
    n = len(group)
    squares = sum((x - np.mean(group)) ** 2 for x in group)
    df = prior_df + n - 1
    scale2 = (prior_df * prior_variance + squares) / df * (1 + 1 / n)
    return stats.t.logpdf(signal, df, np.mean(group), math.sqrt(scale2))


def gather(scores, patient, num_patients, how):
    return [how([s for s, p in zip(scores, patient, strict=True) if p == q]) for q in range(num_patients)]


def rmia(log_p, membership, population, a=None):
    """(T, N, Z) likelihood ratios (p_x / pr_x) / (p_z / pr_z), twin excluded; a: (T,) or None for the online attack."""
    p, pz = np.exp(log_p), np.exp(population)
    num_models, num_records = p.shape
    ratios = np.empty((num_models, num_records, pz.shape[1]))
    for target in range(num_models):
        models = references(membership, target)
        groups = [sides(p, membership, models, n) for n in range(num_records)]
        mean_in = np.array([np.mean(g[0]) if g[0] else math.nan for g in groups])
        mean_out = np.array([np.mean(g[1]) for g in groups])
        slope = a[target] if a is not None else sum((1 - mean_in) * (1 - mean_out)) / sum((1 - mean_out) ** 2)
        pr_x = (mean_in + mean_out) / 2 if a is None else ((1 + slope) * mean_out + 1 - slope) / 2
        pr_z = ((1 + slope) * pz[models].mean(axis=0) + 1 - slope) / 2
        for n in range(num_records):
            for z in range(pz.shape[1]):
                ratios[target, n, z] = (p[target, n] / pr_x[n]) / (pz[target, z] / pr_z[z])
    return ratios


def rmia_one_reference(log_p, membership, population, a=None):
    """The same with the first model of the next pair of neighbouring twins as the only reference."""
    p, pz = np.exp(log_p), np.exp(population)
    num_models, num_records = p.shape
    ratios = np.empty((num_models, num_records, pz.shape[1]))
    for target in range(num_models):
        r = (target // 2 * 2 + 2) % num_models
        inside = [p[r, n] for n in range(num_records) if membership[r][n]]
        outside = [p[r, n] for n in range(num_records) if not membership[r][n]]
        slope = (1 - np.mean(inside)) / (1 - np.mean(outside)) if a is None else a
        slope = min(max(slope, 0.0), 1.0)
        pr_z = ((1 + slope) * pz[r] + 1 - slope) / 2
        for n in range(num_records):
            if membership[r][n]:
                pr_x = (p[r, n] + max((p[r, n] - (1 - slope)) / slope, 0.0)) / 2
            else:
                pr_x = (p[r, n] + slope * p[r, n] + 1 - slope) / 2
            ratios[target, n] = p[target, n] / pr_x / (pz[target] / pr_z)
    return ratios


def seen(logits, label, task, answer, digits):
    """(signal, log p) of one record for an attacker who sees a restricted answer."""
    if answer == "logits":
        return signal(logits, label, task), log_probability(logits, label, task)
    if task == "multiclass":
        shares = [math.exp(z - max(logits)) for z in logits]
        probabilities = [share / sum(shares) for share in shares]
        problems = [(probabilities, int(label))]
    else:
        truths = [label] if task == "binary" else label
        problems = [
            ([1 / (1 + math.exp(z)), 1 / (1 + math.exp(-z))], int(y))
            for z, y in zip(logits, truths, strict=True)
            if not math.isnan(y)
        ]
    parts = [_seen_part(probabilities, truth, answer, digits) for probabilities, truth in problems]
    return sum(odds for odds, _ in parts), sum(log_p for _, log_p in parts)


def _seen_part(probabilities, truth, answer, digits):
    def shown(p):
        if digits is None:
            return p
        quarter = 0.25 * 10.0**-digits
        return min(max(round(p * 10**digits) / 10**digits, quarter), 1 - quarter)

    predicted = max(range(len(probabilities)), key=lambda j: (probabilities[j], -j))
    others = len(probabilities) - 1
    if answer == "probabilities":
        # A model with one output shows the probability of "yes".
        p = shown(probabilities[truth]) if others > 1 or truth == 1 else 1 - shown(probabilities[1])
    else:
        top = 0.75 if answer == "label" else shown(probabilities[predicted])
        p = top if predicted == truth else min(top, (1 - top) / others)
    odds = float(predicted == truth) if answer == "label" else math.log(p / (1 - p))
    return odds, math.log(p)
