"""From the vector to a business number: expected clicks or sales of every image (``jobs.kpi``)."""
