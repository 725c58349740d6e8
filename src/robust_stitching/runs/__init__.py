"""Plans carried out: each action from a plan of plain values to a folder of results."""
