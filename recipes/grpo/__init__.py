"""GRPO: draw groups of samples, grade them, train on their advantages, publish the new weights."""
