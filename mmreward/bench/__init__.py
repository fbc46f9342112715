"""Is a reward right? Questions with known answers, put to a reward or a server (`mmreward doctor`)."""
