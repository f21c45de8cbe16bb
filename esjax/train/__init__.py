"""The training pipeline (extra `train`): what the core never imports."""
