"""From a checkpoint to a policy: weights, processors, adapters, parts."""
