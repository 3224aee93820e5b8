"""align: labels of several sources brought onto one scale by a frozen model."""
