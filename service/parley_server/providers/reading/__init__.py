"""Rules for reading answers that hold for every vendor."""
