"""What else scores a folder of images with one of our models, each written as its own project documents it.

For ``jobs.benchmark`` only.

Each runs as ``python -m pix2score.benchmark.peers.NAME IMAGES MODEL OUT`` and writes Parquet: path,
probabilities of each head, embedding.
"""
