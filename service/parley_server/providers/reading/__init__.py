"""Rules for reading answers that apply to every vendor."""
