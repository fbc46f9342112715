"""Is a reward right? Known questions, data with human judgements, and statistics of agreement."""
