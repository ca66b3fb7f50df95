"""Scientific signals: what a channel is, how it is calibrated and derived, where it is bound."""
