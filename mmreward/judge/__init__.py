"""A vision-language model as judge: backends, ways of judging, questions. They do not know each other."""
