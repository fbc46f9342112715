"""Where a judge's model runs. A backend offers `probabilities(prompts, labels)` and `generate(prompts)`."""
