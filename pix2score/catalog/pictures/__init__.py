"""A catalog made of pictures that lie somewhere: which there are, their ids, labels, changes."""
