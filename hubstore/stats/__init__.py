"""Statistics that analyses share: bootstrap intervals, and sums that do not depend on how work was split."""
