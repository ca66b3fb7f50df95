"""Files an operator writes: profiles, experiments, and the problems found in them."""
