"""Training algorithms, one paper a file: a pure loss and a declaration of what it needs. A new one is a line here."""

__all__ = ["ALGORITHMS"]

ALGORITHMS: dict[str, str] = {
    "grpo": "editing.algorithms.grpo:GRPO",
    "grpo_guard": "editing.algorithms.grpo_guard:GRPOGuard",
    "pref_grpo": "editing.algorithms.pref_grpo:PrefGRPO",
    "nft": "editing.algorithms.nft:NFT",
    "raft": "editing.algorithms.weighted:RAFT",
    "rwr": "editing.algorithms.weighted:RWR",
}
"""Name -> `module:class`; the class is a pydantic model of the algorithm's settings (see `algorithm.py`)."""
