"""Statistics that analyses share: intervals, verdicts, and sums that do not depend on how work was split."""
