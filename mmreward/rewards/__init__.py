"""The rewards: one reward, one file. `mmreward.load_reward` finds them by the table in `mmreward/reward.py`."""
