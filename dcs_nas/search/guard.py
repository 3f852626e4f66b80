"""Watches a search for collapse: onto skip connections, or into a region where the architecture loss bends sharply."""

from __future__ import annotations

from typing import Any

from dcs_nas.config import GuardConfig


class CollapseGuard:
    """Judges an epoch by its genotype and eigenvalue, and remembers the last epoch that was good.

    Skips: more than ``max_skips`` in the normal cell (DARTS+, arXiv 1909.06035, criterion 1). Eigenvalue: with m(t) the
    mean over the ``window`` epochs up to t, m(t - window) / m(t) < ``ratio``; the last good epoch is then t - window
    (RobustDARTS, arXiv 1909.09656, section 4.3).
    """

    def __init__(self, settings: GuardConfig) -> None:
        self.settings = settings
        self.eigenvalues: dict[int, float] = {}
        self.last_good: int | None = None
        self.reason: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether the search is to stop."""
        return self.reason is not None and self.settings.action == "stop"

    def judge(self, epoch: int, skips: int, eigenvalue: float | None = None) -> str | None:
        """Why this epoch (from 0) has collapsed, or None; ``skips`` are those of the normal cell."""
        if eigenvalue is not None:
            self.eigenvalues[epoch] = eigenvalue
        if (grown := self._growth(epoch)) is not None:
            self.last_good = epoch - self.settings.window
            self.reason = f"the dominant eigenvalue grew {grown:.3g} times in {self.settings.window} epochs"
        elif self.settings.max_skips is not None and skips > self.settings.max_skips:
            self.reason = f"the normal cell has {skips} skip connections, more than {self.settings.max_skips}"
        else:
            self.last_good, self.reason = epoch, None
        return self.reason

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        return {"eigenvalues": dict(self.eigenvalues), "last_good": self.last_good, "reason": self.reason}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``."""
        self.eigenvalues = {int(epoch): float(value) for epoch, value in state["eigenvalues"].items()}
        self.last_good, self.reason = state["last_good"], state["reason"]

    def _growth(self, epoch: int) -> float | None:
        window = self.settings.window
        means = [
            [abs(self.eigenvalues[e]) for e in range(end - window + 1, end + 1) if e in self.eigenvalues]
            for end in (epoch - window, epoch)
        ]
        if any(len(found) < window for found in means):
            return None
        before, now = (sum(found) / window for found in means)
        return now / before if before < self.settings.ratio * now and before > 0 else None
