"""Numbers about answers: accumulators, measures with intervals, references. numpy only."""
