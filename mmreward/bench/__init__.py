"""The doctor: is a reward set up right? It asks a reward, and the server behind it, questions with known answers."""
