"""What else reads many objects of S3 whole into memory, each as its own project documents it.

For ``jobs.benchmark`` only. Each module has ``reader(endpoint) -> (keys -> bytes read)``, which reads
``NUM_CONCURRENT`` objects of bucket ``BUCKET`` at a time with the credentials of the environment.
"""
