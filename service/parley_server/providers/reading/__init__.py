"""Rules for reading answers, and for sending parts of them back, that apply to every vendor."""
