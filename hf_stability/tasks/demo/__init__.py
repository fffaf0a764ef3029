"""The bundled demo: two small tasks in a made-up fragment of English, and a small BERT that was pretrained on it."""
