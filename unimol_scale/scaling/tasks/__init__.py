"""From the pretraining loss to the error on a task: the second step of a prediction."""
