"""What a study does with seeds, other than to run them one after the other."""
