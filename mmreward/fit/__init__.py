"""Train your own rewards: the bundled judge and CLIP come from here."""
