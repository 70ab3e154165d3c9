"""Tasks whose answers are programs: recording what the model answers, and scoring it elsewhere."""
