"""Published judges, and what they share: words (`texts`), weights, images, grades, passes (`plain`), heads.

A judge that is a prompt and a parser is one file here. EditScore is a way of asking here, and its loader is
`mmreward.rewards.editscore`; rewards with heads (EditReward, HPSv3) and PickScore are files in `mmreward.rewards`.

A checkpoint is more than its weights: the words it was trained with, the chat template, the order and the size of the
images, and the place where the answer is read belong to it. Its scores carry its name only where all of that is as
published. Words are never copied here: they are read from the installed package or from the published file that the
user names, and compared with a digest (`texts`).
"""
