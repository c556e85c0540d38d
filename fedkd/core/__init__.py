"""What every part of a run stands on: plan, sample bank, checkpointed state, device, logs."""
