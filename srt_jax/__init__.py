"""Language models that train themselves: sample answers, vote, reward agreement with the vote, update."""
