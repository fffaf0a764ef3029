"""The bundled demo: three small tasks in a made-up fragment of English, and small models pretrained on it."""
