"""Question: does calibrating the noise take under 10 s for every epsilon from 0.05 to 1000?

    python experiments/bench_calibration.py

Each cell is timed with empty caches: calibration as a study does it (the search, then all accountants once at the noise
that was found). Beside the time: the noise, and by how much PRV and PLD differ there.
"""

from __future__ import annotations

import time

from dptrain.privacy import accounting, calibration, pld
from dptrain.privacy.calibration import calibrate_noise

EPSILONS = (0.05, 0.1, 0.5, 1.0, 3.0, 8.0, 30.0, 100.0, 300.0, 1000.0)
MECHANISMS = ((0.05, 600), (1.0, 30), (0.001, 10_000), (0.01, 500))
DELTA = 1e-5
LIMIT_S = 10.0


def forget() -> None:
    """Empty every cache that one calibration could leave for the next."""
    calibrate_noise.cache_clear()
    accounting._attempt.cache_clear()
    pld.poisson_pld.cache_clear()


def main() -> None:
    """Print the table and the cells above the limit."""
    calibration.calibrate_noise(1.0, 0.1, 10, DELTA)  # imports dp-accounting, which takes seconds
    slow = []
    print("sampling rate   steps   epsilon   seconds   noise      reported by   (PRV - PLD) / PLD")
    for rate, steps in MECHANISMS:
        for epsilon in EPSILONS:
            forget()
            start = time.perf_counter()
            found = calibrate_noise(epsilon, rate, steps, DELTA)
            seconds = time.perf_counter() - start
            account = found.accounting
            gap = "refused" if not account.prv or not account.pld else f"{account.prv / account.pld - 1:+.2%}"
            print(
                f"{rate:>13g}  {steps:>6}   {epsilon:>7g}   {seconds:>7.2f}   {found.noise_multiplier:<8g}   "
                f"{account.accountant:<11}   {gap}",
                flush=True,
            )
            for note in account.notes:
                print(f"    {note}", flush=True)
            if seconds > LIMIT_S:
                slow.append(f"sampling rate {rate:g}, {steps} steps, epsilon {epsilon:g}: {seconds:.1f} s")
    print(f"\nAbove {LIMIT_S:g} s: {'; '.join(slow) if slow else 'none'}")


if __name__ == "__main__":
    main()
