"""The network, its folder, and its forward passes."""
