"""ascend: pictures moved along a model's gradient, to see what a head wants and how little sways it."""
