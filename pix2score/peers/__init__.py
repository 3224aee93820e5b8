"""What else scores a folder of images with one of our models, each written as its own project documents it: for ``jobs.benchmark`` only.

Each runs as ``python -m pix2score.peers.NAME IMAGES MODEL OUT`` and writes Parquet with path, probabilities of each head and embedding.
"""
