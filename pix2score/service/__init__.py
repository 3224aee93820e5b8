"""The HTTP service: a model on Ray Serve, with neighbours and pictures of a scores folder, and a page."""
