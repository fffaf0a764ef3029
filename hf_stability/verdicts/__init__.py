"""What a verdict rests on, and how it is put into words."""
